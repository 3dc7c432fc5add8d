"""What the benchmarks share: flags, a fair clock, images, tables, --json."""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cassle_jax import errors
from cassle_jax.config import cli


def parser(
  name: str, description: str, *, config: bool = False, rounds: int = 0
) -> argparse.ArgumentParser:
  """The flags of a benchmark, with those that many take.

  Args:
    name: of the benchmark.
    description: its docstring.
    config: whether it takes --config.
    rounds: default of --rounds; 0 = it takes none.
  """
  flags = cli.parser(f"cassle_jax.benchmark {name}", description)
  if config:
    cli.add_config(flags, required=False)
  flags.add_argument("--json", metavar="FILE", help="write the numbers here")
  if rounds:
    flags.add_argument("--rounds", type=int, default=rounds, help=f"{rounds}")
  return flags


def add_cells(flags: argparse.ArgumentParser) -> None:
  """Adds --methods and --awareness, which `grid.chosen` reads."""
  for name, example in (
    ("methods", "simclr,byol"),
    ("awareness", "cassle,augself"),
  ):
    flags.add_argument(
      f"--{name}", default="", help=f"of the grid, e.g. {example}; all"
    )


def parse(
  flags: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
  """The flags' values, and the overrides of --config.

  Raises:
    UserError: see `cli.parse`; a number that is not above 0; overrides without
      a config; a file of --json that cannot be written.
  """
  values, overrides = cli.parse(flags, arguments)
  for name, value in vars(values).items():
    if type(value) is int and value < 1:
      raise errors.UserError(f"--{name}={value} must be at least 1.")
    if isinstance(value, float) and not value > 0:
      raise errors.UserError(f"--{name}={value:g} must be above 0.")
  if overrides and not getattr(values, "config", None):
    raise errors.UserError(
      "--config.KEY=VALUE goes with --config=FILE and has no effect here; leave"
      " it out."
    )
  if values.json is not None:
    cli.check_output("--json", values.json)
  return values, overrides


def counts(flag: str, text: str, *, least: int = 1) -> list[int]:
  """The numbers of a flag such as --devices=1,8, each once."""
  words = text.split(",")
  if not all(word.isdecimal() and int(word) >= least for word in words):
    raise errors.UserError(
      f"--{flag}={text}: give whole numbers, e.g. --{flag}=1,8."
    )
  return [int(word) for word in dict.fromkeys(words)]


def load(
  values: argparse.Namespace, overrides: Sequence[str], path: str = ""
) -> Any:
  """A config, --config's by default, at the sizes that the flags ask for."""
  from cassle_jax import config as config_lib

  config = config_lib.load(path or values.config, overrides)
  config.batch_size = values.batch or config.batch_size
  config.data.image_size = values.image_size or config.data.image_size
  return config


class Cost(NamedTuple):
  """Milliseconds: of CPU time over all threads, and of wall time."""

  cpu: float
  wall: float


def timed(call: Callable[[], Any]) -> tuple[Cost, Any]:
  """What a call costs, and what it returns."""
  cpu, wall = time.process_time(), time.perf_counter()
  result = call()
  cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
  return Cost(1e3 * cpu, 1e3 * wall), result


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
      costs[name].append(timed(call)[0])
  return costs


def lowest(costs: Iterable[Cost], items: int = 1) -> Cost:
  """The lowest CPU time and the lowest wall time, divided by `items`."""
  return Cost(*(min(times) / items for times in zip(*costs, strict=True)))


def best(
  calls: dict[str, Callable[[], Any]], items: int, rounds: int
) -> dict[str, Cost]:
  """The cost per item of each call in its best round; see `clock`."""
  return {
    name: lowest(costs, items) for name, costs in clock(calls, rounds).items()
  }


class Median(NamedTuple):
  """The middle of some values, and how sure it is.

  Attributes:
    value: the median.
    margin: half of its interval of about 95 %, 1.58 interquartile ranges over
      the root of the number of values (McGill et al. 1978); None for one value.
  """

  value: float
  margin: float | None


def median(values: np.ndarray) -> Median:
  """The median of [N] values with its margin."""
  low, middle, high = map(float, np.quantile(values, (0.25, 0.5, 0.75)))
  margin = 1.58 * (high - low) / len(values) ** 0.5
  return Median(middle, margin if len(values) > 1 else None)


def machine() -> dict[str, Any]:
  """What the numbers were measured on."""
  import jax

  from cassle_jax.data import decode
  from cassle_jax.runs import logs

  return {
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "backend": jax.default_backend(),
    "processor": _processor(),
    "cores": decode.cores(),
    "versions": logs.versions(("jax", "jaxlib", "torch", "kornia")),
  }


def _processor() -> str:
  try:
    with open("/proc/cpuinfo") as lines:
      names = [line for line in lines if line.startswith("model name")]
    return names[0].split(":")[1].strip()
  except (OSError, IndexError):
    return platform.processor() or platform.machine()


def place() -> str:
  """The machine in a few words, for the heading of a table."""
  on = machine()
  return (
    f"{on['devices']} x {on['device']} ({on['processor']}, {on['cores']} cores)"
  )


def images(batch: int, canvas: int) -> np.ndarray:
  """Coloured blobs with grain, `[batch, canvas, canvas, 3]` uint8."""
  rng = np.random.default_rng(0)
  coarse = rng.uniform(0, 255, (batch, 8, 8, 3))
  cell = -(-canvas // 8)
  blobs = coarse.repeat(cell, 1).repeat(cell, 2)[:, :canvas, :canvas]
  grain = rng.normal(0, 12, blobs.shape)
  return np.clip(blobs + grain, 0, 255).astype(np.uint8)


def aligned(rows: Sequence[Sequence[str]], *, width: int = 9) -> str:
  """A table as text: the first column to the left, all others to the right.

  Args:
    rows: of equally many cells.
    width: of a column at least.
  """
  columns = zip(*rows, strict=True)
  widths = [max(width, *map(len, column)) for column in columns]
  return "\n".join(
    "  ".join(
      [row[0].ljust(widths[0])]
      + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
    ).rstrip()
    for row in rows
  )


def number(value: float | None, digits: int, unknown: str = "not known") -> str:
  """A number with commas; `unknown` for None."""
  return unknown if value is None else f"{value:,.{digits}f}"


def write(values: argparse.Namespace, name: str, result: dict) -> None:
  """Writes a benchmark's numbers and the machine's to the file of --json."""
  if values.json is None:
    return
  try:
    with open(values.json, "w") as stream:
      json.dump({"command": name} | result | machine(), stream, indent=2)
      stream.write("\n")
  except OSError as error:
    raise cli.unwritable("--json", values.json, error) from error
