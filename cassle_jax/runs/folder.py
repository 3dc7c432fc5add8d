"""A run's folder: which config it belongs to."""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cassle_jax.errors import UserError
from cassle_jax.hosts import distributed
from cassle_jax.runs.files import plain, write_json

CONFIG = "config.json"


def check_path(path: str) -> None:
  """Refuses a path below which checkpoints could not be read back.

  Raises:
    UserError: naming the character.
  """
  for character in "[]\\":
    if character in path:
      raise UserError(
        f"the path {path!r} contains {character!r}, and checkpoints below "
        "such a path cannot be read back; use another --workdir"
      )


def check_config(
  run_folder: str, config: Mapping[str, Any], *, free: Sequence[str] = ()
) -> None:
  """Writes a new run's config.json, or compares a config with an old run's.

  As long as the folder has no checkpoint there is nothing to continue, so the
  config of a start that failed gives way to the new one. See `differences` for
  what keeps a run from being continued.

  Args:
    run_folder: the run's folder; created if need be. A mounted path.
    config: nested dicts of JSON values.
    free: sections or dotted keys that may differ, e.g. ("checkpoint",).

  Raises:
    UserError: if other keys differ, naming both values; if the folder is a
      URL, or cannot be made, read or written.
  """
  check_path(run_folder)
  if "://" in run_folder:
    raise UserError(
      f"--workdir={run_folder} is a URL, but logs and config.json need a "
      "mounted path; mount the bucket and give the path of a folder in it"
    )
  try:
    with distributed.first("config.json"):
      _check_config(run_folder, json.loads(json.dumps(plain(config))), free)
  except OSError as error:
    raise UserError(
      f"--workdir={run_folder} cannot be used ({error.strerror or error}: "
      f"{error.filename or run_folder}); use a folder that you can write to"
    ) from error


def _check_config(
  run_folder: str, config: dict[str, Any], free: Sequence[str]
) -> None:
  path = os.path.join(run_folder, CONFIG)
  writes = jax.process_index() == 0
  if not os.path.exists(path):
    if writes:
      os.makedirs(run_folder, exist_ok=True)
      write_json(path, config)
      return
    raise UserError(
      f"process {jax.process_index()} does not see {path}, which process 0 has "
      "written; --workdir must be on a file system that all hosts share"
    )
  try:
    with open(path) as file:
      held = json.load(file)
  except ValueError as error:
    raise UserError(
      f"{path} is not readable as JSON ({error}); use another --workdir"
    ) from None
  if not isinstance(held, dict) or not held.keys() & config.keys():
    raise UserError(f"{path} is not a run's config; use another --workdir")
  if writes and not os.access(run_folder, os.W_OK):
    raise PermissionError(errno.EACCES, "not writable", run_folder)
  if not _has_checkpoint(run_folder):
    if writes and held != config:
      write_json(path, config)
    return
  differing = differences(held, config, free=free)
  if differing:
    raise UserError(
      f"{run_folder} holds a run of another config: {'; '.join(differing)}. "
      "Use another --workdir, or give the run's own values to continue it"
    )


def differences(
  old: Mapping[str, Any], new: Mapping[str, Any], *, free: Sequence[str] = ()
) -> list[str]:
  """The keys in which two nested configs differ, each with both values.

  A key that one of them lacks and that is None, "the usual", in the other came
  or went with a version and is no difference. `free` names sections or dotted
  keys that may differ.
  """

  def held(config: Mapping[str, Any]) -> dict[str, Any]:
    values = dotted(config).items()
    within = tuple(f"{name}." for name in free)
    return {k: v for k, v in values if not f"{k}.".startswith(within)}

  return distributed.differences(held(new), held(old), "the run's")


def _has_checkpoint(run_folder: str) -> bool:
  """Whether a step was ever saved whole; one put aside as damaged counts."""
  folder = os.path.join(run_folder, "checkpoints")
  names = os.listdir(folder) if os.path.isdir(folder) else []
  return any(name.isdigit() or name.startswith("damaged-") for name in names)


def dotted(value: Any, prefix: str = "") -> dict[str, Any]:
  """Nested dicts as one, its keys joined with dots."""
  if not isinstance(value, dict):
    return {prefix: value}
  result = {}
  for key, item in value.items():
    result |= dotted(item, f"{prefix}.{key}" if prefix else str(key))
  return result
