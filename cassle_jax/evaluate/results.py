"""One JSON file for each result, RUN/eval/TASK/NAME.json."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cassle_jax.runs import files, logs


class Result(NamedTuple):
  """What a task found out about one data set.

  Attributes:
    name: of the file, without its folder and ending; a data set's name, or
      that and a variant ("fc100-1shot").
    metric: what `value` is, e.g. "top1".
    value: the headline number, in `unit`.
    unit: "%", "nats" or "".
    interval: half-width of the value's 95 % interval over episodes or images,
      where the protocol has one.
    details: whatever else a report draws; JSON values.
    protocol: what else the value depends on, beside the task's settings.
  """

  name: str
  metric: str
  value: float
  unit: str = ""
  interval: float | None = None
  details: Mapping[str, Any] = {}
  protocol: Mapping[str, Any] = {}

  def shown(self) -> str:
    """Metric, value and unit in words."""
    digits = 1 if self.unit == "%" else 3
    text = f"{self.metric} {self.value:.{digits}f}"
    if self.interval is not None:
      text += f" ± {self.interval:.{digits}f}"
    text = f"{text} {self.unit}".rstrip()
    of = {
      word: self.protocol[key]
      for key, word in (("k", "k"), ("test", "n"), ("episodes", "episodes"))
      if key in self.protocol
    }
    shown = ", ".join(f"{word} = {number:,}" for word, number in of.items())
    return f"{text} ({shown})" if shown else text


def path_of(workdir: str, task: str, name: str) -> str:
  """Where a result lies."""
  return os.path.join(workdir, "eval", task, f"{name}.json")


def write(
  workdir: str,
  task: str,
  dataset: str,
  result: Result,
  *,
  step: int,
  seed: int,
  settings: Mapping[str, Any],
  source: Mapping[str, Any] = {},
  representation: str = "backbone",
  network: str = "online",
) -> str:
  """Writes a result in one move and returns its path.

  Args:
    workdir: the run's folder.
    task: its name.
    dataset: the data set's name.
    result: what was found.
    step: of the run.
    seed: of the evaluation's own draws.
    settings: of the task; `current` compares them.
    source: what it is made from; `current` compares that too.
    representation: what pictures were represented by; see `named`.
    network: "online" or "target", whose they were.
  """
  path = path_of(workdir, task, named(result.name, representation))
  os.makedirs(os.path.dirname(path), exist_ok=True)
  record = {
    "task": task,
    "dataset": dataset,
    "representation": representation,
    "network": network,
    "step": step,
    "seed": seed,
    "settings": dict(settings),
    "source": dict(source),
    **result._asdict(),
    **logs.stamp(),
  }
  del record["name"]
  files.write_json(path, record)
  return path


def named(name: str, representation: str) -> str:
  """A result's name: that of the backbone's features has no addition."""
  return name if representation == "backbone" else f"{name}-{representation}"


def current(
  workdir: str,
  task: str,
  names: Iterable[str],
  *,
  step: int,
  seed: int,
  settings: Mapping[str, Any],
  source: Mapping[str, Any] = {},
) -> bool:
  """Whether all results are there that the same call would find again.

  A file that cannot be read, or is of another step, seed or setting, of other
  weights, pictures or code, is not: it will be replaced. Where no result is
  named there is none either.
  """
  names = list(names)
  # As JSON gives them back: tuples are lists.
  wanted = {"step": step, "seed": seed}
  wanted |= {"settings": dict(settings), "source": dict(source)}
  wanted = json.loads(json.dumps(wanted))
  try:
    for name in names:
      with open(path_of(workdir, task, name)) as file:
        record = json.load(file)
      if any(record.get(key) != value for key, value in wanted.items()):
        return False
  except (OSError, ValueError, AttributeError):
    return False
  return bool(names)
