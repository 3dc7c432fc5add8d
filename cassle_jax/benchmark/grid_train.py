"""Trains cells of the grid and tabulates what came out.

  python -m cassle_jax.benchmark.grid_train --out=runs/grid
  python -m cassle_jax.benchmark.grid_train --out=runs/longer \\
      --methods=simclr,byol --awareness=vanilla,cassle --seeds=5

Each cell is compiled once and trained for every seed, from a config that takes
METHOD/AWARENESS as its variant (configs/grid.py). A cell's numbers go to
OUT/METHOD-AWARENESS.json as soon as it is done, and a cell that is there is not
trained again: the same command continues. OUT/grid.md has the tables: mean and
95 % interval over the seeds, and the paired difference to vanilla.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cassle_jax import errors
from cassle_jax.awareness import AWARENESS
from cassle_jax.awareness import cells as grid
from cassle_jax.benchmark import grid_tables
from cassle_jax.config import cli
from cassle_jax.methods import METHODS
from cassle_jax.runs import folder


def train_cell(config: Any, seeds: Sequence[int]) -> list[dict[str, float]]:
  """Trains one config for every seed, compiling once.

  Args:
    config: from `config.load`.
    seeds: of data order, initial values and augmentations.

  Returns:
    For each seed: k-NN accuracy at the start and the end in [0, 1], the first
    and the last ten steps' mean loss, the seconds that the steps took.

  Raises:
    UserError: the data has no labels, or a step was not finite.
  """
  import jax

  from cassle_jax import config as config_lib
  from cassle_jax.evaluation import features, online
  from cassle_jax.hosts import sharding
  from cassle_jax.training import experiment

  results, compiled = [], None
  for seed in seeds:
    config_lib.apply_override(config, f"seed={seed}")
    parts = experiment.build(config)
    watch = online.build(
      **parts.config.evaluation,
      source=parts.config.data.source,
      split=parts.config.data.split,
      image_size=parts.config.data.image_size,
      class_list=parts.config.data.class_list,
      data_dir=parts.config.data.data_dir,
    )
    if watch.labeled is None:
      raise errors.UserError(
        f"{parts.config.data.source} has no labels for the k-NN that cells are"
        " compared by; name a labeled --config.data.source, and"
        " --config.evaluation.max_images above 0."
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
        raise errors.UserError(
          f"seed {seed}: step {len(losses)} was not finite; lower"
          " --config.optim.learning_rate."
        )
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


def chosen_cells(methods: str, awareness: str) -> list[tuple[str, str]]:
  """The supported cells of these methods and awareness.

  Args:
    methods: comma-separated; "" means all.
    awareness: likewise.

  Raises:
    UserError: a name is unknown, or no cell of them is supported.
  """
  chosen = []
  for flag, text, valid in (
    ("--methods", methods, tuple(METHODS)),
    ("--awareness", awareness, tuple(AWARENESS)),
  ):
    chosen.append([name for name in text.split(",") if name] or valid)
    for name in chosen[-1]:
      if name not in valid:
        raise errors.unknown(flag, name, valid)
  cells = [
    cell
    for cell in grid.supported()
    if cell[0] in chosen[0] and cell[1] in chosen[1]
  ]
  if not cells:
    grid.check(chosen[0][0], chosen[1][0])
  return cells


def shared_cells(cells: Sequence[Any], share: str) -> Sequence[Any]:
  """Every N-th of the cells, from the I-th.

  Args:
    cells: all.
    share: "I/N".

  Raises:
    UserError: it is no such pair, or I is not from 1 to N.
  """
  try:
    first, count = map(int, share.split("/"))
    if 1 <= first <= count:
      return cells[first - 1 :: count]
  except ValueError:
    pass
  raise errors.UserError(
    f"--share={share} must be I/N with I from 1 to N, e.g. 1/2."
  )


def check_same(path: str, settings: Mapping[str, Any]) -> None:
  """Raises UserError where a cell was trained with other settings."""
  with open(path) as file:
    record = json.load(file)
  held = {key: record.get(key) for key in settings}
  differing = folder.differences(held, settings)
  if differing:
    raise errors.UserError(
      f"{path} was trained with other settings: {'; '.join(differing)}. Give"
      " the same flags, another --out, or delete that file."
    )


def main(arguments: Sequence[str]) -> int:
  """Trains what is missing in the folder and writes its table."""
  flags = cli.parser("cassle_jax.benchmark.grid_train", __doc__)
  flags.add_argument("--out", required=True, help="folder of the results")
  flags.add_argument(
    "--config",
    default="configs/grid.py",
    metavar="FILE",
    help="takes METHOD/AWARENESS as its variant (configs/grid.py, in a clone)",
  )
  flags.add_argument(
    "--methods", default="", help="comma-separated (every method)"
  )
  flags.add_argument(
    "--awareness", default="", help="comma-separated (every awareness)"
  )
  flags.add_argument(
    "--seeds", type=int, default=3, help="how many, from --config.seed on (3)"
  )
  flags.add_argument(
    "--share",
    default="1/1",
    metavar="I/N",
    help="every N-th of the cells, from the I-th, for several processes that"
    " write one table (1/1)",
  )
  values, overrides = cli.parse(flags, arguments)
  if values.seeds < 1:
    raise errors.UserError(f"--seeds={values.seeds} must be at least 1.")
  cells = shared_cells(
    chosen_cells(values.methods, values.awareness), values.share
  )

  from cassle_jax import config as config_lib
  from cassle_jax.runs import logs

  def path_of(cell: tuple[str, str]) -> str:
    return os.path.join(values.out, "-".join(cell) + ".json")

  def config_of(cell: tuple[str, str]) -> tuple[Any, dict[str, Any]]:
    config = config_lib.load(f"{values.config}:{'/'.join(cell)}", overrides)
    settings = {"seeds": values.seeds, "config": config_lib.to_dict(config)}
    return config, settings

  try:
    os.makedirs(values.out, exist_ok=True)
  except OSError as error:
    raise errors.UserError(
      f"--out={values.out} cannot be made ({error.strerror}); name a folder."
    ) from error
  # Before hours are spent: one table has one set of settings.
  for cell in grid.supported():
    if os.path.exists(path_of(cell)):
      check_same(path_of(cell), config_of(cell)[1])
  for number, cell in enumerate(cells, 1):
    if os.path.exists(path_of(cell)):
      continue
    config, settings = config_of(cell)
    began = time.time()
    seeds = range(config.seed, config.seed + values.seeds)
    results = train_cell(config, seeds)
    record = {"method": cell[0], "awareness": cell[1], "results": results}
    logs.atomic_write_json(path_of(cell), record | settings | logs.stamp())
    shown = grid_tables.show([100 * r["knn"] for r in results], 1)
    logs.say(
      f"{number}/{len(cells)} {' + '.join(cell)}: k-NN {shown} %,"
      f" {time.time() - began:.0f} s"
    )
  done = {}
  for cell in grid.supported():
    if os.path.exists(path_of(cell)):
      with open(path_of(cell)) as file:
        done[cell] = json.load(file)["results"]
  if done:  # A share may be empty.
    text = grid_tables.page(done)
    logs.atomic_write_text(os.path.join(values.out, "grid.md"), text)
    print(text, end="")
  return 0


if __name__ == "__main__":
  cli.run(main)
