"""What a signal does, to a command and to a notebook."""

import os
import signal
import time

import pytest

from cassle_jax.hosts import preemption
from cassle_jax.hosts.preemption import Preempted, Watch


@pytest.fixture
def ended(monkeypatch):
  """(status, words) with which a watch would have ended the process."""
  ends = []
  monkeypatch.setattr(
    preemption.job, "abandon", lambda status, text: ends.append((status, text))
  )
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield ends
  signal.signal(signal.SIGINT, before)


def send(number, until):
  os.kill(os.getpid(), number)
  deadline = time.monotonic() + 60
  while not until():
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.parametrize(
  "number, status, cause",
  [
    (signal.SIGTERM, 143, "SIGTERM"),
    (signal.SIGINT, 130, "interrupted"),
    (signal.SIGHUP, 129, "the terminal was closed"),
  ],
)
def test_a_signal_waits_for_a_save_where_there_is_something_to(
  ended, number, status, cause
):
  handler = signal.getsignal(number)
  with Watch(command=True) as watch:
    watch.check()
    watch.unsaved = True
    send(number, lambda: watch.requested)
    assert (watch.status, watch.cause) == (status, cause)
    with pytest.raises(Preempted):
      watch.check()
  assert not ended
  assert signal.getsignal(number) == handler


@pytest.mark.parametrize(
  "number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_with_nothing_to_save_a_command_ends_at_once(ended, number, status):
  with Watch(command=True):
    send(number, lambda: ended)
  assert ended[0][0] == status and "nothing unsaved" in ended[0][1]


def test_a_second_interrupt_says_what_is_lost(ended, capfd):
  with Watch(command=True) as watch:
    watch.unsaved = True
    watch.at_stake = lambda: "932 steps, those since step 0"
    send(signal.SIGINT, lambda: watch.requested)
    send(signal.SIGINT, lambda: ended)
  assert ended[0][0] == 130
  told = capfd.readouterr().err
  assert "saving first; Ctrl-C again stops at once and loses 932" in told
  assert "interrupted again: lost is 932 steps, those since step 0" in told


def test_in_a_notebook_the_process_stays(ended):
  with pytest.raises(KeyboardInterrupt), Watch():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
  with pytest.raises(KeyboardInterrupt), Watch() as watch:
    watch.unsaved = True
    os.kill(os.getpid(), signal.SIGINT)  # Only noted.
    time.sleep(0.05)
    assert watch.requested and watch.status == 130
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
  assert not ended


def test_ignored_signals_stay_ignored(ended):
  """As nohup, and shells with background jobs, leave them."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  with Watch(command=True) as watch:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
    assert not watch.requested
