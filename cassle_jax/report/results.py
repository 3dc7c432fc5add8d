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

# What t(x) was told, in the results of wrong_omega.
TOLD = ("true", "other", "neutral", "noise")
# What older results call operations -> what these are called now.
_RENAMED = {"color": "jitter"}

# What a report needs of each task's details: the type of every value, by name,
# or by the type of the names where they are free; `list` is one of numbers.
_SCORES = {str: {"linear": float, "mlp": float, "score": str}}
_DETAILS = {
  # The standard R^2 in %, where landmarks were regressed.
  "linear": {"r2": float},
  # Accuracies in % by k.
  "knn": {"top1": {int: float}},
  "few_shot": {},
  # By operation, then by block from the stem to the projector.
  "sensitivity": {
    "ops": {str: {str: {"infonce": float}}},
    # The operations that the headline is the mean of; None for all of them.
    "mean_of": [str],
  },
  # By operation; cosines, and images in each of the bins between the edges.
  "wrong_omega": {
    "edges": list,
    "ops": {str: dict.fromkeys(TOLD, {"mean": float, "histogram": list})},
  },
  # By field of omega; the score is "r2" or "auc".
  "probe": {"single": _SCORES, "pairs": _SCORES},
  # By parameter; cosines, their half-widths over the images, and the ends of
  # the interval that training drew from.
  "strength": {
    "curves": {
      str: {
        "strength": list,
        "mean": list,
        "interval": list,
        "unit": str,
        "trained": list,
      }
    }
  },
  # The name of a picture beside the file.
  "retrieval": {"panel": str},
  "spectrum": {"eigenvalues": list, "alpha": float},
}
TASKS = tuple(_DETAILS)
# What stands for a value that may be absent or null.
_ABSENT = {
  "r2": math.nan,
  "mlp": math.nan,
  "alpha": math.nan,
  "unit": "",
  "panel": "",
  "mean_of": None,
  "trained": (),
  "single": {},
  "pairs": {},
}


class Result(NamedTuple):
  """One result.

  Attributes:
    path: of its file.
    value: the headline number; nan where it is unknown.
    interval: half-width of its 95% interval within the run; nan without one.
    step: of the checkpoint that was evaluated.
    representation: what pictures were represented by, "backbone" if nothing
      else is said.
    data: the details that `_DETAILS` names, lists as float64 arrays.
    how: what else the value depends on, by dotted key: the task's settings, and
      the protocol's facts as "protocol.NAME".
  """

  path: str
  value: float
  interval: float
  step: int
  representation: str
  data: Any
  how: Mapping[str, Any] = {}


def number(value: Any) -> float:
  """A JSON number; null, which stands for nan, too."""
  if value is None:
    return math.nan
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"{_short(value)} is not a number")
  try:
    found = float(value)
  except OverflowError:
    found = math.inf
  if math.isinf(found):
    raise ValueError(f"{_short(value)} is not finite")
  return found


def _short(value: Any) -> str:
  """What a file holds, for a message of one line."""
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:60]}..."


def load(path: str) -> Any:
  """The JSON of a file.

  Raises:
    OSError: it cannot be read.
    ValueError: it is no JSON, or too deep to be anything of ours.
  """
  with open(path, encoding="utf-8") as file:
    try:
      value = json.load(file)
      text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
      raise ValueError("its JSON is too deep") from None
  try:
    text.encode()
  except UnicodeEncodeError:  # Half a character, which nothing can print.
    value = json.loads(text.encode("utf-8", "replace"))
  return value


def _as(kind: Any, value: Any) -> Any:
  """What `_DETAILS` asks for of a JSON value."""
  if kind is float:
    return number(value)
  asked = type(kind) if isinstance(kind, dict | list) else kind
  if not isinstance(value, asked):
    raise TypeError(f"{_short(value)} is no {asked.__name__}")
  if kind is str:
    return value
  if isinstance(kind, list):
    return [_as(kind[0], each) for each in value]
  if kind is list:
    return np.array([number(each) for each in value], np.float64)
  for key, inner in kind.items():
    if isinstance(key, type):
      return {key(name): _as(inner, each) for name, each in value.items()}
  return {
    name: _ABSENT[name]
    if name in _ABSENT and value.get(name) is None
    else _as(inner, value[name])
    for name, inner in kind.items()
  }


def _data(task: str, details: Any) -> Any:
  """A task's details, read and checked."""
  found = _as(_DETAILS[task], details)
  if task in ("sensitivity", "wrong_omega"):
    found["ops"] = {_RENAMED.get(op, op): x for op, x in found["ops"].items()}
  if task == "wrong_omega":
    bins = len(found["edges"]) - 1
    for told in found["ops"].values():
      if any(len(x["histogram"]) != bins for x in told.values()):
        raise ValueError("a histogram does not fit its edges")
  for name, x in found.get("curves", {}).items():
    if len({len(x[each]) for each in ("strength", "mean", "interval")}) > 1:
      raise ValueError(f"the curve of {name} has lists of different lengths")
    if len(x["trained"]) not in (0, 2):
      raise ValueError(f"{name} was trained with {x['trained']}")
  # A name with a folder in it would leave the run.
  if os.path.basename(found.get("panel", "")) != found.get("panel", ""):
    raise ValueError(f"{found['panel']!r} is not the name of a picture")
  return found


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
  for task in TASKS:
    below = os.path.join(folder, "eval", task)
    for file in sorted(os.listdir(below)) if os.path.isdir(below) else ():
      if not file.endswith(".json") or file.startswith("."):
        continue
      path = os.path.join(below, file)
      try:
        found[task, file.removesuffix(".json")] = _result(path, task)
      except (OSError, ValueError, TypeError, KeyError, RecursionError) as e:
        reason = f"no {e}" if isinstance(e, KeyError) else str(e)
        warn(f"{path} is not a result of {task} and is left out: {reason}")
  return found


def _result(path: str, task: str) -> Result:
  record = load(path)
  if not isinstance(record, dict):
    raise TypeError("it is not an object")
  return Result(
    path=path,
    value=number(record["value"]),
    interval=number(record.get("interval")),
    step=int(number(record["step"])),
    representation=str(record.get("representation") or "backbone"),
    data=_data(task, record.get("details") or {}),
    how=_how(record),
  )


def _how(record: Mapping[str, Any]) -> dict[str, Any]:
  """Settings and protocol as far as they are plain, lists as tuples' text."""
  found: dict[str, Any] = {}
  for name, prefix in (("settings", ""), ("protocol", "protocol.")):
    part = record.get(name) or {}
    if not isinstance(part, dict):
      raise TypeError(f"its {name} are no object")
    for key, value in part.items():
      found[f"{prefix}{key}"] = (
        json.dumps(value, sort_keys=True)
        if isinstance(value, list | dict)
        else value
      )
  if "network" in record:
    found["network"] = str(record["network"])
  return found
