"""SIGTERM as a flag that the training loop asks about.

Schedulers send SIGTERM some seconds or minutes before they take a machine
away. While there are unsaved steps the signal is only noted: the loop saves at
the next safe moment and the process exits with `EXIT_STATUS`, on which
schedulers start it again. While there are none (start-up, compilation, the
final evaluation) the process exits at once, whatever it is busy with.

Of several processes one may get the signal or all. It is announced to all, and
they agree: where no process has anything unsaved all exit at once, else all
stop at the same poll, the one after the furthest that any has come to.
"""

import os
import signal
import sys
import threading
import types

from cassle_jax.hosts import distributed, job

EXIT_STATUS = 143
_AGREE_SECONDS = 60
_NOTHING = "SIGTERM: nothing unsaved; the same command continues"


class Preempted(Exception):
  """Raised where work is interrupted between two safe moments."""


class Watch:
  """Notes SIGTERM while it is entered as a context.

  Python runs signal handlers between two bytecodes of the main thread, and a
  compilation is one bytecode of minutes. So a thread of its own reads the
  signals from a pipe that Python writes them to. Outside the main thread, where
  no handler can be set, a watch does nothing. Within another watch it is that
  one.

  Attributes:
    requested: whether SIGTERM has come, to this process or to another.
  """

  _entered: "Watch | None" = None

  def __init__(self) -> None:
    self.requested = False
    self._unsaved = False
    self._previous = None
    # Held while processes agree: none of them gets any further meanwhile.
    self._lock = threading.Lock()
    self._polls = 0
    self._stop_at: int | None = None

  def __enter__(self) -> "Watch":
    if Watch._entered is not None:
      return Watch._entered
    if threading.current_thread() is not threading.main_thread():
      return self
    read, write = os.pipe()
    os.set_blocking(write, False)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    handler = signal.signal(signal.SIGTERM, self._note)
    self._previous = handler, wakeup, write
    Watch._entered = self
    reader = threading.Thread(target=self._listen, args=(read,), daemon=True)
    reader.start()
    self.join()
    return self

  def __exit__(self, *_) -> None:
    if self._previous is None:
      return
    handler, wakeup, write = self._previous
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
    signal.set_wakeup_fd(wakeup)
    os.close(write)  # The reader sees the end of its pipe and ends.
    self._previous = None
    Watch._entered = None

  def join(self) -> None:
    """Acts together with the other processes from here on, if there are any."""
    known = job.current()
    if known is not None:
      known.on_preempted = self._agree
      known.watch()

  @property
  def unsaved(self) -> bool:
    """Whether there are steps that a sudden exit would lose."""
    return self._unsaved

  @unsaved.setter
  def unsaved(self, value: bool) -> None:
    with self._lock:
      self._unsaved = value

  def check(self) -> None:
    """Raises Preempted if SIGTERM has come; for long work in pieces.

    All processes must call it equally often, at the same places.
    """
    with self._lock:
      self._polls += 1
      stop_at = self._stop_at
    if stop_at is not None and self._polls >= stop_at:
      raise Preempted
    if self.requested and not job.several():
      raise Preempted

  def _note(self, number: int, frame: types.FrameType | None) -> None:
    self.requested = True

  def _listen(self, read: int) -> None:
    while numbers := os.read(read, 64):
      if signal.SIGTERM not in numbers:
        continue
      self.requested = True
      known = job.current()
      if known is not None:
        known.write("preempted", True)
      elif not self.unsaved:
        sys.stderr.write(_NOTHING + "\n")
        sys.stderr.flush()
        os._exit(EXIT_STATUS)
    os.close(read)

  def _agree(self) -> None:
    """Settles with the other processes where to stop; on a thread of each."""
    self.requested = True
    with self._lock:
      try:
        hosts = distributed.share(
          "preemption", [self._polls, self._unsaved], seconds=_AGREE_SECONDS
        )
      except TimeoutError as error:
        job.tell(f"SIGTERM is not acted upon: {error}")
        return
      if not any(unsaved for _, unsaved in hosts):
        job.leave(EXIT_STATUS, _NOTHING)
      self._stop_at = 1 + max(polls for polls, _ in hosts)
