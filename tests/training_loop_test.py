"""Whole runs on a tiny net: files, resume to the bit, kills, refusals."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from cassle_jax import config as config_lib
from cassle_jax.errors import UserError
from cassle_jax.hosts import device_memory, job
from cassle_jax.hosts.preemption import EXIT_STATUS
from cassle_jax.runs import checkpoint, logs, progress, restore
from cassle_jax.training import experiment, loop, trainer
from cassle_jax.training import setup as setup_lib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS = 6


def small(**overrides):
  """MoCo-v2, which has every part of the state, at its smallest."""
  config = config_lib.tiny(config_lib.default())
  settings = {
    "steps": STEPS,
    "batch_size": 16,
    "model.backbone": "conv2",
    "model.width": 4,
    "model.stem": "imagenet",
    "model.projector": (8, 8),
    "model.gamma_depth": 2,
    "augment.blur": 0.0,
    "augment.jitter_order": "fixed",
    "model.omega": ("color", "color_diff", "crop", "flip", "grayscale"),
    "method.name": "mocov2",
    "method.queue_size": 64,
    "checkpoint.every": 2,
    "evaluation.max_images": 64,
    "evaluation.linear": False,
    "mesh.data": 1,
    **overrides,
  }
  for key, value in settings.items():
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    config_lib.apply_override(config, f"{key}={text}")
  return config


def final_fingerprints(workdir, step=STEPS):
  """Path -> fingerprint of every array of the state saved at `step`."""
  path = os.path.join(workdir, "checkpoints", str(step), "info", "metadata")
  with open(path) as file:
    return json.load(file)["leaves"]


def lines_of(workdir):
  with open(os.path.join(workdir, logs.METRICS)) as file:
    records = [json.loads(line) for line in file]
  for record in records:
    record.pop("images_per_second", None)
  return [record for record in records if "goodput" not in record]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  """The folder of a run that nothing happened to."""
  workdir = str(tmp_path_factory.mktemp("runs") / "straight")
  assert loop.run(small(), workdir) == 0
  return workdir


def test_a_run_leaves_the_files_that_others_rely_on(straight):
  with open(os.path.join(straight, "config.json")) as file:
    config = json.load(file)
  assert config["method"]["name"] == "mocov2"
  assert config["awareness"]["name"] == "cassle"
  with open(os.path.join(straight, "summary.json")) as file:
    summary = json.load(file)
  assert summary["step"] == STEPS
  assert 0 <= summary["knn_top1"] <= 1
  assert 0 <= summary["knn_top1_random_init"] <= 1
  for key in ("loss", "images_per_second", "wall_seconds", "device"):
    assert summary[key]
  assert summary["versions"]["jax"]
  steps = [r for r in lines_of(straight) if "loss" in r]
  assert [r["step"] for r in steps] == list(range(1, STEPS + 1))
  for key in ("epoch", "learning_rate", "gradient_norm", "feature_rank"):
    assert all(np.isfinite(r[key]) for r in steps)
  saved = restore.Reader(os.path.join(straight, "checkpoints"))
  assert saved.all_steps() == [2, 4, 6]
  assert os.listdir(os.path.join(straight, "tensorboard"))


def test_a_run_moves_its_target(straight):
  """By the method's momentum, which `compile_step` hands to the step."""
  early, late = (final_fingerprints(straight, step) for step in (2, STEPS))
  target = [p for p in early if "target" in p and "target_stats" not in p]
  assert len(target) > 5
  for path in target:
    assert early[path] != late[path], path


def test_config_json_rebuilds_the_run(straight):
  """It is data that `load` reads back, and every section survives."""
  path = os.path.join(straight, "config.json")
  config = setup_lib.resolve(config_lib.load(path))
  with open(path) as file:
    assert config_lib.to_dict(config) == json.load(file)


