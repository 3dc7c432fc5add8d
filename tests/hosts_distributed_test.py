"""Jobs of several processes on this machine: the same numbers, the same end."""

import json
import os
import re
import signal
import socket
import threading

import distributed_jobs as jobs
import jax
import numpy as np
import pytest
from training_loop_test import final_fingerprints, small

import cassle_jax
from cassle_jax import data
from cassle_jax.errors import UserError
from cassle_jax.hosts import distributed, job, sharding
from cassle_jax.hosts.cluster import Cluster
from cassle_jax.hosts.preemption import EXIT_STATUS
from cassle_jax.runs import goodput
from cassle_jax.training import loop


def run_here(workdir, *, steps, devices, **overrides):
  config = small(**{"steps": steps, "mesh.data": devices, **overrides})
  assert loop.run(config, str(workdir)) == 0


def test_two_processes_of_two_devices_train_as_one_of_four(tmp_path):
  """The same losses, evaluations and files, and every file written once."""
  workdir = str(tmp_path / "two")
  with jobs.train(tmp_path, workdir, "--config.steps=5") as running:
    run_here(tmp_path / "one", steps=5, devices=4)
    assert running.wait() == [0, 0], running.text(0) + running.text(1)
    said, other = running.text(0), running.text(1)
  ours, theirs = (
    # How often it is said where the time went depends on the time.
    [r for r in jobs.records(folder) if goodput.KEY not in r]
    for folder in (workdir, tmp_path / "one")
  )
  assert [r["step"] for r in ours] == [r["step"] for r in theirs]
  for one, two in zip(ours, theirs, strict=True):
    for key in ("loss", "knn_top1", "gradient_norm", "feature_rank"):
      assert (key in one) == (key in two)
      if key in one:
        rtol = 1e-5 if key in ("loss", "knn_top1") else 1e-3
        np.testing.assert_allclose(one[key], two[key], rtol=rtol)
  assert re.match(
    r"2 processes by flags, this is 0, coordinator 127\.0\.0\.1:\d+\n", said
  )
  assert said.count("final loss") == 1 and other == ""
  assert len(os.listdir(os.path.join(workdir, "tensorboard"))) == 1
  with open(os.path.join(workdir, "summary.json")) as file:
    summary = json.load(file)
  assert summary["processes"] == 2 and summary["devices"] == 4
  assert jobs.steps_on_disk(workdir) == [2, 4, 5]


def test_alone_everything_returns_at_once():
  assert not job.several()
  assert distributed.share("x", [1]) == [[1]]
  assert distributed.gather(2) == [2.0]
  assert distributed.from_first("x", lambda: "y") == "y"
  distributed.barrier("x", 0.0)
  distributed.check_same("x", {"a": 1})
  job.fail(ValueError("an error of one process needs no help"))
  with distributed.first("x"):
    pass


def _cluster(index, port):
  return Cluster("flags", 2, index, f"127.0.0.1:{port}", None)


def test_a_coordinator_whose_port_is_taken_is_refused():
  with socket.socket() as other:
    other.bind(("127.0.0.1", 0))
    other.listen()
    port = other.getsockname()[1]
    with pytest.raises(UserError, match=f"127.0.0.1:{port}: .*in use.*another"):
      distributed.start(_cluster(0, port))
  distributed._check_port(f"127.0.0.1:{port}")
  distributed._check_port(f"elsewhere:{port}")
  with pytest.raises(UserError, match="0-65535"):
    distributed._check_port("elsewhere:84760")


