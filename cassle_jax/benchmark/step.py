"""How long a training step takes, how much memory it needs, and what it does.

  python -m cassle_jax.benchmark step --config=configs/quickstart.py:vanilla \\
      --compare cassle augself
  python -m cassle_jax.benchmark step --batch=8 --json=step.json \\
      --config=configs/mocov2_resnet50.py --compare configs/mocov3_resnet50.py
  python -m cassle_jax.benchmark step --grid
  python -m cassle_jax.benchmark step --grid --backbone=resnet50 --batch=8 \\
      --image_size=224 --methods=simclr --awareness=vanilla,cassle

A step is the trainer's own program on synthetic images: augmentation, both
encoders, loss, optimiser, target. Programs take turns, one step each a round.
Times are those of the best round, CPU time over all threads and wall time.
Ratios of times are medians of the ratios within the rounds, "+-" half of an
interval of about 95 %: more --rounds make it narrow. To see what that is worth,
--compare a config with itself.

Memory is what XLA reserves on each device, parameters and optimiser included.
FLOPs are those of the program as it is written, loops counted once. "not known"
stands where the backend does not tell.

--grid measures every supported cell of method x awareness on the quick start's
small network, relative to the same method's vanilla cell; half a minute or so
a cell, most of it compilation. What an awareness adds weighs more on a network
so small than on a large one: --backbone takes one, with full-size heads.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from cassle_jax import cli
from cassle_jax.benchmark import common
from cassle_jax.errors import UserError

UNKNOWN = "not known"


def main(arguments: Sequence[str]) -> int:
  """Times the steps of configs, or of the grid; prints a table."""
  flags = cli.parser("cassle_jax.benchmark step", __doc__)
  cli.add_config(flags, required=False)
  flags.add_argument(
    "--compare",
    nargs="+",
    action="extend",
    metavar="AWARENESS|FILE[:VARIANT]",
    help="time these beside: another config, or the first one with another"
    " awareness",
  )
  flags.add_argument("--grid", action="store_true", help="every cell")
  flags.add_argument("--json", metavar="FILE", help="write the numbers here")
  flags.add_argument("--rounds", type=int, default=5, help="5")
  flags.add_argument(
    "--batch", type=int, help="images in a step; the config's, 64 in the grid"
  )
  flags.add_argument(
    "--image_size", type=int, help="of the views; the config's, 32 in the grid"
  )
  flags.add_argument("--backbone", help="of the grid, at its full size")
  flags.add_argument("--methods", help="of the grid, e.g. simclr,byol; all")
  flags.add_argument(
    "--awareness", help="of the grid, e.g. cassle,augself; all"
  )
  values, overrides = cli.parse(flags, arguments)
  _check(values, overrides)

  # Imported here: a wrong flag is told at once, --help needs no jax.
  from cassle_jax import logs

  if values.grid:
    _grid(values, logs.say)
  else:
    _configs(values, overrides, logs.say)
  return 0


def _check(values: argparse.Namespace, overrides: Sequence[str]) -> None:
  """Raises UserError for flags that do not go together."""
  common.check_counts(
    rounds=values.rounds, batch=values.batch, image_size=values.image_size
  )
  if bool(values.config) == values.grid:
    raise UserError("give either --config=FILE[:VARIANT] or --grid.")
  given = {"compare": values.compare, "config.KEY=VALUE": overrides}
  wanted = "--config=FILE"
  if not values.grid:
    names = ("backbone", "methods", "awareness")
    given = {name: getattr(values, name) for name in names}
    wanted = "--grid"
  for name, value in given.items():
    if value:
      raise UserError(f"--{name} goes with {wanted}; leave it out.")
  if values.json is not None:
    cli.check_output("--json", values.json)


def _configs(values: argparse.Namespace, overrides, say) -> None:
  """Times --config and what it is compared with."""
  from cassle_jax import config as config_lib
  from cassle_jax.awareness import AWARENESS
  from cassle_jax.benchmark import program

  def load(path: str):
    config = config_lib.load(path, overrides)
    config.batch_size = values.batch or config.batch_size
    config.data.image_size = values.image_size or config.data.image_size
    return config

  configs = {_label(values.config): load(values.config)}
  for other in values.compare or ():
    if other in AWARENESS:
      label, config = other, _with_awareness(load(values.config), other)
    else:
      label, config = _label(other), load(other)
    copies = sum(known.split(" #")[0] == label for known in configs)
    configs[f"{label} #{copies + 1}" if copies else label] = config
  # All of them, before minutes go into compiling the first.
  for config in configs.values():
    program.build(config)
  programs = {}
  for label, config in configs.items():
    say(f"compiling {label} ...")
    programs[label] = program.prepare(config)
  cells = program.measure(programs, values.rounds, say)
  print(_heading(cells, values.rounds), flush=True)
  print(_table(cells), flush=True)
  _write(values, [{"label": name} | cell for name, cell in cells.items()])


def _with_awareness(config: Any, name: str) -> Any:
  """The config with another awareness at that one's own defaults."""
  from cassle_jax import config as config_lib

  usual = config_lib.default()
  config.awareness = usual.awareness
  config.awareness.name = name
  # What only goes with one awareness or conditioning.
  keys = ("conditioning", "amortised_rank", "prompt_mlps", "hypernetwork_norm")
  with config.model.ignore_type():
    for key in keys:
      config.model[key] = usual.model[key]
  return config


