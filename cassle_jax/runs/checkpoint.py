"""Checkpoints by Orbax, with a fingerprint of every array.

    checkpoints/STEP/state    the arrays, by path ("params/backbone/...")
    checkpoints/STEP/info     JSON: shape, type and fingerprint of each, extras
    checkpoints/damaged-*     steps that did not read back as they were written

Orbax writes a step under another name and renames it when it is complete, so
that a kill leaves no half step. restore.py reads and checks what is saved here.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from cassle_jax.errors import AT_LEAST_0, AT_LEAST_1, UserError, require
from cassle_jax.hosts import distributed
from cassle_jax.runs.failures import first_line
from cassle_jax.runs.files import plain
from cassle_jax.runs.fingerprint import fingerprint, flatten, one_copy
from cassle_jax.runs.logs import say, versions
from cassle_jax.runs.restore import (
  Reader,
  Unreadable,
  checksum,
)

_UNFINISHED = ".orbax-checkpoint-tmp"
# Seconds until the writers of a failed save have seen that it failed; a new
# save of the same step goes to the same folder.
_SETTLE = 0.5
RULES = {
  "every": AT_LEAST_0,
  "keep_last": AT_LEAST_0,
  "keep_every": AT_LEAST_0,
  "max_failures": AT_LEAST_1,
}


class SaveError(UserError):
  """Several saves in a row failed."""


class Checkpointer(Reader):
  """Saves the state of a run while it trains on, and reads it back."""

  def __init__(
    self,
    folder: str,
    *,
    every: int = 1000,
    keep_last: int = 3,
    keep_every: int = 0,
    asynchronous: bool = True,
    max_failures: int = 3,
  ):
    """Opens the folder and removes what a killed save left in it.

    Args:
      folder: the run's `checkpoints` folder; created if need be.
      every: steps between saves; 0 saves only where the trainer asks to.
      keep_last: how many of the newest steps to keep; 0 keeps all.
      keep_every: steps that are a multiple of it are kept for good; 0 is none.
      asynchronous: whether to write in the background.
      max_failures: failed saves in a row after which the run stops.

    Raises:
      UserError: for a value out of range, or an unusable path.
    """
    super().__init__(folder)
    require(
      "checkpoint",
      RULES,
      every=every,
      keep_last=keep_last,
      keep_every=keep_every,
      max_failures=max_failures,
    )
    self._every = every
    self._keep_last = keep_last
    self._keep_every = keep_every
    self._asynchronous = asynchronous
    self._max_failures = max_failures
    self._failures = 0
    self._saving: int | None = None
    self._little_space = False
    self._folder.mkdir(parents=True, exist_ok=True)
    self._clean()
    self._open()

  def due(self, step: int) -> bool:
    """Whether `step` is one of those to save."""
    return self._every > 0 and step > 0 and step % self._every == 0

  def save(self, step: int, state: Any, extra: Any = None) -> bool:
    """Starts to save a state; returns when its buffers may be donated.

    Args:
      step: training steps done.
      state: any tree of arrays, sharded in any way.
      extra: a JSON value to keep beside it.

    Returns:
      Whether a save was started: not if the step is already on disk, the start
      failed or the disk has too little space.

    Raises:
      SaveError: when `max_failures` saves in a row have failed.
    """
    self.wait()
    if step in self.all_steps():
      self._failures = 0  # Whatever failed, the step is there.
      return False
    leaves = {path: one_copy(x) for path, x in flatten(state)[0].items()}
    full = self._check_space(leaves)
    while full is not None and self._make_room(leaves):
      full = self._check_space(leaves)
    if full is not None:
      self._saving = step
      self._failed(OSError(full))
      return False
    marks = fingerprint(leaves)
    info = plain(
      {
        "leaves": {
          path: [list(x.shape), x.dtype.name, marks[path]]
          for path, x in leaves.items()
        },
        "extra": extra,
        # Whom to ask where a later version cannot read it.
        "versions": versions(("cassle_jax", "jax", "orbax-checkpoint")),
      }
    )
    info["checksum"] = checksum(info)
    self._saving = step
    error = None
    try:
      # Orbax returns once the values are in host memory. On CPUs that is the
      # array's own memory, which JAX then refuses to donate; so no copy here.
      self._open().save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(
            {p: x for p, x in leaves.items() if x.size}
          ),
          info=ocp.args.JsonSave(info),
        ),
        force=True,
      )
    except Exception as exception:
      error = exception
    if self._failed(error):
      return False
    if not self._asynchronous:
      return self.wait()
    return True

  def wait(self) -> bool:
    """Waits for the save under way.

    Returns:
      Whether the last save that was started is complete on disk.

    Raises:
      SaveError: when `max_failures` saves in a row have failed.
    """
    if self._saving is None:
      return self._failures == 0
    error = None
    try:
      self._open().wait_until_finished()
    except Exception as exception:
      error = exception
    if self._saving not in self.all_steps() and error is None:
      error = OSError("the step is not on disk")
    if self._failed(error):
      return False
    self._failures = 0
    self._saving = None
    return True

  def close(self) -> None:
    """Waits for the save under way and ends the background threads."""
    try:
      if self._saving is not None:
        self.wait()
    finally:
      super().close()

  def _options(self) -> ocp.CheckpointManagerOptions:
    return ocp.CheckpointManagerOptions(
      create=True,
      max_to_keep=self._keep_last or None,
      keep_period=self._keep_every or None,
      enable_async_checkpointing=self._asynchronous,
    )

  def _clean(self) -> None:
    """Removes what killed or failed saves left behind, as far as it can.

    Orbax would do it in a thread that outlives the manager and, where the
    program ends at once with an error, adds a traceback of its own. Writers of
    a failed save may still be at work; what they leave goes the next time.
    """
    if jax.process_index() == 0:
      for name in self._names():
        if _UNFINISHED in name:
          with contextlib.suppress(OSError):
            (self._folder / name).rmtree()

  def _check_space(self, leaves: Mapping[str, Any]) -> str | None:
    """Says why a step cannot fit on the disk; warns if the next one may not.

    Orbax would find out when it is half written, and take the last free bytes
    from what else is to be written.
    """
    needed = _bytes(leaves)
    free = free_bytes(os.fspath(self._folder))
    told = distributed.share("free space", free)  # All save, or none.
    free = min((x for x in told if x is not None), default=None)
    if free is None:
      return None
    words = f"{free / 1e6:,.0f} MB free, a step takes {needed / 1e6:,.0f} MB"
    if free < needed:
      return f"too little space: {words}"
    little = free < 2 * needed
    if little and not self._little_space:
      say(
        f"little space for checkpoints in {self._folder}: {words}; make room,"
        " or lower checkpoint.keep_last"
      )
    self._little_space = little
    return None

  def _failed(self, error: Exception | None) -> bool:
    """Notes a save that failed here or on another host; returns whether.

    A new manager forgets the step that the old one believes in.
    """
    lines = distributed.share("saving", error and first_line(error))
    space = distributed.share("space", error is not None and _of_space(error))
    line = next((line for line in lines if line is not None), None)
    if line is None:
      return False
    step, self._saving = self._saving, None
    self._failures += 1
    say(
      f"checkpoint {step} could not be saved in {self._folder} (failure "
      f"{self._failures} of {self._max_failures} in a row): {line}"
    )
    self._forget()
    if any(space):
      self._make_room()
    time.sleep(_SETTLE)
    self._clean()
    if self._failures >= self._max_failures:
      raise SaveError(
        f"{self._failures} saves in a row failed in {self._folder}, the last "
        f"of step {step}: {line}"
      ) from error
    self._open()
    return True

  def _make_room(self, leaves: Mapping[str, Any] | None = None) -> bool:
    """Removes the oldest step that a later save would remove; tells whether.

    The newest complete one stays, and what is kept for good. With `leaves`, the
    arrays to save, nothing is removed that would not be enough.
    """
    steps = self.all_steps()[:-1]
    if self._keep_every:
      steps = [step for step in steps if step % self._keep_every]
    if not steps:
      return False

    def remove() -> bool:
      if leaves is not None:
        held = sum(_size(os.path.join(self._folder, str(x))) for x in steps)
        if held + (free_bytes(os.fspath(self._folder)) or 0) < _bytes(leaves):
          return False
      try:
        (self._folder / str(steps[0])).rmtree()
      except OSError as error:
        say(f"checkpoint {steps[0]} cannot be removed: {error.strerror}")
        return False
      return True

    removed = distributed.from_first("make room", remove)
    if removed:
      say(f"removed checkpoint {steps[0]}, the oldest, to make room")
      self._forget()  # It still counts it.
    return removed

  def _set_aside(self, step: int) -> str:
    def rename() -> str:
      name = f"damaged-{step}-{time.strftime('%Y%m%dT%H%M%S')}"
      taken = self._names()
      while name in taken:
        name += "x"
      (self._folder / str(step)).rename(self._folder / name)
      return name

    try:
      name = distributed.from_first("set aside", rename)
    except OSError as error:
      # It would be in the way of the step that is trained anew.
      raise Unreadable(
        f"checkpoint {step} in {self._folder} is damaged and cannot be renamed"
        f" ({error.strerror}); move it away and give the same command again"
      ) from error
    return f"; it is now called {name}"


def _bytes(leaves: Mapping[str, Any]) -> int:
  return sum(x.size * x.dtype.itemsize for x in leaves.values())


def _size(folder: str) -> int:
  """Bytes of the files below a folder."""
  paths = [
    os.path.join(parent, name)
    for parent, _, names in os.walk(folder)
    for name in names
  ]
  return sum(os.path.getsize(path) for path in paths)


def _of_space(error: BaseException) -> bool:
  """Whether an error says that a disk, or somebody's share of it, is full."""
  words = ("No space left", "quota exceeded")
  return any(word in str(error) for word in words)


def free_bytes(folder: str) -> int | None:
  """What can be written to a folder's disk; None where nothing tells."""
  if "://" in folder:
    return None
  try:
    return shutil.disk_usage(folder).free
  except OSError:
    return None
