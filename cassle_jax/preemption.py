"""SIGTERM as a flag that the training loop asks about.

Schedulers send SIGTERM some seconds or minutes before they take a machine
away. The handler only notes it; the loop saves at the next safe moment and
the process exits with `EXIT_STATUS`, on which schedulers start it again.
"""

import signal
import types

EXIT_STATUS = 143


class Preempted(Exception):
  """Raised where work is interrupted between two safe moments."""


class Watch:
  """Notes SIGTERM while it is entered as a context.

  Attributes:
    requested: whether SIGTERM has come.
  """

  def __init__(self) -> None:
    self.requested = False
    self._previous = None

  def __enter__(self) -> "Watch":
    self._previous = signal.signal(signal.SIGTERM, self._note)
    return self

  def __exit__(self, *_) -> None:
    signal.signal(signal.SIGTERM, self._previous)

  def _note(self, number: int, frame: types.FrameType | None) -> None:
    self.requested = True

  def check(self) -> None:
    """Raises Preempted if SIGTERM has come; for long work in pieces."""
    if self.requested:
      raise Preempted
