"""Trains cells of the grid and tabulates what came out.

  python -m cassle_jax.grid_train --out=runs/grid
  python -m cassle_jax.grid_train --out=runs/grid --methods=simclr,byol \\
      --awareness=vanilla,cassle --seeds=5 --config.epochs=24

Each cell is compiled once and trained for every seed, from a config that takes
METHOD/AWARENESS as its variant (configs/grid.py). A cell's numbers go to
OUT/METHOD-AWARENESS.json as soon as it is done, and a cell that is there is not
trained again: the same command continues. OUT/grid.md has the tables: mean and
95 % interval over the seeds, and the paired difference to vanilla.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cassle_jax import cli, errors, grid
from cassle_jax.awareness import AWARENESS

# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(values: Sequence[float]) -> tuple[float, float]:
  """Mean and half of its 95 % interval; the half is nan for one value."""
  mean = float(np.mean(values))
  if len(values) < 2:
    return mean, math.nan
  quantile = _QUANTILES[min(len(values) - 1, len(_QUANTILES)) - 1]
  return mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def train_cell(config: Any, seeds: Sequence[int]) -> list[dict[str, float]]:
  """Trains one config for every seed, compiling once.

  Args:
    config: from `config.load`.
    seeds: of data order, initial values and augmentations.

  Returns:
    For each seed: k-NN accuracy at the start and the end in [0, 1], the first
    and the last ten steps' mean loss, the seconds that the steps took.
  """
  import jax

  from cassle_jax import config as config_lib
  from cassle_jax import experiment, sharding
  from cassle_jax.evaluation import features, online

  results, compiled = [], None
  for seed in seeds:
    config_lib.apply_override(config, f"seed={seed}")
    parts = experiment.build(config)
    watch = online.build(
      **parts.config.evaluation,
      source=parts.config.data.source,
      split=parts.config.data.split,
      image_size=parts.config.data.image_size,
    )
    state = parts.make_state()
    store = parts.pipeline.resident
    if store is not None:
      store = jax.device_put(store, sharding.replicated(parts.mesh))
    batches = parts.pipeline.batches(0)
    key = experiment.step_key(parts)
    if compiled is None:
      extract = features.extractor(
        backbone=parts.networks.backbone,
        mean=parts.policies[0].mean,
        std=parts.policies[0].std,
        mesh=parts.mesh,
        descriptor=parts.awareness.evaluated,
      )

    def knn(state, watch=watch, extract=extract):
      variables = {
        "params": state.params["backbone"],
        "batch_stats": state.batch_stats["backbone"],
      }
      return online.evaluate(watch, extract, variables)["knn_top1"]

    result = {"seed": seed, "knn_random_init": knn(state)}
    losses, began = [], None
    for _ in range(parts.total_steps):
      batch = sharding.put_batch(next(batches), parts.mesh)
      if compiled is None:
        step = experiment.compile_step(parts, state)
        compiled = step.lower(state, batch, store, key).compile()
      began = began or time.time()
      state, metrics = compiled(state, batch, store, key)
      losses.append(float(metrics["loss"]))
      if not float(metrics["finite"]):
        raise errors.UserError(f"seed {seed}: step {len(losses)} diverged.")
    result |= {
      "seconds": time.time() - began,
      "knn": knn(state),
      "loss_first": float(np.mean(losses[:10])),
      "loss": float(np.mean(losses[-10:])),
      "steps": len(losses),
    }
    parts.pipeline.close()
    results.append(result)
  return results


def matrix(
  cells: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
) -> str:
  """The Markdown grid of k-NN accuracies, one row a method.

  Args:
    cells: (method, awareness) -> results of `train_cell`.
  """
  rows = list(dict.fromkeys(method for method, _ in cells))
  columns = [
    name for name in AWARENESS if any((row, name) in cells for row in rows)
  ]
  lines = [
    "| k-NN % | " + " | ".join(columns) + " |",
    "|---" * (len(columns) + 1) + "|",
  ]
  for row in rows:
    values = [
      [100 * result["knn"] for result in cells.get((row, name), ())]
      for name in columns
    ]
    shown = " | ".join(_cell(value, 1) for value in values)
    lines.append(f"| {row} | {shown} |")
  return "\n".join(lines) + "\n"


def table(cells: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> str:
  """The Markdown table of trained cells.

  Args:
    cells: (method, awareness) -> results of `train_cell`.
  """
  lines = [
    "| method | awareness | k-NN % | over vanilla | loss | seconds |",
    "|---|---|---|---|---|---|",
  ]
  for (method, awareness), results in cells.items():
    knn = [100 * result["knn"] for result in results]
    before = cells.get((method, "vanilla"))
    gain = ""
    if awareness != "vanilla" and before is not None:
      base = {r["seed"]: 100 * r["knn"] for r in before}
      shared = [(r, base[r["seed"]]) for r in results if r["seed"] in base]
      gain = _cell([100 * r["knn"] - b for r, b in shared], 1, "+")
    lines.append(
      f"| {method} | {awareness} | {_cell(knn, 1)} | {gain} |"
      f" {_cell([r['loss'] for r in results], 3)} |"
      f" {np.mean([r['seconds'] for r in results]):.0f} |"
    )
  return "\n".join(lines) + "\n"


def _cell(values: Sequence[float], digits: int, sign: str = "") -> str:
  if not values:
    return ""
  mean, half = interval(values)
  text = f"{mean:{sign}.{digits}f}"
  return text if math.isnan(half) else f"{text} ± {half:.{digits}f}"


def check_same(path: str, settings: Mapping[str, Any]) -> None:
  """Raises UserError where a cell was trained with other settings."""
  with open(path) as file:
    record = json.load(file)
  for key, value in settings.items():
    if record.get(key) != value:
      raise errors.UserError(
        f"{path} was trained with another {key}; give the same flags, another"
        " --out, or delete that file."
      )


def main(arguments: Sequence[str]) -> int:
  """Trains what is missing in the folder and writes its table."""
  flags = cli.parser("cassle_jax.grid_train", __doc__)
  flags.add_argument("--out", required=True, help="folder of the results")
  flags.add_argument(
    "--config", default="configs/grid.py", help="configs/grid.py"
  )
  flags.add_argument("--methods", default="", help="comma-separated; all")
  flags.add_argument("--awareness", default="", help="comma-separated; all")
  flags.add_argument("--seeds", type=int, default=3, help="how many (3)")
  flags.add_argument(
    "--share", default="1/1", help="I/N: every N-th of the cells, from the I-th"
  )
  values, overrides = cli.parse(flags, arguments)
  if values.seeds < 1:
    raise errors.UserError("--seeds must be at least 1.")
  try:
    share, of = map(int, values.share.split("/"))
    valid_share = 1 <= share <= of
  except ValueError:
    valid_share = False
  if not valid_share:
    raise errors.UserError(
      f"--share={values.share} must be I/N with I from 1 to N, e.g. 1/2."
    )
  chosen = {}
  for flag, column in (("methods", 0), ("awareness", 1)):
    valid = list(dict.fromkeys(cell[column] for cell in grid.supported()))
    chosen[flag] = [n for n in getattr(values, flag).split(",") if n] or valid
    for name in chosen[flag]:
      if name not in valid:
        raise errors.unknown(f"--{flag}", name, valid)
  cells = [
    cell
    for cell in grid.supported()
    if cell[0] in chosen["methods"] and cell[1] in chosen["awareness"]
  ]
  if not cells:
    grid.check(chosen["methods"][0], chosen["awareness"][0])
  cells = cells[share - 1 :: of]

  from cassle_jax import config as config_lib
  from cassle_jax import logs

  os.makedirs(values.out, exist_ok=True)
  for number, cell in enumerate(cells, 1):
    path = os.path.join(values.out, "-".join(cell) + ".json")
    config = config_lib.load(f"{values.config}:{'/'.join(cell)}", overrides)
    settings = {"seeds": values.seeds, "config": config_lib.to_dict(config)}
    if os.path.exists(path):
      check_same(path, settings)
      continue
    began = time.time()
    results = train_cell(config, range(values.seeds))
    record = {"method": cell[0], "awareness": cell[1], "results": results}
    logs.atomic_write_json(path, record | settings | logs.stamp())
    shown = _cell([100 * r["knn"] for r in results], 1)
    logs.say(
      f"{number}/{len(cells)} {' + '.join(cell)}: k-NN {shown} %,"
      f" {time.time() - began:.0f} s"
    )
  done = {}
  for cell in grid.supported():
    path = os.path.join(values.out, "-".join(cell) + ".json")
    if os.path.exists(path):
      with open(path) as file:
        done[cell] = json.load(file)["results"]
  before = [
    100 * result["knn_random_init"] for rows in done.values() for result in rows
  ]
  text = (
    f"{matrix(done)}\nRandom init: {np.mean(before):.1f} %, the mean over all"
    f" runs.\n\n{table(done)}"
  )
  logs.atomic_write_text(os.path.join(values.out, "grid.md"), text)
  print(text, end="")
  return 0


if __name__ == "__main__":
  cli.run(main)
