"""The grid, method x awareness: its cells, and tables of those trained.

  python -m cassle_jax.benchmark grid               every cell, one a line
  python -m cassle_jax.benchmark grid runs/grid     tables of the runs in there
  bash launch/grid.sh                               trains them all, in a clone

A cell is METHOD/AWARENESS, the variant of configs/grid.py. Tables hold the
k-NN accuracy of each cell as mean and 95 % interval over seeds, its paired
difference to vanilla, the last loss and the seconds that the steps took.
--methods and --awareness choose cells; vanilla is always beside them.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from cassle_jax import config as config_lib
from cassle_jax import models
from cassle_jax.awareness import AWARENESS, cells
from cassle_jax.benchmark import common
from cassle_jax.config import cli
from cassle_jax.errors import UserError, unknown
from cassle_jax.evaluation import confidence
from cassle_jax.methods import METHODS
from cassle_jax.report import runs, words
from cassle_jax.runs import folder, logs

# What the runs of one table may differ in, and those of one cell.
_OWN = ("seed", "method", "awareness", "augment", "model")
_SEED = ("seed",)

# (method, awareness) -> seed -> its run, in the grid's order.
Cells = Mapping[tuple[str, str], Mapping[int, runs.Run]]


def main(arguments: Sequence[str]) -> int:
  """Lists cells, or prints the tables of a folder of runs."""
  flags = cli.parser("cassle_jax.benchmark grid", __doc__)
  flags.add_argument("folder", nargs="?", help="of runs, to be tabulated")
  common.add_cells(flags)
  values, _ = cli.parse(flags, arguments)
  wanted = [
    (method, awareness)
    for method, names in chosen(values.methods, values.awareness).items()
    for awareness in names
  ]
  if values.folder is None:
    print("\n".join(map("/".join, wanted)))
  else:
    print(page(read(values.folder, wanted)), end="")
  return 0


def chosen(methods: str, awareness: str) -> dict[str, list[str]]:
  """Method -> the awarenesses that it goes with, "vanilla" first.

  Args:
    methods: comma-separated keys of `METHODS`; "" = all.
    awareness: likewise of `AWARENESS`; "" = all that go with the method.

  Raises:
    UserError: an unknown name, or an awareness that goes with none of the
      methods; others leave out the cells that the grid refuses.
  """
  names = []
  for flag, text, valid in (
    ("methods", methods, METHODS),
    ("awareness", awareness, AWARENESS),
  ):
    names.append([word for word in text.split(",") if word])
    for word in names[-1]:
      if word not in valid:
        raise unknown(f"name in --{flag}", word, valid)
  result = {method: ["vanilla"] for method in names[0] or METHODS}
  for name in names[1] or AWARENESS:
    fitting = [m for m in result if cells.reason(m, name) is None]
    if names[1] and not fitting:
      cells.check(next(iter(result)), name)
    for method in fitting:
      if name not in result[method]:
        result[method].append(name)
  return result


def config(
  method: str,
  awareness: str,
  *,
  backbone: str | None = None,
  image_size: int = 32,
  batch: int = 64,
) -> ConfigDict:
  """The config of a cell whose step is to be timed; see `step --grid`.

  All cells of a method differ in their awareness alone; LooC's also rotates, as
  it has to. The small network is the quick start's, with heads and memories of
  `:tiny`. What an awareness adds weighs more on it than on a large one: a
  backbone that is named comes with the methods' own heads and memories.

  Args:
    method: a key of `METHODS`.
    awareness: a key of `AWARENESS`.
    backbone: a name of `models.BACKBONES`; None = the small one.
    image_size: side of the global views in px.
    batch: images in a step.

  Raises:
    UserError: there is no such backbone.
  """
  if backbone is not None and backbone not in models.BACKBONES:
    raise unknown("--backbone", backbone, models.BACKBONES)
  result = config_lib.default()
  result.data.source = "npy:synthetic"
  result.data.image_size = image_size
  result.batch_size = batch
  result.steps = 1000
  result.augment.preset = METHODS[method].preset
  result.awareness.name = awareness
  result.method.name = method
  result.model.backbone = backbone or "conv3"
  if backbone is None:
    result.model.norm = "group"
    config_lib.put(result, METHODS[method].tiny)
  config_lib.put(result, AWARENESS[awareness].cell)
  if image_size <= 64 and result.model.backbone.startswith("resnet"):
    result.model.stem = "small"
  return result


def read(path: str, wanted: Sequence[tuple[str, str]]) -> Cells:
  """The finished runs of a folder, by cell and seed.

  Args:
    path: a folder of runs.
    wanted: (method, awareness) of the cells to read, in the order to show.

  Raises:
    UserError: there is none, or two that do not belong in one table.
  """
  found = {cell: {} for cell in wanted}
  for place in runs.find([path]):
    run = runs.read(place, logs.say)
    if run is None or (run.method, run.awareness) not in found:
      continue
    if run.summary.get("knn_top1") is None:
      logs.say(f"{place} is left out: no summary.json with a k-NN accuracy")
      continue
    cell = found[run.method, run.awareness]
    if run.seed in cell:
      raise UserError(
        f"{place} and {cell[run.seed].folder} are one cell and seed; move one"
        " of them elsewhere."
      )
    first = next((r for held in found.values() for r in held.values()), run)
    for other, free in ((next(iter(cell.values()), run), _SEED), (first, _OWN)):
      differing = folder.differences(other.settings, run.settings, free=free)
      if differing:
        raise UserError(
          f"{place} was trained with other settings than {other.folder}:"
          f" {'; '.join(differing)}. Move one of them elsewhere."
        )
    cell[run.seed] = run
  found = {cell: held for cell, held in found.items() if held}
  if not found:
    raise UserError(
      f"{path} holds no finished run of the cells that are asked for; train"
      " them by bash launch/grid.sh."
    )
  return found


def page(found: Cells) -> str:
  """The tables in Markdown.

  Args:
    found: from `read`.
  """
  columns = [
    name for name in AWARENESS if any(aware == name for _, aware in found)
  ]
  lines = [
    "| k-NN % | " + " | ".join(columns) + " |",
    "|---" * (len(columns) + 1) + "|",
  ]
  for method in dict.fromkeys(method for method, _ in found):
    shown = [_mean(_knn(found, method, name).values(), 1) for name in columns]
    lines.append(f"| {method} | " + " | ".join(shown) + " |")
  before = [
    100 * run.summary["knn_top1_random_init"]
    for held in found.values()
    for run in held.values()
    if run.summary.get("knn_top1_random_init") is not None
  ]
  lines += [
    "",
    f"Random init: {np.mean(before):.1f} %, the mean over all runs.",
    "",
    "| method | awareness | k-NN % | over vanilla | loss | seconds |",
    "|---|---|---|---|---|---|",
  ]
  for (method, name), held in found.items():
    knn, base = _knn(found, method, name), _knn(found, method, "vanilla")
    over = ""
    if name != "vanilla" and base:
      over = words.spread(confidence.difference(knn, base), 1, "+")
    loss = _mean([run.summary["loss"] for run in held.values()], 3)
    seconds = np.mean([_seconds(run) for run in held.values()])
    lines.append(
      f"| {method} | {name} | {_mean(knn.values(), 1)} | {over} | {loss} |"
      f" {seconds:.0f} |"
    )
  return "\n".join(lines) + "\n"


def _knn(found: Cells, method: str, awareness: str) -> dict[int, float]:
  """Seed -> k-NN accuracy of a cell, in percent."""
  held = found.get((method, awareness), {})
  return {seed: 100 * run.summary["knn_top1"] for seed, run in held.items()}


def _seconds(run: runs.Run) -> float:
  """What the steps took, with their data and the Python between them."""
  spent = run.spent["seconds"] if run.spent else {}
  return sum(spent.get(phase, 0.0) for phase in ("step", "data", "other"))


def _mean(values: Iterable[float], digits: int) -> str:
  return words.spread(confidence.interval(list(values)), digits)
