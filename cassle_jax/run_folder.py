"""A run's folder: which config it belongs to."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cassle_jax.errors import UserError
from cassle_jax.logs import atomic_write_json, plain

CONFIG = "config.json"
_ABSENT = object()


def check_path(path: str) -> None:
  """Refuses a path below which checkpoints could not be read back.

  Raises:
    UserError: naming the character.
  """
  for character in "[]":
    if character in path:
      raise UserError(
        f"the path {path!r} contains {character!r}, and checkpoints below "
        "such a path cannot be read back; use another --workdir"
      )


def check_config(
  run_folder: str,
  config: Mapping[str, Any],
  *,
  free: Sequence[str] = (),
) -> None:
  """Writes a new run's config.json, or compares a config with an old run's.

  Args:
    run_folder: the run's folder; created if need be.
    config: nested dicts of JSON values.
    free: sections or dotted keys that may differ, e.g. ("checkpoint",).

  Raises:
    UserError: if other keys differ, naming both values.
  """
  check_path(run_folder)
  path = os.path.join(run_folder, CONFIG)
  config = json.loads(json.dumps(plain(config)))
  if not os.path.exists(path):
    if jax.process_index() == 0:
      os.makedirs(run_folder, exist_ok=True)
      atomic_write_json(path, config)
    return
  try:
    with open(path) as file:
      old = _dotted(json.load(file))
  except ValueError as error:
    raise UserError(
      f"{path} is not readable as JSON ({error}); use another --workdir"
    ) from None
  new = _dotted(config)
  differing = [
    f"{key} is {_show(new, key)} (the run's: {_show(old, key)})"
    for key in sorted(old.keys() | new.keys())
    if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    and not any(key == f or key.startswith(f + ".") for f in free)
  ]
  if differing:
    raise UserError(
      f"{run_folder} holds a run of another config: {'; '.join(differing)}. "
      "Use another --workdir, or give the run's own values to continue it"
    )


def _dotted(value: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(value, dict) or not value:
    return {prefix: value}
  result = {}
  for key, item in value.items():
    result |= _dotted(item, f"{prefix}.{key}" if prefix else str(key))
  return result


def _show(values: Mapping[str, Any], key: str) -> str:
  return json.dumps(values[key]) if key in values else "absent"