def test_what_jax_says_of_a_connection_is_one_line(monkeypatch):
  class Timer(threading.Timer):
    cancelled = 0

    def cancel(self):
      Timer.cancelled += 1
      super().cancel()

  def fail(*_, **__):
    assert job._joining
    raise error

  monkeypatch.setattr(threading, "Timer", Timer)
  monkeypatch.setattr(jax.distributed, "initialize", fail)
  monkeypatch.setattr(jax.config, "update", lambda *_: None)
  error = jax.errors.JaxRuntimeError("UNKNOWN: no")
  with pytest.raises(UserError, match="127.0.0.1:9.*UNKNOWN: no. Check"):
    distributed.start(_cluster(1, 9))
  error = RuntimeError("it must come before any computation")  # A bug.
  with pytest.raises(RuntimeError, match="before any"):
    distributed.start(_cluster(1, 9))
  assert not job._joining and Timer.cancelled == 2


def test_the_code_version_changes_with_any_source_file(tmp_path, monkeypatch):
  (tmp_path / "step").mkdir()
  for name in ("main.py", "step/update.py"):
    (tmp_path / name).write_text("a = 1\n")
  monkeypatch.setattr(cassle_jax, "__file__", str(tmp_path / "__init__.py"))
  before = distributed.code_version()
  assert distributed.code_version() == before
  (tmp_path / "step/update.py").write_text("a = 2\n")
  assert distributed.code_version() != before


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("resident_bytes", [0, 2**30])
def test_the_global_batch_is_the_same_however_hosts_lie_on_a_mesh(
  hosts, resident_bytes
):
  """Also where a host's rows are no block: here every `hosts`-th is its."""
  source = data.open_source("bundled:earth")

  def batches(rows):
    built = data.build(
      source=source,
      batch_size=8,
      seed=1,
      rows=rows,
      resident_bytes=resident_bytes,
    )
    found = built.batches(523)  # Of 525 in an epoch: past its end, too.
    try:
      return [next(found) for _ in range(4)]
    finally:
      built.close()

  whole = batches(None)
  joined = [{k: np.zeros_like(v) for k, v in b.items()} for b in whole]
  for host in range(hosts):
    rows = np.arange(host, 8, hosts)
    for into, part in zip(joined, batches(rows), strict=True):
      for key in part:
        into[key][rows] = part[key]
  for one, other in zip(joined, whole, strict=True):
    for key in one:
      np.testing.assert_array_equal(one[key], other[key])


def test_one_process_holds_all_rows():
  mesh = sharding.make_mesh(data=4, fsdp=2)
  np.testing.assert_array_equal(sharding.local_rows(16, mesh), np.arange(16))


_WORDS = """
import sys, time
import jax
import numpy as np
from cassle_jax.config import cli
from cassle_jax.hosts import distributed, sharding

flags = cli.parser("words", "")
cli.add_distributed(flags)
index = int(sys.argv.pop())
assert cli.join(cli.parse(flags, sys.argv[1:])[0])
assert jax.process_index() == index

assert distributed.gather(index + 0.5) == [0.5, 1.5]
for round in range(3):
  assert distributed.share("x", [index, round]) == [[0, round], [1, round]]
assert distributed.from_first("y", lambda: {"made by": index}) == {"made by": 0}
distributed.barrier("both", 30)
if index == 0:
  began = time.monotonic()
  try:
    distributed.barrier("alone", 1)
  except TimeoutError as error:
    assert "not all 2 processes came to 'alone' within 1 s" in str(error)
  else:
    raise AssertionError
  assert 0.9 < time.monotonic() - began < 120
distributed.barrier("again", 30)

# A mesh on which a host's rows are no block.
devices = np.array(jax.devices()).reshape(2, 2).T.ravel().tolist()
mesh = sharding.make_mesh(devices=devices)
rows = sharding.local_rows(8, mesh)
assert rows.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]][index], rows
whole = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
for array in (
  sharding.put_batch(rows, mesh),
  sharding.split_whole(np.arange(8), mesh),
  sharding.put_whole(np.arange(8), mesh),
):
  np.testing.assert_array_equal(np.asarray(whole(array)), np.arange(8))
distributed.finish()
"""


