"""A run's folder: whose it is, and which config it belongs to."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from cassle_jax.errors import UserError
from cassle_jax.hosts import distributed
from cassle_jax.runs import lock
from cassle_jax.runs.files import plain, write_json
from cassle_jax.runs.logs import say

CONFIG = "config.json"
# What a run writes, so that a stranger's file of that name is left alone.
_OURS = (CONFIG, "metrics.jsonl", "summary.json", "checkpoints", "eval")
# What a run came to, and what else it left on the way.
_OUTCOMES = ("summary.json", "eval")
_TRACES = ("metrics.jsonl", "tensorboard")
# What every version's config.json has held.
_SECTIONS = ("data", "augment", "model", "method", "optim")


def expanded(path: str, *, flag: str = "--workdir") -> str:
  """A folder that a flag names, with `~` for the home folder.

  Raises:
    UserError: the name is empty, as of a variable that is not set, or starts
      with the home of nobody.
  """
  if not path.strip():
    raise UserError(
      f"{flag}= is empty (a variable that is not set?); name a folder, or leave"
      f" {flag} out"
    )
  found = os.path.expanduser(path)
  if found.startswith("~"):
    raise UserError(
      f"{flag}={path}: there is no user {found.split('/')[0][1:]!r}; write"
      f" ./{path} for a folder of that name"
    )
  return found


@contextlib.contextmanager
def held(run_folder: str) -> Iterator[None]:
  """Makes a run's folder and holds it, alone, until the end.

  Args:
    run_folder: a mounted path.

  Raises:
    UserError: it is a URL, is another program's, is held by another process, or
      cannot be made or written.
  """
  if "://" in run_folder:
    raise UserError(
      f"--workdir={run_folder} is a URL, but logs and config.json need a "
      "mounted path; mount the bucket and give the path of a folder in it"
    )
  with contextlib.ExitStack() as stack:
    with usable(run_folder):
      with distributed.first("folder"):
        if jax.process_index() == 0:
          _refuse_strangers(run_folder)
          os.makedirs(run_folder, exist_ok=True)
      stack.enter_context(lock.held(run_folder, "trained"))
    yield


@contextlib.contextmanager
def usable(run_folder: str) -> Iterator[None]:
  """Says in one line that a folder cannot be read or written."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f"--workdir={run_folder} cannot be used ({error.strerror or error}: "
      f"{error.filename or run_folder}); use a folder that you can write to"
    ) from error


def _refuse_strangers(run_folder: str) -> None:
  """Raises UserError where a run would overwrite what is not a run's.

  A run says so in run.json; those of earlier versions by their config.json.
  """
  found = [name for name in _OURS if _there(run_folder, name)]
  if not found or _written_by_us(run_folder):
    return
  path = os.path.join(run_folder, CONFIG)
  try:
    with open(path) as file:
      held = json.load(file)
  except FileNotFoundError:
    held = None
  except ValueError as error:
    raise UserError(
      f"{path} is not readable as JSON ({error}); use another --workdir"
    ) from None
  if not is_config(held):
    raise UserError(
      f"{run_folder} holds {found[0]} and is no run of cassle_jax, which would"
      " overwrite it; use another --workdir"
    )


def _written_by_us(run_folder: str) -> bool:
  try:
    with open(os.path.join(run_folder, lock.HOLDER)) as file:
      return json.load(file).get("written_by") == "cassle_jax"
  except (OSError, ValueError, AttributeError):
    return False


def is_config(held: Any) -> bool:
  """Whether a JSON value is the config of a run, of whatever version."""
  return (
    isinstance(held, dict)
    and all(isinstance(held.get(name), dict) for name in _SECTIONS)
    and isinstance(held["method"].get("name"), str)
  )


