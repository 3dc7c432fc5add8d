"""What run folders hold, read without trust: JSON alone, and damage skipped."""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cassle_jax import run_folder
from cassle_jax.errors import UserError

CONFIG = run_folder.CONFIG


class Kind(NamedTuple):
  """Runs that differ in their seed alone are of one kind.

  Attributes:
    method: as in `config.method.name`.
    backbone: as in `config.model.backbone`.
    awareness: as in `config.awareness.name`.
  """

  method: str
  backbone: str
  awareness: str


class Run(NamedTuple):
  """One run's folder.

  Attributes:
    folder: its path.
    kind: what was trained.
    seed: of the run.
    published: the row of the paper's table that its config repeats, or None.
    results: {(task, name): record}, see `suite.results`.
    curves: the records of metrics.jsonl, by step.
  """

  folder: str
  kind: Kind
  seed: int
  published: str | None
  results: dict[tuple[str, str], dict[str, Any]]
  curves: list[dict[str, Any]]


def find(folders: Sequence[str]) -> list[str]:
  """The run folders among folders, and directly below those that are none.

  Raises:
    UserError: a folder is neither.
  """
  found = []
  for folder in folders:
    if os.path.isfile(os.path.join(folder, CONFIG)):
      found.append(folder)
      continue
    if not os.path.isdir(folder):
      raise UserError(f"there is no folder {folder!r}.")
    below = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    below = [
      path for path in below if os.path.isfile(os.path.join(path, CONFIG))
    ]
    if not below:
      raise UserError(
        f"{folder} is no run's folder and has none in it: no {CONFIG}; name a"
        " --workdir of cassle_jax.main, or a folder of them."
      )
    found += below
  return list(dict.fromkeys(os.path.normpath(path) for path in found))


def read(folder: str, warn: Callable[[str], None]) -> Run:
  """Reads a run.

  Args:
    folder: from `find`.
    warn: is told of each file that is damaged and left out.

  Raises:
    UserError: its config cannot be read.
  """
  path = os.path.join(folder, CONFIG)
  config = _json(path, warn)
  try:
    kind = Kind(
      config["method"]["name"],
      config["model"]["backbone"],
      config["awareness"]["name"],
    )
    seed = int(config["seed"])
  except (TypeError, KeyError, ValueError):
    raise UserError(
      f"{path} is not the config of a run; put a good copy back, or leave"
      f" {folder} out."
    ) from None
  results = {}
  root = os.path.join(folder, "eval")
  for task in sorted(os.listdir(root)) if os.path.isdir(root) else ():
    below = os.path.join(root, task)
    for name in sorted(os.listdir(below)) if os.path.isdir(below) else ():
      if name.endswith(".json"):
        record = _json(os.path.join(below, name), warn)
        if isinstance(record, dict) and {"value", "details"} <= set(record):
          results[task, name.removesuffix(".json")] = record
  curves = _lines(os.path.join(folder, "metrics.jsonl"), warn)
  return Run(folder, kind, seed, config.get("published"), results, curves)


def by_kind(runs: Sequence[Run]) -> dict[Kind, list[Run]]:
  """Runs of each kind in the order of their seeds; kinds as they come."""
  grouped: dict[Kind, list[Run]] = {}
  for run in runs:
    grouped.setdefault(run.kind, []).append(run)
  return {
    kind: sorted(group, key=lambda run: run.seed)
    for kind, group in grouped.items()
  }


def _json(path: str, warn: Callable[[str], None]) -> Any:
  try:
    with open(path) as file:
      return json.load(file)
  except (OSError, ValueError) as error:
    warn(f"{path} cannot be read and is left out: {error}")
    return None


def _lines(path: str, warn: Callable[[str], None]) -> list[dict[str, Any]]:
  """The records of a file of JSON lines, as far as it is whole."""
  if not os.path.isfile(path):
    return []
  records = []
  with open(path) as lines:
    for number, line in enumerate(lines, 1):
      try:
        records.append(json.loads(line))
      except ValueError:
        warn(f"{path}, line {number} is damaged and left out")
  return [r for r in records if isinstance(r, dict) and "step" in r]