def test_sigterm_saves_and_the_next_run_ends_as_one_never_stopped(
  straight, tmp_path, monkeypatch
):
  """Four steps == some + resume + the rest, bit for bit."""
  workdir = str(tmp_path / "stopped")
  update = progress.ProgressBar.update

  def terminate(self, step, loss=None):
    update(self, step, loss)
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(progress.ProgressBar, "update", terminate)
    assert loop.run(small(), workdir) == EXIT_STATUS
  reader = restore.Reader(os.path.join(workdir, "checkpoints"))
  assert reader.latest_step() == 3, "the stop must be in the middle"
  assert not os.path.exists(os.path.join(workdir, "summary.json"))

  assert loop.run(small(), workdir) == 0
  assert final_fingerprints(workdir) == final_fingerprints(straight)
  assert lines_of(workdir) == lines_of(straight)


def test_running_a_finished_run_again_changes_nothing(straight, capsys):
  def everything():
    with open(os.path.join(straight, "summary.json")) as file:
      summary = json.load(file)
    return final_fingerprints(straight), lines_of(straight), summary

  before = everything()
  assert loop.run(small(), straight) == 0
  assert everything() == before
  said = capsys.readouterr().err
  assert "is complete, " in said and "continuing" not in said


@pytest.mark.parametrize("patience", [600.0, 0.0])
def test_a_full_disk_is_waited_for_before_steps_are_lost(
  tmp_path, monkeypatch, capfd, patience
):
  calls = iter(range(1000))
  full = 20 if patience else 1000

  def free_bytes(_):
    return 0 if next(calls) < full else 10**9

  monkeypatch.setattr(checkpoint, "free_bytes", free_bytes)
  monkeypatch.setattr(trainer, "RETRY", 0.01)
  monkeypatch.setattr(trainer, "LONGEST_RETRY", 0.01)
  monkeypatch.setattr(trainer, "PATIENCE", patience)
  monkeypatch.setattr(checkpoint, "_SETTLE", 0.0)
  workdir = str(tmp_path / "run")
  config = small(**{"evaluation.max_images": 0})
  reader = restore.Reader(os.path.join(workdir, "checkpoints"))
  if patience:
    assert loop.run(config, workdir) == 0
    assert reader.latest_step() == STEPS
    assert "trying for 10 minutes; make room in" in capfd.readouterr().err
  else:
    with pytest.raises(checkpoint.SaveError, match="saves in a row failed"):
      loop.run(config, workdir)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_summary_is_made_again(straight, tmp_path, damage):
  workdir = str(tmp_path / "copy")
  shutil.copytree(straight, workdir)
  path = os.path.join(workdir, "summary.json")
  with open(path) as file:
    before = file.read()
  with open(path, "w") as file:
    file.write(before[:50] if damage == "cut" else "[]")
  assert loop.run(small(), workdir) == 0
  with open(path) as file:
    after = json.load(file)
  for key in ("step", "loss", "knn_top1", "knn_top1_random_init"):
    assert after[key] == json.loads(before)[key]


def test_other_pictures_under_the_same_name_are_refused(straight, tmp_path):
  workdir = str(tmp_path / "copy")
  shutil.copytree(straight, workdir)
  pictures = np.zeros((64, 32, 32, 3), np.uint8)
  np.savez(tmp_path / "other.npz", images=pictures)
  other = small(**{"data.source": f"npy:{tmp_path}/other.npz"})
  with pytest.raises(UserError, match="since step 6.*64 images, and 4,202"):
    loop.run(other, workdir)


def test_another_config_is_refused_and_the_keys_are_named(straight):
  with pytest.raises(UserError, match="seed is 5 .*the run's: 0"):
    loop.run(small(seed=5), straight)
  # What the numbers do not depend on may change.
  assert loop.run(small(**{"checkpoint.every": 3}), straight) == 0


