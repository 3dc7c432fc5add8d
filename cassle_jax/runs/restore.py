"""Reading the checkpoints of a run, each array checked against its fingerprint.

Orbax does not notice a flipped bit and casts types in silence; both are checked
here, and told apart: a state that does not fit the config is the user's to mend
and is refused; a file that is proven to be damaged is put aside and the step
before it is used; anything else, such as a file system that does not answer,
ends the program and changes nothing.
checkpoint.py writes what is read here.
"""

import contextlib
import errno
import gc
import hashlib
import json
import logging
import os
import sys
import time
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from cassle_jax.errors import UserError
from cassle_jax.hosts import distributed
from cassle_jax.runs import failures
from cassle_jax.runs.alias import Alias
from cassle_jax.runs.fingerprint import fingerprint, flatten
from cassle_jax.runs.logs import say

ITEMS = ("state", "info")


class Unreadable(UserError):
  """A checkpoint cannot be read here and now, which proves no damage."""


class NoUsableCheckpoint(UserError):
  """There were checkpoints, and none of them can be read."""


class Restored(NamedTuple):
  """What a checkpoint held: the arrays, in the structure that was asked for.

  `extra` is the JSON value that was saved beside them; `mark` changes when any
  bit of any array of the checkpoint does.
  """

  state: Any
  step: int
  extra: Any
  mark: str = ""


class _Damaged(Exception):
  """A file does not hold what was written into it."""


