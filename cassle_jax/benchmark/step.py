"""How long a training step takes, how much memory it needs, and what it does.

  python -m cassle_jax.benchmark step --config=configs/quickstart.py:vanilla \\
      --compare cassle augself
  python -m cassle_jax.benchmark step --batch=8 --json=step.json \\
      --config=configs/mocov2_resnet50.py --compare configs/mocov3_resnet50.py
  python -m cassle_jax.benchmark step --compare torch --batch=8 \\
      --config=configs/simclr_resnet50.py:vanilla --config.precision=float32
  python -m cassle_jax.benchmark step --grid
  python -m cassle_jax.benchmark step --grid --backbone=resnet50 --batch=8 \\
      --image_size=224 --methods=simclr --awareness=vanilla,cassle

A step is the trainer's own program on synthetic images: augmentation, both
encoders, loss, optimiser, target. Programs take turns, one step each a round.
Times are those of the best round, CPU time over all threads and wall time.
Ratios of times are medians of the ratios within the rounds, "+-" half of an
interval of about 95 %: more --rounds make it narrow. To see what that is worth,
--compare a config with itself.

Stages are differences of programs that stop earlier, "+-" as above; --no-stages
leaves them out, which compiles three programs less. The share of the peak
counts the model's operations, those of the step less the augmentation's, held
against the published bfloat16 peak of an accelerator, or on CPUs against a
large product measured here, by CPU time. Compile times are without and with the
program in a compilation cache.

--compare torch times a plain PyTorch step of the same method beside (SimCLR,
MoCo-v2 and MoCo-v3, vanilla, augmented by kornia inside the step): pip install
'cassle_jax[peers]'. --source decodes a data set on the host, to hold against
the step. --profile writes a trace of three steps, for Perfetto or xprof.

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
import sys
from collections.abc import Sequence
from typing import Any

from cassle_jax.benchmark import common
from cassle_jax.config import cli
from cassle_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
  """Times the steps of configs, or of the grid; prints a table."""
  flags = cli.parser("cassle_jax.benchmark step", __doc__)
  cli.add_config(flags, required=False)
  flags.add_argument(
    "--compare",
    nargs="+",
    action="extend",
    metavar="AWARENESS|FILE[:VARIANT]|torch",
    help="time these beside: another config, the first one with another"
    " awareness, or the first one's method in PyTorch",
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
  common.add_cells(flags)
  flags.add_argument(
    "--stages",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="of the first config",
  )
  flags.add_argument(
    "--source", help="decode this, e.g. folder:/data/imagenet, and compare"
  )
  flags.add_argument("--profile", metavar="DIR", help="write a trace here")
  values, overrides = cli.parse(flags, arguments)
  _check(values, overrides)

  # Imported here: a wrong flag is told at once, --help needs no jax.
  from cassle_jax.runs import logs

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
  else:
    given |= {"source": values.source, "profile": values.profile}
  for name, value in given.items():
    if value:
      raise UserError(f"--{name} goes with {wanted}; leave it out.")
  if values.json is not None:
    cli.check_output("--json", values.json)
  if values.profile:
    _check_folder("--profile", values.profile)


def _check_folder(flag: str, path: str) -> None:
  """Raises UserError where no folder can be made or written to."""
  there = os.path.abspath(path)
  while not os.path.lexists(there):
    there = os.path.dirname(there)
  if os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK):
    return
  reason = "is write-protected" if os.path.isdir(there) else "is not a folder"
  raise UserError(
    f"{flag}={path}: {there} {reason}; name a folder that you can write to."
  )


def _configs(values: argparse.Namespace, overrides, say) -> None:
  """Times --config and what it is compared with."""
  if "torch" in (values.compare or ()):
    # Half of a GPU's memory is of no use to either of two.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  import jax

  from cassle_jax import config as config_lib
  from cassle_jax import data
  from cassle_jax.awareness import AWARENESS
  from cassle_jax.benchmark import peaks, program, step_table, torch_step

  def load(path: str):
    config = config_lib.load(path, overrides)
    config.batch_size = values.batch or config.batch_size
    config.data.image_size = values.image_size or config.data.image_size
    return config

  first = _label(values.config)
  configs, peer = {first: load(values.config)}, None
  for other in values.compare or ():
    if other == "torch":
      plain = _with_awareness(load(values.config), "vanilla")
      peer = torch_step.check(plain)
      continue
    if other in AWARENESS:
      label, config = other, _with_awareness(load(values.config), other)
    else:
      label, config = _label(other), load(other)
    copies = sum(known.split(" #")[0] == label for known in configs)
    configs[f"{label} #{copies + 1}" if copies else label] = config
  # All of them, before minutes go into compiling the first.
  for config in configs.values():
    program.build(config)
  if values.source:
    data.open_source(values.source)
  programs = {}
  for label, config in configs.items():
    say(f"compiling {label} ...")
    programs[label] = program.prepare(
      config, stages=values.stages and label == first, cached=True
    )
  if peer:
    say("preparing torch ...")
    programs["torch"] = peer()
  peak = peaks.of(jax.devices())
  cells = program.measure(programs, values.rounds, say, peak=peak)
  print(step_table.heading(cells, values.rounds), flush=True)
  print(step_table.table(cells))
  if peak:
    tera = peak.flops_per_second / 1e12
    print(f"peak: {tera:,.3g} TFLOP/s ({peak.source})")
  if cells[first]["stages"]:
    clock = "CPU" if jax.default_backend() == "cpu" else "wall"
    print(step_table.stages(first, cells[first], clock))
  more = {"peak": peak._asdict() if peak else None}
  if values.source:
    say(f"decoding {values.source} ...")
    more["input"] = _decode(values.source, configs[first], cells[first])
  if values.profile:
    _profile(programs[first], values.profile)
    print(f"trace of three steps: {values.profile}")
  sys.stdout.flush()
  _write(values, [{"label": name} | cell for name, cell in cells.items()], more)


def _decode(source: str, config: Any, cell: dict[str, Any]) -> dict[str, Any]:
  """Decodes a source as a run would, beside the step that would eat it."""
  from cassle_jax.benchmark import decoding

  result = decoding.rate(
    source,
    image_size=config.data.image_size,
    canvas_size=common.canvas_of(config),
    batch=config.batch_size,
    threads=config.data.threads,
    workers=config.data.workers,
  )
  result["source"] = source
  print("\n" + decoding.against_step(result, cell["images_per_second"]))
  return result


def _profile(program: Any, folder: str) -> None:
  """Writes a trace of three steps."""
  import jax

  with jax.profiler.trace(folder):
    for number in range(3):
      with jax.profiler.StepTraceAnnotation("step", step_num=number):
        program.step()


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
  from cassle_jax.benchmark import grid, program, step_table

  chosen = grid.chosen(values.methods, values.awareness)
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
        config = grid.config(method, awareness, **options)
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
      print(step_table.heading(measured, values.rounds), flush=True)
    named = {f"{method} {n}": cell for n, cell in measured.items()}
    print(step_table.table(named), flush=True)
    result += measured.values()
    # After each method: the whole grid takes long.
    _write(values, result, {"refused": refused})


def _write(
  values: argparse.Namespace, cells: list[dict], more: dict[str, Any]
) -> None:
  """Writes the numbers to the file of --json, if there is one."""
  if values.json:
    result = {
      "command": "step",
      "rounds": values.rounds,
      "cells": cells,
      "refused": [],
    }
    common.write(values.json, result | more | common.machine())
