"""SIGTERM, Ctrl-C and a closed terminal as a flag that the loop asks about.

Schedulers send SIGTERM some seconds or minutes before they take a machine
away. While there are unsaved steps the signal is only noted: the loop saves at
the next safe moment and the process exits with `EXIT_STATUS`, on which
schedulers start it again. While there are none (start-up, compilation, the
final evaluation) the process exits at once, whatever it is busy with.

Ctrl-C (SIGINT) and the end of a terminal (SIGHUP) do the same with statuses of
their own. A second Ctrl-C stops at once and says what is lost.

Of several processes one may get the signal or all. It is announced to all, and
they agree: where no process has anything unsaved all exit at once, else all
stop at the same poll, the one after the furthest that any has come to.
"""

import collections
import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Callable

from cassle_jax.hosts import distributed, job

EXIT_STATUS = 143
# Signal -> what it is called.
_NAMES = {
  signal.SIGTERM: "SIGTERM",
  signal.SIGINT: "interrupted",
  signal.SIGHUP: "the terminal was closed",
}
_AGREE_SECONDS = 60
_NOTHING = "nothing unsaved; the same command continues"


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
    requested: whether a signal has come, to this process or to another.
    number: which.
    at_stake: says in words what an end at once would lose.
  """

  _entered: "Watch | None" = None

  def __init__(self, *, command: bool = False) -> None:
    """Watches nothing until it is entered.

    Args:
      command: whether the process is a command of its own. If not, as in a
        notebook, Ctrl-C where nothing is unsaved, and a second one, are the
        usual KeyboardInterrupt.
    """
    self.requested = False
    self.number = signal.SIGTERM
    self.at_stake: Callable[[], str] = lambda: "what was not saved"
    self._command = command
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
    handlers = {
      number: signal.signal(number, self._note)
      for number in _NAMES
      # Left alone where it is ignored, by nohup or a shell's background job.
      if number == signal.SIGTERM
      or signal.getsignal(number) is not signal.SIG_IGN
    }
    self._previous = handlers, wakeup, write
    Watch._entered = self
    reader = threading.Thread(target=self._listen, args=(read,), daemon=True)
    reader.start()
    self.join()
    return self

  def __exit__(self, *_) -> None:
    if self._previous is None:
      return
    handlers, wakeup, write = self._previous
    for number, handler in handlers.items():
      signal.signal(number, handler or signal.SIG_DFL)
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

  @property
  def status(self) -> int:
    """The exit status of what the signal ends: 143, 130 or 129."""
    return 128 + self.number

  @property
  def cause(self) -> str:
    """The signal in words."""
    return _NAMES[self.number]

  def check(self) -> None:
    """Raises Preempted if a signal has come; for long work in pieces.

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
    again = self.requested and number == signal.SIGINT == self.number
    if number == signal.SIGINT and not self._command:
      if again or not self.unsaved:
        raise KeyboardInterrupt
    if not self.requested:
      self.number = signal.Signals(number)
    self.requested = True

  def _listen(self, read: int) -> None:
    counts: collections.Counter = collections.Counter()
    while numbers := os.read(read, 64):
      for number in numbers:
        if number in _NAMES:
          counts[number] += 1
          self._hear(signal.Signals(number), counts[number])
    os.close(read)

  def _hear(self, number: signal.Signals, times: int) -> None:
    """Acts on a signal, on a thread: the main one may be busy for minutes."""
    interrupt = number == signal.SIGINT
    if interrupt and not self._command:
      return  # The main thread's handler does all there is to do.
    if interrupt and times > 1:
      self._end(f"interrupted again: lost is {self.at_stake()}", 130)
    if not self.requested:
      self.number = number
    self.requested = True
    known = job.current()
    if known is not None:
      known.write("preempted", int(number))
    elif not self.unsaved:
      self._end(f"{_NAMES[number]}: {_NOTHING}", 128 + number)
    if interrupt:
      self._tell(
        "interrupted: saving first; Ctrl-C again stops at once and loses"
        f" {self.at_stake()}"
      )

  def _end(self, text: str, status: int) -> None:
    self._tell(text)
    job.abandon(status, text)

  def _tell(self, text: str) -> None:
    with contextlib.suppress(OSError):  # The terminal may be gone.
      sys.stderr.write(f"\n{text}\n" if sys.stderr.isatty() else f"{text}\n")
      sys.stderr.flush()

  def _agree(self) -> None:
    """Settles with the other processes where to stop; on a thread of each."""
    self.requested = True
    known = job.current()
    with self._lock:
      try:
        hosts = distributed.share(
          "preemption", [self._polls, self._unsaved], seconds=_AGREE_SECONDS
        )
        told = known.read("preempted").values()
      except TimeoutError as error:
        job.tell(f"{self.cause} is not acted upon: {error}")
        return
      # A scheduler's signal goes before: it starts the job again on its status.
      self.number = min(
        (signal.Signals(number) for number in told),
        key=list(_NAMES).index,
        default=self.number,
      )
      if not any(unsaved for _, unsaved in hosts):
        job.leave(self.status, f"{self.cause}: {_NOTHING}")
      self._stop_at = 1 + max(polls for polls, _ in hosts)