class Reader:
  """Reads the checkpoints of a run, and changes nothing in its folder."""

  def __init__(self, folder: str):
    """Looks into a run's `checkpoints` folder, a path or a bucket's URL."""
    folder = os.fspath(folder)
    local = "://" not in folder
    self._folder = epath.Path(os.path.abspath(folder) if local else folder)
    self._alias: Alias | None = None
    self._manager: ocp.CheckpointManager | None = None

  def all_steps(self) -> list[int]:
    """The steps on disk, in ascending order.

    Raises:
      Unreadable: the folder is there and cannot be listed.
    """
    return distributed.from_first(
      "steps", lambda: sorted(int(x) for x in self._names() if _is_step(x))
    )

  def latest_step(self) -> int | None:
    """The newest step on disk, or None if nothing was ever saved here.

    Raises:
      NoUsableCheckpoint: if all that was saved is damaged: a run must not
        start again from step 0 as if nothing had happened.
    """
    steps = self.all_steps()
    if steps:
      return steps[-1]
    damaged = distributed.from_first(
      "damaged",
      lambda: [x for x in self._names() if x.startswith("damaged")],
    )
    if damaged:
      raise NoUsableCheckpoint(
        f"no usable checkpoint in {self._folder}: {len(damaged)} damaged "
        f"({', '.join(sorted(damaged)[:3])}); put a good copy of one back, or "
        "use a new --workdir to start again"
      )
    return None

  def restore(
    self, target: Any, step: int | None = None, *, partial: bool = False
  ) -> Restored:
    """Reads a state and checks it against what was saved, bit for bit.

    Args:
      target: the wanted structure: arrays or `jax.ShapeDtypeStruct`s, with
        their sharding on today's devices; without one they come to the first
        device.
      step: the step to read. None means the newest that is whole.
      partial: whether `target` may lack leaves that the checkpoint has, e.g.
        {"params": ...} of a whole training state.

    Returns:
      The state, its step and the extras.

    Raises:
      UserError: if there is no such step, or if names, shapes or types differ;
        the line names the leaves.
      NoUsableCheckpoint: if every candidate is damaged; all stay where they
        are, in case it is this program that misreads them.
      Unreadable: if the machine, or Orbax, is what fails; nothing is changed.
    """
    steps = self.all_steps()
    if step is not None and step not in steps:
      raise UserError(
        f"no checkpoint of step {step} in {self._folder}; there are: "
        f"{', '.join(map(str, steps)) or 'none'}"
      )
    if step is not None:
      try:
        return self._restore(target, step, partial)
      except _Damaged as damage:
        self._forget()
        others = ", ".join(str(s) for s in steps if s != step) or "none"
        raise NoUsableCheckpoint(
          f"checkpoint {step} in {self._folder} is damaged ({damage}); other "
          f"steps: {others}"
        ) from None
    damaged: dict[int, str] = {}
    while steps:
      candidate = steps.pop()
      try:
        found = self._restore(target, candidate, partial)
      except _Damaged as damage:
        self._forget()
        there = self.all_steps()
        if candidate in there:
          damaged[candidate] = str(damage)
        else:  # A run that trains on has removed it, and has newer ones.
          steps = [x for x in there if x not in damaged]
        continue
      for bad, damage in damaged.items():
        say(
          f"checkpoint {bad} in {self._folder} is damaged ({damage})"
          f"{self._set_aside(bad)}; using step {candidate} instead"
        )
      if damaged:
        self._forget()  # It still believes in them.
      return found
    self.latest_step()
    reasons = "; ".join(f"{bad}: {damaged[bad]}" for bad in damaged)
    raise NoUsableCheckpoint(
      f"no usable checkpoint in {self._folder}; {len(damaged)} damaged"
      f" ({reasons}). Put a good one there, or use a new --workdir to start"
      " again"
    )

  def close(self) -> None:
    """Ends the background threads; a second call does nothing."""
    if self._manager is not None:
      self._manager.close()
      self._manager = None
    if self._alias is not None:
      self._alias.close()
      self._alias = None

  def __enter__(self):
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _names(self) -> list[str]:
    """Names of what is in the folder; none where there is no folder.

    A run must not start again because a file system does not answer, which
    `exists` would take for a folder that is not there.
    """
    try:
      return [child.name for child in self._folder.iterdir()]
    except FileNotFoundError:
      return []
    except OSError as error:
      raise Unreadable(
        f"{self._folder} cannot be listed ({error.strerror or error}); when the"
        " file system answers again, the same command continues"
      ) from error

  def _options(self) -> ocp.CheckpointManagerOptions:
    return ocp.CheckpointManagerOptions(create=False, read_only=True)

  def _open(self) -> ocp.CheckpointManager:
    if self._manager is None:
      # A second call adds nothing.
      logging.getLogger("absl").addFilter(_from_elsewhere)
      if self._alias is None:
        self._alias = Alias(os.fspath(self._folder))
      self._manager = ocp.CheckpointManager(
        epath.Path(self._alias.path),
        options=self._options(),
        item_names=ITEMS,
      )
    return self._manager

  def _restore(self, target: Any, step: int, partial: bool) -> Restored:
    info = self._read_info(step)
    wanted, treedef = flatten(target)
    failures.check_spec(
      wanted, info["leaves"], partial, f"{self._folder}/{step}"
    )
    stored = {
      path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding(x))
      for path, x in wanted.items()
      if x.size
    }
    error = None
    leaves = {}
    try:
      leaves = self._read(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeRestore(
            stored,
            restore_args=ocp.checkpoint_utils.construct_restore_args(stored),
            partial_restore=True,
          )
        ),
      )["state"]
      # Orbax leaves what it does not find as it was asked for.
      lost = [p for p in stored if not isinstance(leaves.get(p), jax.Array)]
      if lost:
        raise FileNotFoundError(
          errno.ENOENT, f"{len(lost)} arrays are not in it, first {lost[0]}"
        )
      found = fingerprint(leaves)
      wrong = [p for p, f in found.items() if f != info["leaves"][p][2]]
      if wrong:
        error = f"{len(wrong)} arrays changed on disk, first {wrong[0]}"
    except Exception as exception:  # Orbax raises many types for bad files.
      error = self._damage(step, exception, info.get("versions"))
    _agree(error)
    for path, x in wanted.items():
      if not x.size:
        leaves[path] = jnp.zeros(x.shape, x.dtype, device=_sharding(x))
    state = jax.tree.unflatten(treedef, [leaves[path] for path in wanted])
    leaves = json.dumps(info["leaves"], sort_keys=True)
    mark = hashlib.blake2b(leaves.encode(), digest_size=16).hexdigest()
    return Restored(state, step, info["extra"], mark)

  def _read_info(self, step: int) -> dict[str, Any]:
    """Reads the JSON item; it carries its own checksum."""
    error, info = None, {}
    place = self._folder / str(step)
    try:
      # By hand: of Orbax's errors it would not be clear what they prove.
      info = json.loads((place / "info" / "metadata").read_bytes())
      if info.pop("checksum") != checksum(info):
        error = "its info file changed on disk"
      os.stat(place / "state")
    except (json.JSONDecodeError, UnicodeDecodeError):
      error = "its info file cannot be parsed"
    except (KeyError, AttributeError, TypeError):
      error = "its info file holds something else"
    except Exception as exception:
      error = self._damage(step, exception, None)
    _agree(error)
    return info

  def _damage(
    self, step: int, error: Exception, versions: Mapping[str, str] | None
  ) -> str:
    """What an error proves to be wrong with the files of a step.

    Raises:
      Unreadable: it proves nothing; good checkpoints stay in place.
      Exception: the error itself, where memory has run out.
    """
    chain, cause = [], error
    while cause is not None and cause not in chain:
      chain.append(cause)
      cause = cause.__cause__ or cause.__context__
    if any(
      isinstance(x, jax.errors.JaxRuntimeError | MemoryError) for x in chain
    ):
      raise error
    numbers = [x.errno for x in chain if isinstance(x, OSError)]
    machine = any(x not in failures.GONE for x in numbers)
    proof = any(
      isinstance(x, json.JSONDecodeError | UnicodeDecodeError)
      or str(x).startswith(failures.PROOF)
      for x in chain
    )
    if not machine and (numbers or proof):
      return failures.first_line(error)
    raise Unreadable(
      f"checkpoint {step} in {self._folder} cannot be read, which proves no"
      f" damage, so nothing was changed: {failures.cause(error)}."
      f" {failures.remedy(error, machine, versions)}"
    ) from error

  def _read(self, step: int, args: ocp.args.Composite) -> Any:
    """Restores items, and lets no noise through if that fails.

    Where one read fails, Orbax closes its event loop upon all others; each of
    them then reports that from its own thread, a moment later.
    """
    hook, logger = sys.unraisablehook, logging.getLogger("asyncio")

    def muffled(unraisable: Any) -> None:
      if "Event loop is closed" not in str(unraisable.exc_value):
        hook(unraisable)

    sys.unraisablehook = muffled
    logger.addFilter(_not_lost_task)  # For good: some are collected late.
    try:
      return self._open().restore(step, args=args)
    except Exception:
      self._forget()
      time.sleep(0.5)
      gc.collect()
      raise
    finally:
      sys.unraisablehook = hook

  def _set_aside(self, step: int) -> str:
    """Moves a damaged step out of the way; a reader leaves it there."""
    return ""

  def _forget(self) -> None:
    """Drops the manager and what it believes; its errors are known already."""
    manager, self._manager = self._manager, None
    if manager is not None:
      with contextlib.suppress(Exception):
        manager.close()


def _sharding(leaf: Any) -> jax.sharding.Sharding:
  sharding = getattr(leaf, "sharding", None)
  if sharding is None:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return sharding


def _from_elsewhere(record: logging.LogRecord) -> bool:
  """Whether a log record is not Orbax's.

  Orbax logs one failure many times over, with tracebacks, from its threads;
  all that matters is raised to the caller, who tells it in one line.
  """
  return f"{os.sep}orbax{os.sep}" not in record.pathname


def _not_lost_task(record: logging.LogRecord) -> bool:
  return "exception was never retrieved" not in record.getMessage()


def _agree(error: str | None) -> None:
  """Raises _Damaged on every host if there was an error on any of them."""
  for told in distributed.share("reading", error):
    if told is not None:
      raise _Damaged(told)


def _is_step(name: str) -> bool:
  return name.isascii() and name.isdigit() and str(int(name)) == name


def checksum(info: Mapping[str, Any]) -> int:
  """CRC-32 of a JSON object, whatever the order of its keys."""
  return zlib.crc32(json.dumps(info, sort_keys=True).encode())