def test_seeds_differ(straight, tmp_path):
  workdir = str(tmp_path / "other")
  assert loop.run(small(seed=1), workdir) == 0
  ours, theirs = final_fingerprints(workdir), final_fingerprints(straight)
  path = next(p for p in ours if p.endswith("linear0/kernel"))
  assert ours[path] != theirs[path]


def test_a_nan_stops_the_run_and_is_never_saved(tmp_path):
  workdir = str(tmp_path / "nan")
  config = small(
    **{
      "optim.learning_rate": 1e38,
      "optim.schedule": "constant",
      "guard.max_skipped": 2,
    }
  )
  with pytest.raises(loop.Diverged, match=r"step \d .*not finite.*diverged"):
    loop.run(config, workdir)
  dumps = [n for n in os.listdir(workdir) if n.startswith("diverged")]
  with open(os.path.join(workdir, dumps[0])) as file:
    dump = json.load(file)
  assert [len(bad["index"]) for bad in dump["steps"]] == [16, 16]
  reader = restore.Reader(os.path.join(workdir, "checkpoints"))
  last = dump["steps"][-1]["step"]
  assert all(step < last for step in reader.all_steps())


def test_streamed_images_give_the_run_of_resident_ones(
  straight, tmp_path, capfd
):
  """Decoding on the fly changes neither order nor pixels."""
  workdir = str(tmp_path / "streamed")
  assert loop.run(small(**{"data.resident_bytes": 0}), workdir) == 0
  said = capfd.readouterr().err
  # Told before the first step.
  assert 0 < said.index("memory of each device: ") < said.index(f"/{STEPS} (")
  ours, theirs = lines_of(workdir), lines_of(straight)
  losses = [
    [r["loss"] for r in lines if "loss" in r] for lines in (ours, theirs)
  ]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def log_of(workdir):
  path = os.path.join(workdir, logs.METRICS)
  if not os.path.isfile(path):
    return ""
  with open(path) as file:
    return file.read()


def command(workdir, *overrides):
  return [
    sys.executable,
    "-m",
    "cassle_jax.main",
    f"--config={os.path.join(ROOT, 'tests', 'small_config.py')}",
    f"--workdir={workdir}",
    *overrides,
  ]


def test_sigkill_then_the_same_command_ends_as_one_never_killed(
  straight, tmp_path
):
  workdir = str(tmp_path / "killed")
  with open(tmp_path / "log", "wb") as log:
    process = subprocess.Popen(
      command(workdir, f"--config.steps={STEPS}"), stdout=log, stderr=log
    )
    done = os.path.join(workdir, "checkpoints", "2")
    deadline = time.time() + 240
    while not os.path.isdir(done):
      assert process.poll() is None, (tmp_path / "log").read_text()
      assert time.time() < deadline
      time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
  reader = restore.Reader(os.path.join(workdir, "checkpoints"))
  assert reader.latest_step() in (2, 4), "it must have been killed half way"
  assert loop.run(small(), workdir) == 0
  assert final_fingerprints(workdir) == final_fingerprints(straight)


@pytest.mark.parametrize("wait", [2.0, 8.0])
def test_sigterm_while_starting_up_or_compiling_exits_at_once(tmp_path, wait):
  """Nothing is unsaved then; the scheduler starts the run again on 143."""
  with open(tmp_path / "log", "wb") as log:
    process = subprocess.Popen(
      command(str(tmp_path / "x"), "--config.steps=100000"),
      stdout=log,
      stderr=log,
    )
    time.sleep(wait)
    process.send_signal(signal.SIGTERM)
    began = time.time()
    assert process.wait(timeout=120) == EXIT_STATUS
  assert time.time() - began < 120


