"""Rates and progress of a device that runs ahead of the host."""

import io
import sys

import jax.numpy as jnp
import pytest

from cassle_jax.runs import logs, progress


@pytest.fixture
def clock(monkeypatch):
  """Sets the time that a rate reads."""
  now = [100.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

  def advance(seconds):
    now[0] += seconds

  return advance


class Output:
  """Stands for a result that the device has not made yet."""

  def __init__(self):
    self.done = False

  def is_ready(self):
    return self.done

  def __float__(self):
    assert self.done, "this would have waited for the device"
    return 3.0


def test_rate_is_of_finished_steps(clock, monkeypatch):
  monkeypatch.setattr(progress.jax, "Array", Output)
  rate = progress.Throughput(10)
  outputs = [Output() for _ in range(4)]
  for step, output in enumerate(outputs, start=1):
    rate.add(step, output)  # dispatched at once
  assert rate.images_per_second is None and rate.latest is None
  for output in outputs[:3]:
    clock(0.5)
    output.done = True
    rate.poll()
  assert rate.images_per_second == pytest.approx(20)
  assert rate.latest == (3, outputs[2])


def test_rate_looks_back_over_a_window(clock):
  rate = progress.Throughput(8, window_seconds=10)
  for step in range(100):
    clock(1.0 if step < 50 else 0.1)
    rate.add(step, 0.0)
  clock(6.0)
  rate.poll()
  assert rate.images_per_second == pytest.approx(80, rel=0.05)


def test_a_pause_is_left_out(clock):
  rate = progress.Throughput(8)
  for step in range(5):
    clock(1.0)
    rate.add(step, 0.0)
  clock(60.0)
  rate.restart()
  assert rate.images_per_second is None
  for step in range(5, 8):
    rate.add(step, 0.0)
    clock(1.0)
  assert rate.images_per_second == pytest.approx(8)


def test_plain_lines_where_there_is_no_terminal(clock, capsys):
  with progress.ProgressBar(1000, batch_size=32, initial=100) as bar:
    for step in range(101, 401):
      clock(0.25)
      bar.update(step, jnp.float32(2.5))
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == "step 101/1000 (10%)  loss 2.5000"
  assert lines[1] == (
    "step 221/1000 (22%)  loss 2.5000  128 images/s  ETA 0:03:15"
  )
  assert lines[-1].startswith("step 400/1000 (40%)  loss 2.5000  128 images/s")
  assert len(lines) == 4


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_bar_on_a_terminal(monkeypatch):
  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  with progress.ProgressBar(20, batch_size=4) as bar:
    for step in range(1, 21):
      bar.update(step, jnp.float32(step))
    logs.say("a note")
  shown = terminal.getvalue()
  assert "20/20" in shown and "loss 20.0000" in shown and "images/s" in shown
  assert "a note\n" in shown


def test_showing_does_not_wait_for_the_device(clock, monkeypatch, capsys):
  monkeypatch.setattr(progress.jax, "Array", Output)
  outputs = [Output() for _ in range(6)]
  bar = progress.ProgressBar(6, batch_size=4, interval=1.0)
  for step, output in enumerate(outputs, start=1):
    clock(2.0)
    bar.update(step, output)
    if step > 2:
      outputs[step - 3].done = True
  bar.close()
  lines = capsys.readouterr().err.splitlines()
  # The step that has finished, not the one that was just started.
  assert lines[0] == "step 1/6 (17%)  loss 3.0000"
  assert all("loss 3.0000" in line for line in lines)
