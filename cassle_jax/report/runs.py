"""Run folders, read without trust: JSON alone, and damage named and skipped."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cassle_jax.errors import UserError
from cassle_jax.report import results as results_lib
from cassle_jax.report.results import Result, number
from cassle_jax.runs import goodput
from cassle_jax.runs.folder import CONFIG, dotted
from cassle_jax.runs.logs import METRICS

# The curves that a report draws.
CURVES = ("loss", "knn_top1")
# Representation -> the awareness whose row it is.
_REPRESENTED = {"looc++": "looc++", "learned": "ai, learned"}


class Run(NamedTuple):
  """One run's folder.

  Attributes:
    folder: its path.
    method: as in `config.method.name`.
    backbone: as in `config.model.backbone`.
    awareness: as in `config.awareness.name`.
    seed: of the run.
    published: name of the row of the paper's table that its config repeats, or
      None.
    settings: the whole config, dotted key -> value; None values left out.
    summary: summary.json; empty before the end of training.
    curves: {name in CURVES: (steps, values)}, lists of the same length.
    results: {(task, name): Result}.
    spent: what its time was spent on, from `goodput.totals`; None where it
      was not written down.
    representation: what its pictures are represented by.
  """

  folder: str
  method: str
  backbone: str
  awareness: str
  seed: int
  published: str | None
  settings: Mapping[str, Any]
  summary: Mapping[str, Any]
  curves: Mapping[str, tuple[list[int], list[float]]]
  results: Mapping[tuple[str, str], Result]
  spent: Mapping[str, Any] | None = None
  representation: str = "backbone"


def find(folders: Sequence[str]) -> list[str]:
  """The run folders among folders, and directly below those that are none.

  Raises:
    UserError: a folder is neither a run's nor one of runs.
  """
  found = {}
  for folder in folders:
    below = [folder]
    if not _is_run(folder):
      if not os.path.isdir(folder):
        raise UserError(
          f"there is no run {folder!r}; give the --workdir of a run, or a"
          " folder of them"
        )
      names = sorted(os.listdir(folder))
      paths = [os.path.join(folder, name) for name in names]
      below = [path for path in paths if _is_run(path)]
    if not below:
      raise UserError(
        f"{folder} is no run and holds none: there is no {CONFIG} in it or in"
        " a folder below; give the --workdir of a run, or a folder of them"
      )
    for path in below:
      found.setdefault(os.path.realpath(path), os.path.normpath(path))
  return list(found.values())


def _is_run(folder: str) -> bool:
  return os.path.isfile(os.path.join(folder, CONFIG))


def read(folder: str, warn: Callable[[str], None]) -> Run | None:
  """Reads a run.

  Args:
    folder: from `find`.
    warn: is told of each file that is damaged and left out.

  Returns:
    None where the config itself is damaged.
  """
  path = os.path.join(folder, CONFIG)
  config = _json(path, warn)
  if config is None:
    return None
  try:
    named = {
      "method": str(config["method"]["name"]),
      "backbone": str(config["model"]["backbone"]),
      "awareness": str(config["awareness"]["name"]),
      "seed": int(number(config["seed"])),
    }
    published = config.get("published")
    settings = {k: x for k, x in dotted(config).items() if x is not None}
  except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
    warn(f"{path} is not the config of a run; {folder} is left out")
    return None
  summary = os.path.join(folder, "summary.json")
  held = _json(summary, warn) if os.path.isfile(summary) else None
  curves, spent = _log(os.path.join(folder, METRICS), warn)
  return Run(
    folder,
    **named,
    published=published if isinstance(published, str) else None,
    settings=settings,
    summary=held if isinstance(held, dict) else {},
    curves=curves,
    results=results_lib.read(folder, warn),
    spent=spent,
  )


def apart(run: Run) -> list[Run]:
  """A run's results by what they represent pictures by, as runs of their own.

  Args:
    run: from `read`; it comes first, with its backbone's results. The others
      have no curves and no summary.
  """
  found: dict[str, dict[tuple[str, str], Result]] = {"backbone": {}}
  for (task, name), result in run.results.items():
    kind = result.representation
    name = name.removesuffix(f"-{kind}")
    found.setdefault(kind, {})[task, name] = result
  first = run._replace(results=found.pop("backbone"))
  return [first] + [
    run._replace(
      awareness=_REPRESENTED.get(kind, f"{run.awareness}, {kind}"),
      representation=kind,
      summary={},
      curves={name: ([], []) for name in CURVES},
      results=results,
    )
    for kind, results in found.items()
  ]


def _json(path: str, warn: Callable[[str], None]) -> Any:
  try:
    return results_lib.load(path)
  except (OSError, ValueError) as error:
    warn(f"{path} cannot be read and is left out: {error}")
    return None


def _log(
  path: str, warn: Callable[[str], None]
) -> tuple[dict[str, tuple[list[int], list[float]]], Mapping[str, Any] | None]:
  """Curves and time spent in a file of JSON lines, as far as it is whole."""
  curves = {name: ([], []) for name in CURVES}
  if not os.path.isfile(path):
    return curves, None
  damaged, times = 0, []
  try:
    with open(path, errors="replace") as lines:
      for line in lines:
        try:
          record = json.loads(line)
          step = int(number(record["step"]))
          points = {name: number(record.get(name)) for name in CURVES}
        except (
          ValueError,
          TypeError,
          KeyError,
          AttributeError,
          RecursionError,
        ):
          damaged += 1
          continue
        if goodput.KEY in record:
          times.append(record)
        for name, (steps, values) in curves.items():
          if not math.isnan(points[name]):
            steps.append(step)
            values.append(points[name])
  except OSError as error:
    warn(f"{path} cannot be read and is left out: {error}")
  if damaged:
    warn(f"{path} has {damaged} damaged line(s), which are left out")
  try:
    return curves, goodput.totals(times)
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    warn(f"{path} does not say where the time went: {error}")
    return curves, None