def test_control_c_in_mid_training_saves_and_is_status_130(tmp_path):
  """Not the status of a crash while the device is busy."""
  workdir = str(tmp_path / "x")
  # A shell that runs tests in the background has SIGINT ignored below it.
  start = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    " from cassle_jax import main; from cassle_jax.config import cli;"
    " cli.run(main.main)"
  )
  flags = command(
    workdir, "--config.steps=100000", "--config.checkpoint.every=50000"
  )[3:]
  with open(tmp_path / "log", "wb") as log:
    process = subprocess.Popen(
      [sys.executable, "-c", start, *flags], stdout=log, stderr=log
    )
    deadline = time.time() + 240
    while '"step": 3,' not in log_of(workdir):
      assert process.poll() is None, (tmp_path / "log").read_text()
      assert time.time() < deadline
      time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
  reader = restore.Reader(os.path.join(workdir, "checkpoints"))
  assert reader.latest_step() >= 3
  told = (tmp_path / "log").read_text()
  assert f"interrupted: saved step {reader.latest_step()} of 100000" in told


def test_too_little_memory_is_one_line_with_the_keys_to_change(
  tmp_path, monkeypatch
):
  def compile_step(*_):
    raise jax.errors.JaxRuntimeError(
      "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."
    )

  monkeypatch.setattr(experiment, "compile_step", compile_step)
  config = small(**{"evaluation.max_images": 0})
  with pytest.raises(UserError, match="allocate 9 bytes.*batch_size=8"):
    loop.run(config, str(tmp_path / "x"))


def test_too_little_memory_is_explained_before_a_job_is_ended(
  tmp_path, monkeypatch
):
  seen = []

  @contextlib.contextmanager
  def fail_fast():
    try:
      yield
    except Exception as error:
      seen.append(error)
      raise

  def full(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

  monkeypatch.setattr(job, "fail_fast", fail_fast)
  monkeypatch.setattr(loop, "Trainer", full)
  with pytest.raises(device_memory.OutOfMemory):
    loop.run(small(), str(tmp_path / "x"))
  assert [type(error) for error in seen] == [device_memory.OutOfMemory]


@pytest.mark.slow
@pytest.mark.parametrize(
  "item",
  ["params", "target", "batch_stats", "target_stats", "memory", "opt_state"],
)
def test_a_run_that_lost_an_item_does_not_end_as_one_that_did_not(
  straight, tmp_path, monkeypatch, item
):
  """Two steps are enough to tell, whatever it is that starts anew."""
  workdir = str(tmp_path / "lost")
  shutil.copytree(straight, workdir)
  shutil.rmtree(os.path.join(workdir, "checkpoints", "6"))
  os.unlink(os.path.join(workdir, "summary.json"))
  restore_step = restore.Reader.restore

  def forget(self, target, *arguments):
    found = restore_step(self, target, *arguments)
    assert found.step == 4
    fresh = experiment.build(small()).make_state()
    state = found.state.replace(**{item: getattr(fresh, item)})
    return found._replace(state=state)

  monkeypatch.setattr(restore.Reader, "restore", forget)
  assert loop.run(small(), workdir) == 0
  ours, theirs = final_fingerprints(workdir), final_fingerprints(straight)
  assert any(ours[p] != theirs[p] for p in ours if p.startswith(item))


@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  sorted(
    name
    for name in os.listdir(os.path.join(ROOT, "configs"))
    if name.endswith(".py")
  ),
)
def test_every_tiny_config_trains(name, tmp_path):
  config = config_lib.load(os.path.join(ROOT, "configs", f"{name}:tiny"))
  config_lib.apply_override(config, "mesh.data=1")
  began = time.time()
  assert loop.run(config, str(tmp_path / "run")) == 0
  assert time.time() - began < 900


def test_user_errors_are_one_line_and_status_two(tmp_path):
  process = subprocess.run(
    command(str(tmp_path / "x"), "--config.optim.lrr=3"),
    capture_output=True,
    text=True,
  )
  assert process.returncode == 2
  assert process.stderr.count("\n") == 1
  assert "optim.lrr" in process.stderr and "learning_rate" in process.stderr
  assert not os.path.exists(tmp_path / "x")
