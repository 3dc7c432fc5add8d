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
'cassle_jax[peers]'. --profile writes a trace of three steps, for Perfetto or
xprof. `input --step_rate` holds the host's decoding against a step.

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
  flags = common.parser("step", __doc__, config=True, rounds=5)
  flags.add_argument(
    "--compare",
    nargs="+",
    action="extend",
    default=[],
    metavar="AWARENESS|FILE[:VARIANT]|torch",
    help="time these beside: another config, the first one with another"
    " awareness, or the first one's method in PyTorch",
  )
  flags.add_argument("--grid", action="store_true", help="every cell")
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
  flags.add_argument("--profile", metavar="DIR", help="write a trace here")
  values, overrides = common.parse(flags, arguments)
  if bool(values.config) == values.grid:
    raise UserError("give either --config=FILE[:VARIANT] or --grid.")
  wanted, others = "--config=FILE", ("compare", "profile")
  if not values.grid:
    wanted, others = "--grid", ("backbone", "methods", "awareness")
  for name in others:
    if getattr(values, name):
      raise UserError(f"--{name} goes with {wanted}; leave it out.")
  if values.profile:
    try:
      os.makedirs(values.profile, exist_ok=True)
    except OSError as error:
      raise cli.unwritable(
        "--profile", values.profile, error.strerror
      ) from error

  # Imported here: a wrong flag is told at once, --help needs no jax.
  from cassle_jax.runs import logs

  if values.grid:
    _grid(values, logs.say)
  else:
    _configs(values, overrides, logs.say)
  return 0


def _configs(values: argparse.Namespace, overrides, say) -> None:
  """Times --config and what it is compared with."""
  if "torch" in values.compare:
    # Half of a GPU's memory is of no use to either of two.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  import jax

  from cassle_jax.awareness import AWARENESS
  from cassle_jax.benchmark import peaks, program, step_table, torch_step

  def load(path: str = "") -> Any:
    return common.load(values, overrides, path)

  first = _label(values.config)
  configs, peer = {first: load()}, None
  for other in values.compare:
    if other == "torch":
      plain = _with_awareness(load(), "vanilla")
      peer = torch_step.check(plain)
      continue
    if other in AWARENESS:
      label, config = other, _with_awareness(load(), other)
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
  if values.profile:
    _profile(programs[first], values.profile)
    print(f"trace of three steps: {values.profile}")
  sys.stdout.flush()
  labeled = [{"label": name} | cell for name, cell in cells.items()]
  _write(values, labeled, peak=peak._asdict() if peak else None)


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
    _write(values, result, refused=refused)


def _write(values: argparse.Namespace, cells: list[dict], **more: Any) -> None:
  result = {"rounds": values.rounds, "cells": cells, "refused": []}
  common.write(values, "step", result | more)
