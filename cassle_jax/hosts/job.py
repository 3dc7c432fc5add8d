"""The job that this process is part of, and how it ends together.

`jax.distributed` does not end a job quickly: a process that raises leaves the
others in a collective until heartbeats are missed. So each process has a thread
that looks, twice a second, at what the others have announced in the
coordination service: a failure ends all of them, and SIGTERM on one is
everybody's (see `preemption`).
"""

import collections
import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cassle_jax.errors import UserError

# Of a process in which nothing moves: EX_TEMPFAIL of sysexits.h.
HUNG = 75
_POLL_SECONDS = 0.5
ROOT = "cassle_jax"


class Job:
  """The job that this process is part of."""

  def __init__(self, client: Any, count: int, index: int):
    self.client, self.count, self.index = client, count, index
    self.rounds: collections.Counter = collections.Counter()
    self.on_preempted: Callable[[], None] | None = None
    self.ending = threading.Lock()
    self.done = threading.Event()
    self.thread: threading.Thread | None = None

  def read(self, folder: str) -> dict[str, Any]:
    """What is written below a name: last part of the key -> JSON value."""
    entries = self.client.key_value_dir_get(f"{ROOT}/{folder}/")
    return {key.rsplit("/", 1)[1]: json.loads(text) for key, text in entries}

  def write(self, folder: str, value: Any) -> None:
    """Writes this process's JSON value below a name."""
    self.client.key_value_set(
      f"{ROOT}/{folder}/{self.index}", json.dumps(value), allow_overwrite=True
    )

  def barrier(self, name: str, seconds: float) -> None:
    """See `distributed.barrier`."""
    self.rounds[name] += 1
    place = f"{ROOT}/{name}/{self.rounds[name]}"
    try:
      self.client.wait_at_barrier(place, round(1000 * seconds))
    except Exception as error:
      raise TimeoutError(
        f"not all {self.count} processes came to {name!r} within {seconds:g}"
        f" s: {str(error).splitlines()[0]}"
      ) from None

  def watch(self) -> None:
    """Starts to look at what other processes announce."""
    if self.thread is None:
      self.thread = threading.Thread(target=self._watch, daemon=True)
      self.thread.start()

  def _watch(self) -> None:
    preempted = False
    while not self.done.wait(_POLL_SECONDS):
      try:
        failed = self.read("failed")
        # Only looked for once somebody can act on it.
        told = self.on_preempted is not None and self.read("preempted")
      except Exception:
        continue  # The service is gone: JAX ends the process itself.
      failed.pop(str(self.index), None)
      if failed:
        _claim(self)
        _follow(self, failed)
      if told and not preempted:
        preempted = True
        self.on_preempted()


_job: Job | None = None
_joining = False


@contextlib.contextmanager
def joining() -> Iterator[None]:
  """The time in which JAX has a connection that does not stand yet."""
  global _joining
  _joining = True
  try:
    yield
  finally:
    _joining = False


def current() -> Job | None:
  """The job, also where somebody else has called `jax.distributed`."""
  global _job
  if _job is None and "jax" in sys.modules and not _joining:
    # There is no public way to the key-value store and its barriers yet.
    try:
      from jax._src.distributed import global_state
    except ImportError:
      return None
    if global_state.client is not None and global_state.num_processes > 1:
      _job = Job(
        global_state.client, global_state.num_processes, global_state.process_id
      )
  return _job


def several() -> bool:
  """Whether there is more than one process."""
  return current() is not None


def forget() -> None:
  """Stops to look at the others, before the connection is closed."""
  global _job
  _job.done.set()
  if _job.thread is not None:
    _job.thread.join()
  _job = None


def leave(status: int, text: str) -> None:
  """Ends this process at once; for what all processes do at the same time."""
  job = current()
  _claim(job)
  if job.index == 0:
    tell(text)
  _exit(job, status)


def fail(error: BaseException) -> None:
  """Ends this process because of an error, and the others with it.

  Returns where there is one process, whose errors need no help. A `UserError`
  is one line and status 2, anything else a traceback and status 1.
  """
  job = current()
  if job is None:
    return
  _claim(job)
  line = " ".join(str(error).split())
  if isinstance(error, UserError):
    status, text = 2, line
  elif isinstance(error, KeyboardInterrupt):
    status, text = 130, "interrupted"
  else:
    status, text = 1, f"{type(error).__name__}: {line}"
    with contextlib.suppress(Exception):
      # What breaks because another process broke is of no interest.
      if others := job.read("failed"):
        _follow(job, others)
  with contextlib.suppress(Exception):
    job.write("failed", [status, text])
  if status == 1:
    traceback.print_exception(error)
    tell(f"process {job.index} failed: {text[:300]}")
  else:
    tell(f"error: {text}" if status == 2 else text)
  _exit(job, status, wait=True)


def abandon(status: int, text: str) -> None:
  """Ends this process, in which nothing moves, and the others with it.

  Whoever hangs may hold any lock, so the others are told by a thread that has
  a few seconds for it.
  """

  def announce() -> None:
    job = current()
    if job is not None:
      job.write("failed", [status, text])
      _exit(job, status, wait=True)

  thread = threading.Thread(target=announce, daemon=True)
  thread.start()
  thread.join(10)
  os._exit(status)


@contextlib.contextmanager
def fail_fast() -> Iterator[None]:
  """Ends the job on an error before anything is closed in an orderly way.

  Closing a run waits for saves and steps that the other processes have a part
  in. An error of the user's that all processes meet at the same time is left
  to the caller, so that a save under way is finished.
  """
  try:
    yield
  except (Exception, KeyboardInterrupt) as error:
    job = current()
    if job is not None:
      if not isinstance(error, UserError):
        fail(error)
      try:
        job.barrier("the same error", 2)
      except TimeoutError:
        fail(error)
    raise


def _follow(job: Job, failed: Mapping[str, Any]) -> None:
  """Ends this process because others have failed."""
  index = min(failed, key=int)
  status, text = failed[index]
  if status == 2:
    tell(f"error: process {index}: {text}")
  elif status == 130:
    tell(f"process {index} was interrupted")
  else:
    tell(
      f"ended because process {index} failed: {text[:300]}; its own output has"
      " the traceback"
    )
  if status == HUNG:  # Whoever noticed first need not be the one that hangs.
    faulthandler.dump_traceback(file=2, all_threads=True)
  _exit(job, status)


def _claim(job: Job) -> None:
  """Of two threads that both want to end the process only one goes on."""
  if not job.ending.acquire(blocking=False):
    time.sleep(3600)


def _exit(job: Job, status: int, *, wait: bool = False) -> None:
  """Ends the process, process 0 last: the others' connection ends with it.

  With `wait` the others must first have seen what happened here.
  """
  with contextlib.suppress(Exception):
    job.write("gone", True)
    deadline = time.monotonic() + 5
    while job.index == 0 or wait:
      if len(job.read("gone")) == job.count or time.monotonic() > deadline:
        break
      time.sleep(0.05)
  if job.index == 0:
    time.sleep(0.3)
  with contextlib.suppress(Exception):
    sys.stdout.flush()
    sys.stderr.flush()
  os._exit(status)


def excepthook(kind: type, error: BaseException, trace: Any) -> None:
  """For `sys.excepthook`: what nobody caught ends the whole job."""
  if current() is None:
    sys.__excepthook__(kind, error, trace)
  fail(error)


def tell(text: str) -> None:
  """Prints one line on stderr, before JAX knows which process this is."""
  sys.stderr.write(text + "\n")
  sys.stderr.flush()
