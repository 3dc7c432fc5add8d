"""A thread that ends a process in which nothing moves, and says where it stood.

A step can hang for good: a collective whose partner is gone, a file system that
does not answer, a lock. A scheduler sees a process that runs. This one ends
with `EXIT_STATUS`, on which a scheduler should start it again, and leaves the
stacks of all threads in the run's folder.
"""

import collections
import contextlib
import faulthandler
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator

from cassle_jax.hosts import job

EXIT_STATUS = job.HUNG
# A step may take this many times the median of those before it.
_TIMES = 10
# Medians are over so many steps.
_WINDOW = 200


class Watchdog:
  """Ends the process when no step is finished in time; see `limit`.

  The clock counts only time in which the thread itself could run, so that a
  process that was stopped and continued (a suspended job, a machine that was
  moved) is not ended for it.
  """

  def __init__(
    self,
    folder: str,
    *,
    seconds: float,
    pause_seconds: float,
    suffix: str = "",
    end: Callable[[int, str], None] = job.abandon,
  ):
    """Sets the bounds; nothing is watched until it is entered as a context.

    Args:
      folder: the run's, for the stacks.
      seconds: least bound for a step; 0 watches nothing.
      pause_seconds: bound for what is no step; 0 is none.
      suffix: of the file's name, where several processes share the folder.
      end: ends the process with a status, and tells others why.
    """
    self._folder, self._suffix, self._end = folder, suffix, end
    self._seconds, self._pause_seconds = seconds, pause_seconds
    self._steps: collections.deque = collections.deque(maxlen=_WINDOW)
    self._lock = threading.Lock()
    self._closed = threading.Event()
    self._thread: threading.Thread | None = None
    self._waited, self._last = 0.0, None
    self._what = "the start"  # Of what is no step, else "".
    self._step = 0

  def __enter__(self) -> "Watchdog":
    if self._seconds > 0:
      self._thread = threading.Thread(
        target=self._watch, name="watchdog", daemon=True
      )
      self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._closed.set()
    if self._thread is not None:
      self._thread.join()

  @property
  def limit(self) -> float:
    """Seconds that what goes on may take; infinite where nothing bounds it."""
    if self._what:
      return self._pause_seconds or float("inf")
    times = self._steps
    median = statistics.median(times) if times else 0.0
    return max(_TIMES * median, self._seconds)

  def step(self, step: int) -> None:
    """Notes that a step was seen to be finished."""
    now = time.monotonic()
    with self._lock:
      if self._last is not None:
        self._steps.append(now - self._last)
      self._step, self._last, self._waited, self._what = step, now, 0.0, ""

  def alive(self) -> None:
    """Notes that something else has made progress."""
    with self._lock:
      self._waited = 0.0

  @contextlib.contextmanager
  def pause(self, what: str) -> Iterator[None]:
    """What goes on inside is no step: it has the bound of a pause."""
    with self._lock:
      before, self._what, self._waited = self._what, what, 0.0
    try:
      yield
    finally:
      with self._lock:
        self._what, self._waited, self._last = before, 0.0, None

  def _watch(self) -> None:
    bounds = [x for x in (self._seconds, self._pause_seconds) if x > 0]
    poll = min(1.0, min(bounds) / 4)
    before = time.monotonic()
    while not self._closed.wait(poll):
      now = time.monotonic()
      with self._lock:
        self._waited += min(now - before, 2 * poll)
        late = self._waited > self.limit
        what, waited = self._what, self._waited
      before = now
      if late:
        self._bark(what or f"the step after {self._step}", waited)
        return

  def _bark(self, what: str, waited: float) -> None:
    """Writes all stacks and ends the process.

    By system calls alone: whoever hangs may hold the locks of what is above.
    """
    path = os.path.join(
      self._folder, f"hang-step-{self._step}{self._suffix}.txt"
    )
    line = (
      f"watchdog: {what} did not end in {waited:.0f} s"
      f" (guard.watchdog_seconds, guard.pause_seconds); all stacks are in"
      f" {path}; status {EXIT_STATUS}, the same command continues\n"
    )
    os.write(2, line.encode())
    faulthandler.dump_traceback(file=2, all_threads=True)
    with contextlib.suppress(OSError), open(path, "w") as file:
      file.write(line)
      file.flush()
      faulthandler.dump_traceback(file=file, all_threads=True)
    self._end(EXIT_STATUS, f"{what} did not end in {waited:.0f} s")