@pytest.mark.slow
def test_what_processes_tell_each_other(tmp_path):
  (tmp_path / "words.py").write_text(_WORDS)
  port = jobs.free_port()

  def extra(i):
    place = f"--num_processes=2 --process_id={i} {i}".split()
    return [f"--coordinator=127.0.0.1:{port}", *place], {}

  with jobs.Job(tmp_path, script=tmp_path / "words.py", extra=extra) as running:
    assert running.wait(120) == [0, 0], running.text(0) + running.text(1)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("count", "devices", "fsdp"), [(4, 1, 1), (2, 2, 2), (2, 2, 4)]
)
def test_any_hosts_train_as_one_and_what_they_save_is_read_by_one(
  tmp_path, count, devices, fsdp
):
  """Also with the state split over hosts, where arrays are large enough."""
  big = {"model.width": 32, "model.projector": (512, 64)}
  flags = [
    "--config.model.width=32",
    "--config.model.projector=512,64",
    f"--config.mesh.data={4 // fsdp}",
    f"--config.mesh.fsdp={fsdp}",
    "--config.steps=5",
  ]
  workdir = str(tmp_path / "several")
  with jobs.train(
    tmp_path, workdir, *flags, count=count, devices=devices
  ) as running:
    assert running.wait() == [0] * count, running.text(0)
  run_here(tmp_path / "one", steps=5, devices=4, **big)
  ours, theirs = jobs.losses(workdir), jobs.losses(tmp_path / "one")
  assert len(ours) == 5 and ours.keys() == theirs.keys()
  np.testing.assert_allclose(
    list(ours.values()), list(theirs.values()), rtol=1e-5
  )
  # Restores, and checks every array against its fingerprint.
  run_here(workdir, steps=5, devices=4, **big)


@pytest.mark.slow
def test_resumes_from_two_processes_to_one_and_back(tmp_path):
  """The resumed steps are those of a run that nothing happened to."""
  workdir, straight = str(tmp_path / "run"), tmp_path / "straight"
  run_here(straight, steps=9, devices=4)
  body = jobs.at_step(3, "if index == 1: os.kill(os.getpid(), 15)")
  with jobs.patched(tmp_path, workdir, body, "--config.steps=9") as running:
    assert running.wait() == [EXIT_STATUS] * 2, running.text(0) + running.text(
      1
    )
  first = jobs.steps_on_disk(workdir)[-1]
  assert 3 <= first < 8
  body = jobs.at_step(first + 1, "os.kill(os.getpid(), 15)")
  with jobs.patched(
    tmp_path, workdir, body, "--config.steps=9", count=1, devices=4
  ) as running:
    assert running.wait() == [EXIT_STATUS], running.text(0)
    assert f"from step {first}\n" in running.text(0)
  second = jobs.steps_on_disk(workdir)[-1]
  assert second == first + 1
  with jobs.train(tmp_path, workdir, "--config.steps=9") as running:
    assert running.wait() == [0, 0], running.text(0) + running.text(1)
    assert f"from step {second}\n" in running.text(0)
  ours, theirs = jobs.losses(workdir), jobs.losses(straight)
  assert ours.keys() == theirs.keys()
  np.testing.assert_allclose(
    list(ours.values()), list(theirs.values()), rtol=1e-4
  )


@pytest.mark.slow
def test_resumes_on_eight_then_four_then_one_device(tmp_path):
  workdir = str(tmp_path / "run")
  run_here(tmp_path / "straight", steps=6, devices=8)
  for steps, devices in ((2, 8), (4, 4), (6, 1)):
    _until(workdir, steps, devices)
  ours, theirs = jobs.losses(workdir), jobs.losses(tmp_path / "straight")
  assert ours.keys() == theirs.keys()
  np.testing.assert_allclose(
    list(ours.values()), list(theirs.values()), rtol=1e-4
  )


