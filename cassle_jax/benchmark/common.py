"""What the benchmarks share: a fair clock, synthetic images, the report."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cassle_jax import errors
from cassle_jax.config import cli


class Cost(NamedTuple):
  """Milliseconds per item: of CPU time over all threads, and of wall time."""

  cpu: float
  wall: float


def clock(
  calls: dict[str, Callable[[], Any]],
  rounds: int,
  report: Callable[[str], None] = lambda text: None,
) -> dict[str, list[Cost]]:
  """Times calls side by side: each once a round, so that all share the weather.

  Args:
    calls: name -> function that returns when its work is done; called once
      before the clock starts.
    rounds: how often each is timed.
    report: is told what goes on, a line a round.

  Returns:
    name -> the cost of its call in every round.
  """
  report("warming up ...")
  for call in calls.values():
    call()
  costs = {name: [] for name in calls}
  for number in range(1, rounds + 1):
    report(f"round {number} of {rounds} ...")
    for name, call in calls.items():
      cpu, wall = time.process_time(), time.perf_counter()
      call()
      cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
      costs[name].append(Cost(1e3 * cpu, 1e3 * wall))
  return costs


def best(
  calls: dict[str, Callable[[], Any]], items: int, rounds: int
) -> dict[str, Cost]:
  """The cost per item of each call in its best round; see `clock`.

  Args:
    calls: see `clock`.
    items: by how many the times are divided.
    rounds: see `clock`.
  """
  return {
    name: Cost(*(min(times) / items for times in zip(*costs, strict=True)))
    for name, costs in clock(calls, rounds).items()
  }


def machine() -> dict[str, Any]:
  """What the numbers were measured on."""
  import jax

  from cassle_jax.runs import logs

  return {
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "backend": jax.default_backend(),
    "processor": _processor(),
    "cores": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
    "versions": logs.versions(("jax", "jaxlib", "torch", "kornia")),
  }


def _processor() -> str:
  try:
    with open("/proc/cpuinfo") as lines:
      names = [line for line in lines if line.startswith("model name")]
    return names[0].split(":")[1].strip()
  except (OSError, IndexError):
    return platform.processor() or platform.machine()


def images(batch: int, canvas: int) -> np.ndarray:
  """Coloured blobs with grain, `[batch, canvas, canvas, 3]` uint8."""
  rng = np.random.default_rng(0)
  coarse = rng.uniform(0, 255, (batch, 8, 8, 3))
  cell = -(-canvas // 8)
  blobs = coarse.repeat(cell, 1).repeat(cell, 2)[:, :canvas, :canvas]
  grain = rng.normal(0, 12, blobs.shape)
  return np.clip(blobs + grain, 0, 255).astype(np.uint8)


def canvas_of(config: Any) -> int:
  """Side in pixels of the canvases that a run of this config cuts from."""
  from cassle_jax import data

  if config.data.canvas_size:
    return config.data.canvas_size
  canvas = data.canvas_rule(config.data.image_size)
  if config.data.source.startswith("bundled:"):
    # Pictures smaller than the rule's canvas keep their size.
    canvas = min(canvas, max(data.open_source(config.data.source).shape))
  return canvas


def add_cells(flags: argparse.ArgumentParser) -> None:
  """Adds --methods and --awareness, which `grid.chosen` reads."""
  for name, example in (
    ("methods", "simclr,byol"),
    ("awareness", "cassle,augself"),
  ):
    flags.add_argument(
      f"--{name}", default="", help=f"of the grid, e.g. {example}; all"
    )


def check_counts(**flags: int | None) -> None:
  """Raises UserError for a count below 1; None is a flag that was left out."""
  for name, value in flags.items():
    if value is not None and value < 1:
      raise errors.UserError(f"--{name}={value} must be at least 1.")


def write(path: str, result: dict[str, Any]) -> None:
  """Writes the numbers to the file of --json."""
  try:
    with open(path, "w") as stream:
      json.dump(result, stream, indent=2)
      stream.write("\n")
  except OSError as error:
    raise cli.unwritable("--json", path, error) from error
