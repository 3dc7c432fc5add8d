"""Results of evaluations, RUN/eval/TASK/NAME.json, as a report needs them.

A file is read without trust: one that is damaged, or is not what its task
writes, is named and left out.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

TOLD = ("true", "other", "neutral", "noise")


class Result(NamedTuple):
  """One result.

  Attributes:
    path: of its file.
    value: the headline number; nan where it is unknown.
    interval: half-width of its 95% interval within the run; nan without one.
    step: of the checkpoint that was evaluated.
    representation: what pictures were represented by, "backbone" if nothing
      else is said.
    data: what the task's reader below returns.
  """

  path: str
  value: float
  interval: float
  step: int
  representation: str
  data: Any


class Told(NamedTuple):
  """Cosines of one operation's projections, given one omega.

  Attributes:
    mean: of the cosines.
    counts: [n] images in each bin.
  """

  mean: float
  counts: np.ndarray


class WrongOmega(NamedTuple):
  """What a wrong omega does.

  Attributes:
    edges: [n + 1] of the bins.
    ops: {operation: {name in TOLD: Told}}.
  """

  edges: np.ndarray
  ops: dict[str, dict[str, Told]]


class Score(NamedTuple):
  """How well probes predict one field of omega.

  Attributes:
    linear: of the linear probe.
    mlp: of the one with three layers; nan without one.
    score: "r2" or "auc".
  """

  linear: float
  mlp: float
  score: str


class Curve(NamedTuple):
  """Similarity of features as one operation gets stronger.

  Attributes:
    strength: [m], rising.
    mean: [m] cosines.
    interval: [m] half-widths over the images; nan where unknown.
    unit: of `strength`.
    trained: the interval that training drew from, or None.
  """

  strength: np.ndarray
  mean: np.ndarray
  interval: np.ndarray
  unit: str
  trained: tuple[float, float] | None


class Spectrum(NamedTuple):
  """Eigenvalues of the features' covariance.

  Attributes:
    eigenvalues: [n], falling; shares of their sum.
    alpha: exponent of their decay; nan where it is unknown.
  """

  eigenvalues: np.ndarray
  alpha: float


def number(value: Any) -> float:
  """A JSON number; null, which stands for nan, too."""
  if value is None:
    return math.nan
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"{value!r} is not a number")
  return float(value)


def _numbers(values: Any) -> np.ndarray:
  if not isinstance(values, list):
    raise TypeError(f"{values!r} is not a list of numbers")
  return np.array([number(value) for value in values], np.float64)


def _linear(details: Any) -> float:
  """The standard R^2 in % where landmarks were regressed; nan elsewhere."""
  return number(details.get("r2"))


def _knn(details: Any) -> dict[int, float]:
  """{k: accuracy in %}, rising."""
  top1 = {int(k): number(x) for k, x in details["top1"].items()}
  return dict(sorted(top1.items()))


def _sensitivity(details: Any) -> dict[str, dict[str, float]]:
  """{operation: {block: InfoNCE}}, blocks from the stem to the projector."""
  return {
    operation: {name: number(x["infonce"]) for name, x in blocks.items()}
    for operation, blocks in details["ops"].items()
  }


def _wrong_omega(details: Any) -> WrongOmega:
  edges = _numbers(details["edges"])
  ops = {
    operation: {
      name: Told(number(told[name]["mean"]), _numbers(told[name]["histogram"]))
      for name in TOLD
    }
    for operation, told in details["ops"].items()
  }
  for told in ops.values():
    for name in TOLD:
      if len(told[name].counts) != len(edges) - 1:
        raise ValueError("a histogram does not fit its edges")
  return WrongOmega(edges, ops)


def _probe(details: Any) -> dict[str, dict[str, Score]]:
  """{"single" or "pairs": {field: Score}}."""
  return {
    given: {
      field: Score(number(x["linear"]), number(x.get("mlp")), str(x["score"]))
      for field, x in details.get(given, {}).items()
    }
    for given in ("single", "pairs")
  }


def _strength(details: Any) -> dict[str, Curve]:
  """{parameter: Curve}."""
  curves = {}
  for name, x in details["curves"].items():
    strength, mean = _numbers(x["strength"]), _numbers(x["mean"])
    interval = x.get("interval")
    half = (
      np.full(len(mean), np.nan) if interval is None else _numbers(interval)
    )
    if not len(strength) == len(mean) == len(half):
      raise ValueError(f"the curve of {name} has lists of different lengths")
    trained = x.get("trained")
    drawn = tuple(_numbers(trained)) if trained else None
    if drawn is not None and len(drawn) != 2:
      raise ValueError(f"{name} was trained with {trained!r}")
    curves[name] = Curve(strength, mean, half, str(x.get("unit", "")), drawn)
  return curves


def _retrieval(details: Any) -> str:
  """Name of the panel beside the file; "" without one."""
  panel = details.get("panel") or ""
  # A name with a folder in it would leave the run.
  if not isinstance(panel, str) or os.path.basename(panel) != panel:
    raise ValueError(f"{panel!r} is not the name of a picture beside it")
  return panel


def _spectrum(details: Any) -> Spectrum:
  return Spectrum(
    _numbers(details["eigenvalues"]), number(details.get("alpha"))
  )


_READERS: dict[str, Callable[[Any], Any]] = {
  "linear": _linear,
  "knn": _knn,
  "few_shot": lambda details: None,
  "sensitivity": _sensitivity,
  "wrong_omega": _wrong_omega,
  "probe": _probe,
  "strength": _strength,
  "retrieval": _retrieval,
  "spectrum": _spectrum,
}
TASKS = tuple(_READERS)


def read(
  folder: str, warn: Callable[[str], None]
) -> dict[tuple[str, str], Result]:
  """Reads all results of a run.

  Args:
    folder: the run's.
    warn: is told of each file that is left out, and why.

  Returns:
    {(task, name): Result}, in the order of `TASKS`, then by name.
  """
  found = {}
  for task, reader in _READERS.items():
    below = os.path.join(folder, "eval", task)
    for file in sorted(os.listdir(below)) if os.path.isdir(below) else ():
      if not file.endswith(".json"):
        continue
      path = os.path.join(below, file)
      try:
        found[task, file.removesuffix(".json")] = _result(path, reader)
      except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        reason = f"no {e}" if isinstance(e, KeyError) else str(e)
        warn(f"{path} is not a result of {task} and is left out: {reason}")
  return found


def _result(path: str, reader: Callable[[Any], Any]) -> Result:
  with open(path) as file:
    record = json.load(file)
  if not isinstance(record, Mapping):
    raise TypeError("it is not an object")
  return Result(
    path=path,
    value=number(record["value"]),
    interval=number(record.get("interval")),
    step=int(number(record["step"])),
    representation=str(record.get("representation") or "backbone"),
    data=reader(record.get("details") or {}),
  )
