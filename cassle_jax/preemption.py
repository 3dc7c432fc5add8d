"""SIGTERM as a flag that the training loop asks about.

Schedulers send SIGTERM some seconds or minutes before they take a machine
away. While there are unsaved steps the signal is only noted: the loop saves at
the next safe moment and the process exits with `EXIT_STATUS`, on which
schedulers start it again. While there are none (start-up, compilation, the
final evaluation) the process exits at once, whatever it is busy with.
"""

import os
import signal
import sys
import threading
import types

EXIT_STATUS = 143


class Preempted(Exception):
  """Raised where work is interrupted between two safe moments."""


class Watch:
  """Notes SIGTERM while it is entered as a context.

  Python runs signal handlers between two bytecodes of the main thread, and a
  compilation is one bytecode of minutes. So a thread of its own reads the
  signals from a pipe that Python writes them to. Outside the main thread, where
  no handler can be set, a watch does nothing.

  Attributes:
    requested: whether SIGTERM has come.
    unsaved: whether there are steps that a sudden exit would lose.
  """

  def __init__(self) -> None:
    self.requested = False
    self.unsaved = False
    self._previous = None

  def __enter__(self) -> "Watch":
    if threading.current_thread() is not threading.main_thread():
      return self
    read, write = os.pipe()
    os.set_blocking(write, False)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    handler = signal.signal(signal.SIGTERM, self._note)
    self._previous = handler, wakeup, write
    reader = threading.Thread(target=self._listen, args=(read,), daemon=True)
    reader.start()
    return self

  def __exit__(self, *_) -> None:
    if self._previous is None:
      return
    handler, wakeup, write = self._previous
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
    signal.set_wakeup_fd(wakeup)
    os.close(write)  # The reader sees the end of its pipe and ends.
    self._previous = None

  def _note(self, number: int, frame: types.FrameType | None) -> None:
    self.requested = True

  def _listen(self, read: int) -> None:
    while numbers := os.read(read, 64):
      if signal.SIGTERM not in numbers:
        continue
      self.requested = True
      if not self.unsaved:
        sys.stderr.write(
          "SIGTERM: nothing unsaved; the same command continues\n"
        )
        sys.stderr.flush()
        os._exit(EXIT_STATUS)
    os.close(read)

  def check(self) -> None:
    """Raises Preempted if SIGTERM has come; for long work in pieces."""
    if self.requested:
      raise Preempted
