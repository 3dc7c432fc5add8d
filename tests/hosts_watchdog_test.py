"""A process in which nothing moves ends, and says where it stood."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cassle_jax.hosts import watchdog
from cassle_jax.training import loop

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class End:
  """Takes the place of `job.abandon`."""

  def __init__(self):
    self.called = threading.Event()

  def __call__(self, status, text):
    self.status, self.text = status, text
    self.called.set()


def make(folder, seconds=0.2, pause_seconds=30.0):
  end = End()
  dog = watchdog.Watchdog(
    str(folder), seconds=seconds, pause_seconds=pause_seconds, end=end
  )
  return dog, end


def hang_here(event):
  event.wait(30)


def test_a_step_that_hangs_ends_the_process_with_its_stacks(tmp_path, capfd):
  dog, end = make(tmp_path)
  with dog:
    dog.step(7)
    hang_here(end.called)
  assert end.status == watchdog.EXIT_STATUS
  (path,) = tmp_path.iterdir()
  assert path.name == "hang-step-7.txt"
  for text in (path.read_text(), capfd.readouterr().err):
    assert "watchdog: the step after 7 did not end in" in text
    assert "hang_here" in text and "_watch" in text  # All threads.


@pytest.fixture
def wait(monkeypatch):
  """Lets the watchdog's clock go on, and its thread look at it."""
  now = [0.0]
  monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])

  def wait(seconds):
    now[0] += seconds
    time.sleep(0.06)

  return wait


def test_steps_that_end_and_pauses_within_their_bound_are_left_alone(
  tmp_path, wait
):
  dog, end = make(tmp_path)
  with dog:
    wait(0.4)  # The start is no step.
    for step in range(10):
      dog.step(step)
      wait(0.05)
    with dog.pause("an evaluation"):
      wait(0.4)
    wait(0.1)
  assert not end.called.is_set()


def test_a_pause_has_a_bound_of_its_own(tmp_path, capfd, wait):
  dog, end = make(tmp_path, seconds=30.0, pause_seconds=0.2)
  with dog:
    dog.step(1)
    with dog.pause("the compilation"):
      for _ in range(4):  # Pieces of it are progress.
        wait(0.1)
        dog.alive()
      assert not end.called.is_set()
      for _ in range(500):
        if not end.called.is_set():
          wait(0.1)
  assert "the compilation did not end" in capfd.readouterr().err


def test_the_bound_follows_the_median_step(tmp_path, monkeypatch):
  dog, _ = make(tmp_path, seconds=40.0, pause_seconds=0)
  assert dog.limit == float("inf")
  now = [0.0]
  monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
  for step, seconds in enumerate([0, 5, 5, 5, 900, 5]):
    now[0] += seconds
    dog.step(step)
  assert dog.limit == 50.0  # Ten times the median of 5, 5, 5, 900, 5.
  with dog.pause("a save"):
    now[0] += 1000
  for step, seconds in enumerate([0, 1, 1, 1, 1, 1, 1]):
    now[0] += seconds
    dog.step(step)
  assert dog.limit == 40.0  # The time of the pause is no step's.


def test_zero_watches_nothing(tmp_path):
  dog, _ = make(tmp_path, seconds=0.0)
  before = threading.active_count()
  with dog:
    assert threading.active_count() == before


HANG = """
import sys, time
from cassle_jax import main
from cassle_jax.config import cli
from cassle_jax.training import loop

compile_step = loop.Trainer.compile

def compile_and_hang(self, *inputs):
  step = compile_step(self, *inputs)
  def hang_at_three(state, *arguments):
    if self.step == 3:
      time.sleep(1000)
    return step(state, *arguments)
  return hang_at_three

loop.Trainer.compile = compile_and_hang
cli.run(main.main)
"""


@pytest.mark.slow
def test_a_run_that_hangs_exits_for_a_restart_and_goes_on(tmp_path):
  import training_loop_test as tiny

  workdir = str(tmp_path / "run")
  flags = tiny.command(workdir, "--config.guard.watchdog_seconds=3")[3:]
  with open(tmp_path / "log", "w+") as log:
    process = subprocess.Popen(
      [sys.executable, "-c", HANG, *flags],
      stdout=log,
      stderr=log,
      start_new_session=True,
    )
    try:
      assert process.wait(timeout=240) == watchdog.EXIT_STATUS
    finally:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    log.seek(0)
    said = log.read()
  (name,) = (n for n in os.listdir(workdir) if n.startswith("hang"))
  with open(os.path.join(workdir, name)) as file:
    stacks = file.read()
  for text in (said, stacks):
    assert "watchdog: the step after" in text and "hang_at_three" in text
  assert loop.run(tiny.small(), workdir) == 0