def _label(path: str) -> str:
  return os.path.basename(path).replace(".py", "")


def _grid(values: argparse.Namespace, say) -> None:
  """Times the cells of the grid, method by method."""
  from cassle_jax.benchmark import cells as cells_lib
  from cassle_jax.benchmark import program

  def names(text: str | None) -> list[str]:
    return [word for word in (text or "").split(",") if word]

  chosen = cells_lib.chosen(names(values.methods), names(values.awareness))
  options = dict(
    backbone=values.backbone,
    image_size=values.image_size or 32,
    batch=values.batch or 64,
  )
  total, done, result, refused = sum(map(len, chosen.values())), 0, [], []
  for method, awarenesses in chosen.items():
    programs = {}
    for awareness in awarenesses:
      done += 1
      say(f"cell {done} of {total}: compiling {method} {awareness} ...")
      try:
        config = cells_lib.config(method, awareness, **options)
        programs[awareness] = program.prepare(config)
      except UserError as error:
        # A backbone that AI, say, cannot use; without vanilla nothing can.
        if awareness == "vanilla":
          raise
        say(f"{method} {awareness}: {error}")
        refused.append(
          {"method": method, "awareness": awareness, "reason": str(error)}
        )
    say(f"timing {len(programs)} cells of {method} ...")
    measured = program.measure(programs, values.rounds)
    if not result:
      print(_heading(measured, values.rounds), flush=True)
    named = {f"{method} {n}": cell for n, cell in measured.items()}
    print(_table(named), flush=True)
    result += measured.values()
    # After each method: the whole grid takes long.
    _write(values, result, refused)


def _write(
  values: argparse.Namespace, cells: list[dict], refused: Sequence[dict] = ()
) -> None:
  """Writes the numbers to the file of --json, if there is one."""
  if values.json:
    result = {
      "command": "step",
      "rounds": values.rounds,
      "cells": cells,
      "refused": list(refused),
    }
    common.write(values.json, result | common.machine())


def _heading(cells: dict[str, dict], rounds: int) -> str:
  """One line on what was timed on what; "/" between values that differ."""

  def of(figure: str) -> str:
    values = dict.fromkeys(str(cell[figure]) for cell in cells.values())
    return "/".join(values)

  on = common.machine()
  return (
    f"{of('backbone')}, {of('image_size')} px, {of('precision')},"
    f" {of('batch')} images a step, {rounds} rounds; {on['devices']} x"
    f" {on['device']} ({on['processor']}, {on['cores']} cores)"
  )


# Column -> (figure, divisor, digits).
_COLUMNS = {
  "CPU ms": ("cpu_ms", 1, 1),
  "wall ms": ("wall_ms", 1, 1),
  "images/s": ("images_per_second", 1, 1),
  "MiB": ("peak_bytes", 2**20, 1),
  "GFLOP": ("flops", 1e9, 2),
  "params M": ("parameters", 1e6, 2),
  "compile s": ("compile_seconds", 1, 1),
}


def _table(cells: dict[str, dict[str, Any]]) -> str:
  """Figures of every program, then what each costs relative to the first."""
  width = max(map(len, cells)) + 2
  lines = ["", " " * width + "".join(f"{name:>11}" for name in _COLUMNS)]
  for name, cell in cells.items():
    row = f"{name:<{width}}"
    for figure, divisor, digits in _COLUMNS.values():
      value = cell[figure]
      shown = UNKNOWN if value is None else f"{value / divisor:,.{digits}f}"
      row += f"{shown:>11}"
    lines.append(row)
  first, *others = cells
  if others:
    lines.append(f"relative to {first}:")
  for name in others:
    ratio = cells[name]["ratio"]
    shown = [f"{title} {_ratio(ratio[key])}" for title, key in _RATIOS.items()]
    lines.append(f"{name:<{width}}  {'  '.join(shown)}")
  return "\n".join(lines)


_RATIOS = {
  "CPU": "cpu_ms",
  "wall": "wall_ms",
  "memory": "peak_bytes",
  "FLOPs": "flops",
  "params": "parameters",
}


def _ratio(value: dict[str, float | None] | float | None) -> str:
  if value is None:
    return UNKNOWN
  if not isinstance(value, dict):
    return f"{value:.4f}"
  margin = "" if value["margin"] is None else f" +- {value['margin']:.3f}"
  return f"{value['value']:.3f}{margin}"