def check_config(
  run_folder: str,
  config: Mapping[str, Any],
  *,
  free: Sequence[str] = (),
  judged: Sequence[str] = (),
  usual: Mapping[str, Any] | None = None,
) -> list[str]:
  """Writes a new run's config.json, or compares a config with an old run's.

  As long as the folder has no checkpoint there is nothing to continue, so the
  config of a start that failed gives way to the new one. See `differences` for
  what keeps a run from being continued.

  Args:
    run_folder: the run's folder, see `held`.
    config: nested dicts of JSON values.
    free: sections or dotted keys that may differ, e.g. ("checkpoint",).
    judged: dotted keys that may differ as far as this goes, for the caller
      looks at what they stand for.
    usual: the defaults, nested; an old run's config has those of the keys that
      came after it.

  Returns:
    How the keys in `judged` differ, each with both values.

  Raises:
    UserError: if other keys differ, naming both values; if the file cannot be
      read or written.
  """
  new = json.loads(json.dumps(plain(config)))
  with usable(run_folder), distributed.first("config.json"):
    held = _check_config(run_folder, new, (*free, *judged), plain(usual or {}))
  old, new = dotted(held), dotted(new)
  return distributed.differences(
    {key: new.get(key) for key in judged},
    {key: old.get(key) for key in judged},
    "the run's",
  )


def _check_config(
  run_folder: str,
  config: dict[str, Any],
  free: Sequence[str],
  usual: dict[str, Any],
) -> dict[str, Any]:
  """Returns what the run is to be continued with: the config of its start."""
  path = os.path.join(run_folder, CONFIG)
  writes = jax.process_index() == 0
  saved = _has_checkpoint(run_folder)
  if not os.path.exists(path):
    if writes and saved:
      raise _lost(path, "is not there")
    if writes:
      write_json(path, config)
      return config
    raise UserError(
      f"process {jax.process_index()} does not see {path}, which process 0 has "
      "written; --workdir must be on a file system that all hosts share"
    )
  held = None
  try:
    with open(path) as file:
      held = json.load(file)
  except ValueError as error:
    if saved:
      raise _lost(path, f"is not readable as JSON ({error})") from None
  if not saved:
    if writes and held != config:
      write_json(path, config)
    return config
  if not is_config(held):
    raise _lost(path, "is not a run's config")
  differing = differences(held, config, free=free, usual=usual)
  if differing:
    raise UserError(
      f"{run_folder} holds a run of another config: {'; '.join(differing)}. "
      "Use another --workdir, or give the run's own values to continue it"
    )
  return held


def _lost(path: str, reason: str) -> UserError:
  return UserError(
    f"{path} {reason}, and nothing else tells whether this config is that of"
    " the checkpoints beside it; put a copy of it back, or use another"
    " --workdir"
  )


def put_by_earlier(run_folder: str) -> None:
  """Moves what an earlier run left out of the way of one that starts anew.

  Checkpoints that were deleted make place for another run; its folder must not
  show what the first one came to. Nothing is deleted.
  """
  names = [name for name in _OUTCOMES if _there(run_folder, name)]
  if not names:
    return
  stamp = time.strftime("%Y%m%d-%H%M%S")
  place = os.path.join(run_folder, f"earlier-{stamp}")
  names += [name for name in _TRACES if _there(run_folder, name)]
  with usable(run_folder):
    os.makedirs(place, exist_ok=True)
    for name in names:
      os.rename(os.path.join(run_folder, name), os.path.join(place, name))
  say(
    f"{run_folder} has no checkpoints and starts anew; {', '.join(names)} of"
    f" the run before are now in {place}"
  )


def _there(run_folder: str, name: str) -> bool:
  return os.path.lexists(os.path.join(run_folder, name))


def differences(
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  *,
  free: Sequence[str] = (),
  usual: Mapping[str, Any] | None = None,
) -> list[str]:
  """The keys in which two nested configs differ, each with both values.

  A key that one of them lacks and that is None, "the usual", in the other came
  or went with a version and is no difference; one that the old config lacks has
  its value in `usual`, the nested defaults. `free` names sections or dotted
  keys that may differ.
  """

  def held(config: Mapping[str, Any]) -> dict[str, Any]:
    values = dotted(config).items()
    within = tuple(f"{name}." for name in free)
    return {k: v for k, v in values if not f"{k}.".startswith(within)}

  new, old = held(new), held(old)
  later = {k: v for k, v in held(usual or {}).items() if k in new}
  return distributed.differences(new, later | old, "the run's")


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
