"""Kills in the middle of a save, and a disk that is really full."""

import os
import random
import signal
import subprocess
import sys
import time

import checkpoint_writer
import jax
import numpy as np
import pytest
import training_loop_test as tiny

from cassle_jax.runs import checkpoint, progress, restore
from cassle_jax.training import loop

WRITER = checkpoint_writer.__file__
NUMBERS = 2**23  # 32 MB a state.


def unfinished(folder):
  names = os.listdir(folder) if os.path.isdir(folder) else []
  return [name for name in names if name.endswith("checkpoint-tmp")]


def told(path):
  """(word, step) of the lines that the writer printed."""
  with open(path) as log:
    words = [line.split() for line in log if line.endswith("\n")]
  return [(w[0], int(w[1])) for w in words if w[0] in ("start", "done")]


def until(condition, process):
  deadline = time.time() + 120
  while not condition():
    assert process.poll() is None and time.time() < deadline
    time.sleep(0.002)
  return time.time()


@pytest.mark.slow
def test_twenty_kills_in_a_save_lose_no_complete_step(tmp_path):
  """Each time the last complete step is there, bit for bit, and goes on."""
  folder, path = str(tmp_path / "c"), str(tmp_path / "log")
  generator = random.Random(0)
  steps, amid = [0], 0
  for trial in range(20):
    with open(path, "w") as log:
      process = subprocess.Popen(
        [sys.executable, WRITER, folder, str(NUMBERS)],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )
    try:
      # How long a save takes here and now, then strike somewhere within one.
      until(lambda: told(path), process)
      began = until(lambda: unfinished(folder), process)
      seconds = until(lambda: told(path)[1:], process) - began
      until(lambda: unfinished(folder), process)
      time.sleep(generator.uniform(0.0, seconds))
    finally:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    amid += bool(unfinished(folder))
    (_, resumed), *done = told(path)
    assert resumed == steps[-1], "it must go on from the last complete step"
    complete = restore.Reader(folder).latest_step()
    # A step may be complete a moment before the writer can say so.
    assert complete - done[-1][1] in (0, 1), (trial, done)
    expected = checkpoint_writer.state_of(complete, NUMBERS)
    with restore.Reader(folder) as reader:
      found = reader.restore(expected)
    assert (found.step, found.extra) == (complete, {"note": complete})
    for a, b in zip(
      jax.tree.leaves(found.state), jax.tree.leaves(expected), strict=True
    ):
      assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    steps.append(complete)
    print(f"killed amid a save: {amid} of {trial + 1}; steps: {steps}")
  assert amid >= 10


def mounts():
  """Whether a small disk can be made here."""
  return os.geteuid() == 0 and not subprocess.call(
    "d=$(mktemp -d) && mount -t tmpfs -o size=1m none $d && umount $d",
    shell=True,
    stderr=subprocess.DEVNULL,
  )


@pytest.fixture
def small_disk(tmp_path):
  if not mounts():
    pytest.skip("needs root, to make a small disk")
  folder = tmp_path / "disk"
  folder.mkdir()
  subprocess.check_call(
    ["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(folder)]
  )
  yield folder
  subprocess.check_call(["umount", str(folder)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("known", [True, False])
def test_a_full_disk_costs_no_step_and_no_earlier_checkpoint(
  small_disk, tmp_path, monkeypatch, capfd, known
):
  """Full from step 2 to step 5, whether or not the disk tells its space."""
  config = tiny.small(**{"checkpoint.every": 1, "checkpoint.max_failures": 5})
  straight, workdir = str(tmp_path / "a"), str(small_disk / "b")
  assert loop.run(config, straight) == 0
  if not known:
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: None)
  filler = small_disk / "filler"
  listed = []
  update = progress.ProgressBar.update

  def fill(self, step, loss=None):
    update(self, step, loss)
    reader = restore.Reader(os.path.join(workdir, "checkpoints"))
    if step == 3:
      while reader.latest_step() != 2:
        time.sleep(0.01)
      with open(filler, "wb", buffering=0) as file:
        try:
          while True:
            file.write(bytes(4096))
        except OSError:
          pass
    elif step == 5:
      listed.extend(reader.all_steps())
      filler.unlink()

  monkeypatch.setattr(progress.ProgressBar, "update", fill)
  assert loop.run(config, workdir) == 0
  # Older ones make room; the newest that is whole stays.
  assert listed[-1] == 2
  said = capfd.readouterr().err
  assert "checkpoint 3 could not be saved" in said
  assert "the oldest, to make room" in said
  # Every step was taken, told and is what it would have been.
  last = tiny.final_fingerprints
  assert last(workdir) == last(straight)
  assert tiny.lines_of(workdir) == tiny.lines_of(straight)
  kept = restore.Reader(os.path.join(workdir, "checkpoints")).all_steps()
  assert kept[-1] == 6