def _until(workdir, stop, devices, total=6):
  """Trains from what is in the folder to a step, by SIGTERM in the middle."""
  from cassle_jax.runs import progress

  update = progress.ProgressBar.update

  def terminate(self, step, loss=None):
    update(self, step, loss)
    if step == stop < total:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(progress.ProgressBar, "update", terminate)
    config = small(**{"steps": total, "mesh.data": devices})
    status = loop.run(config, workdir)
  assert status == (EXIT_STATUS if stop < total else 0)
  assert jobs.steps_on_disk(workdir)[-1] == stop


@pytest.mark.slow
@pytest.mark.parametrize(
  ("body", "flag", "message"),
  [
    ("", "--config.batch_size=32", "--config.batch_size is 32 (process 0: 16)"),
    (
      """
      version = distributed.code_version
      distributed.code_version = lambda: version() + "x" * index
      """,
      "",
      "cassle_jax is",
    ),
    (
      """
      versions = logs.versions
      def other(names):
        found = versions(names)
        return found | ({"jax": "9.9"} if index and "jax" in found else {})
      logs.versions = other
      """,
      "",
      'jax is "9.9"',
    ),
  ],
)
def test_hosts_that_differ_are_refused_at_the_start(
  tmp_path, body, flag, message
):
  port = jobs.free_port()
  workdir = str(tmp_path / "run")

  def flags(index):
    own = [flag] if flag and index == 1 else []
    return [*jobs.flags(index, port, workdir, *own), str(index)], {}

  path = jobs.script(tmp_path, body)
  with jobs.Job(tmp_path, script=path, extra=flags) as running:
    assert running.wait(120) == [2, 2], running.text(0) + running.text(1)
    for index in (0, 1):
      (line,) = [
        line for line in running.text(index).splitlines() if "error: " in line
      ]
      assert "process 1 differs from process 0" in line
      assert message in line
      assert "Traceback" not in running.text(index)
  assert not os.path.exists(workdir)


@pytest.mark.slow
def test_tasks_of_slurm_find_each_other(tmp_path):
  """With variables as srun sets them, and the run's folder chosen by one."""
  port = jobs.free_port()

  def extra(index):
    flags = [
      f"--config={os.path.join(jobs.ROOT, 'tests', 'small_config.py')}",
      "--config.mesh.data=0",
      "--config.steps=3",
    ]
    variables = {
      "SLURM_JOB_ID": "77",
      "SLURM_STEP_ID": "0",
      "SLURM_STEP_NODELIST": "localhost",
      "SLURM_STEP_NUM_TASKS": "2",
      "SLURM_STEP_TASKS_PER_NODE": "2",
      "SLURM_NTASKS": "2",
      "SLURM_PROCID": str(index),
      "SLURM_LOCALID": str(index),
      "JAX_COORDINATOR_PORT": str(port),
    }
    return flags, variables

  with jobs.Job(tmp_path, extra=extra, cwd=tmp_path) as running:
    assert running.wait() == [0, 0], running.text(0) + running.text(1)
    assert (
      f"2 processes by SLURM, this is 0, coordinator localhost:{port}"
      in running.text(0)
    )
  (folder,) = os.listdir(tmp_path / "runs")
  assert jobs.steps_on_disk(tmp_path / "runs" / folder) == [2, 3]


@pytest.mark.slow
def test_one_damaged_step_is_set_aside_by_all(tmp_path):
  workdir = str(tmp_path / "run")
  with jobs.train(tmp_path, workdir, "--config.steps=4") as running:
    assert running.wait() == [0, 0], running.text(0) + running.text(1)
  manifest = os.path.join(workdir, "checkpoints/4/state/manifest.ocdbt")
  with open(manifest, "w"):
    pass
  with jobs.train(tmp_path, workdir, "--config.steps=4") as running:
    assert running.wait() == [0, 0], running.text(0) + running.text(1)
    said = running.text(0)
    assert said.count("checkpoint 4 in") == 1 and "using step 2" in said
  names = os.listdir(os.path.join(workdir, "checkpoints"))
  assert sum(name.startswith("damaged-4-") for name in names) == 1
  assert final_fingerprints(workdir, step=4)
