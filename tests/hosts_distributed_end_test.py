"""How jobs of several processes end: pre-empted, failed, killed or hanging."""

import os
import re
import signal
import time

import distributed_jobs as jobs
import pytest

from cassle_jax.hosts import watchdog
from cassle_jax.hosts.preemption import EXIT_STATUS


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [(0,), (1,), (0, 1)])
def test_sigterm_to_any_saves_one_step_and_one_process_continues(
  tmp_path, signalled
):
  workdir = str(tmp_path / "run")
  with jobs.train(tmp_path, workdir, jobs.FOREVER) as running:
    running.until(lambda: 4 in jobs.steps_on_disk(workdir))
    began = time.monotonic()
    for index in signalled:
      running.processes[index].send_signal(signal.SIGTERM)
    assert running.wait(60) == [EXIT_STATUS] * 2, running.text(
      0
    ) + running.text(1)
    assert time.monotonic() - began < 120
    said = re.search(r"SIGTERM: saved step (\d+) of 100000", running.text(0))
    assert running.text(1) == ""
  step = int(said[1])
  assert jobs.steps_on_disk(workdir)[-1] == step > 4
  assert not os.path.exists(os.path.join(workdir, "summary.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
  "when", ["connecting", "evaluating first", "compiling"]
)
def test_sigterm_before_the_first_step_ends_all_at_once(tmp_path, when):
  workdir = str(tmp_path / "run")
  mark = {
    "connecting": "2 processes",
    "evaluating first": "mocov2 (cassle)",
    "compiling": "compiling the step",
  }[when]
  flags = [jobs.FOREVER, "--config.evaluation.max_images=4202"]
  uncached = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
  with jobs.train(tmp_path, workdir, *flags, variables=uncached) as running:
    running.until(lambda: mark in running.text(0))
    time.sleep(1 if when == "compiling" else 0)
    began = time.monotonic()
    # A scheduler signals all; before they have met nobody can tell the others.
    for process in running.processes[0 if when == "connecting" else 1 :]:
      process.send_signal(signal.SIGTERM)
    assert running.wait(60) == [EXIT_STATUS] * 2, running.text(
      0
    ) + running.text(1)
    assert time.monotonic() - began < 120
    assert "compiled in" not in running.text(0)
    assert "SIGTERM: nothing unsaved" in running.text(0)
  assert jobs.steps_on_disk(workdir) == []


@pytest.mark.slow
def test_sigterm_in_the_middle_of_an_evaluation_saves_first(tmp_path):
  workdir = str(tmp_path / "run")
  flags = [
    jobs.FOREVER,
    "--config.evaluation.every=1",
    "--config.evaluation.max_images=4202",
    "--config.checkpoint.every=0",
  ]
  with jobs.train(tmp_path, workdir, *flags) as running:
    running.until(lambda: "step 2: knn_top1" in running.text(0))
    time.sleep(0.3)
    began = time.monotonic()
    running.processes[1].send_signal(signal.SIGTERM)
    assert running.wait(60) == [EXIT_STATUS] * 2, running.text(
      0
    ) + running.text(1)
    assert time.monotonic() - began < 120
    step = int(re.search(r"SIGTERM: saved step (\d+)", running.text(0))[1])
  assert jobs.steps_on_disk(workdir) == [step]


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0, 1])
def test_an_exception_on_one_host_ends_all_with_its_traceback(tmp_path, bad):
  mark = tmp_path / "mark"
  body = jobs.raising(mark, (bad,), "RuntimeError('the roof is on fire')")
  workdir = str(tmp_path / "run")
  with jobs.patched(tmp_path, workdir, body, jobs.FOREVER) as running:
    running.until(mark.exists)
    began = time.monotonic()
    assert running.wait(60) == [1, 1]
    assert time.monotonic() - began < 120
    assert "Traceback" in running.text(bad)
    assert "RuntimeError: the roof is on fire" in running.text(bad)
    assert "Traceback" not in running.text(1 - bad)
    assert f"process {bad} failed: RuntimeError" in running.text(1 - bad)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [(1,), (0, 1)])
def test_a_users_error_is_one_line_and_status_two_on_all(tmp_path, bad):
  mark = tmp_path / "mark"
  body = jobs.raising(mark, bad, "UserError('picture 7 is unreadable')")
  workdir = str(tmp_path / "run")
  with jobs.patched(tmp_path, workdir, body, jobs.FOREVER) as running:
    running.until(mark.exists)
    began = time.monotonic()
    assert running.wait(60) == [2, 2], running.text(0) + running.text(1)
    assert time.monotonic() - began < 120
    for index in (0, 1):
      assert running.text(index).count("picture 7 is unreadable") == 1
      assert "Traceback" not in running.text(index)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0, 1])
def test_a_host_that_hangs_is_ended_with_all_others(tmp_path, bad):
  # Here it waits for ever; the other one waits for it in a collective.
  body = jobs.at_step(3, f"if index == {bad}: threading.Event().wait()")
  workdir = str(tmp_path / "run")
  bound = "--config.guard.watchdog_seconds=5"
  body = "import threading\n" + body
  with jobs.patched(tmp_path, workdir, body, jobs.FOREVER, bound) as running:
    assert running.wait(120) == [watchdog.EXIT_STATUS] * 2
    assert "watchdog: the step after" in running.text(0) + running.text(1)
    assert "threading.py" in running.text(bad)


@pytest.mark.slow
def test_control_c_in_one_process_ends_all(tmp_path):
  # A shell that runs tests in the background has SIGINT ignored below it.
  body = "import signal; signal.signal(2, signal.default_int_handler)"
  workdir = str(tmp_path / "run")
  with jobs.patched(tmp_path, workdir, body, jobs.FOREVER) as running:
    running.until(lambda: 2 in jobs.steps_on_disk(workdir))
    running.processes[1].send_signal(signal.SIGINT)
    began = time.monotonic()
    assert running.wait(60) == [130, 130], running.text(0) + running.text(1)
    assert time.monotonic() - began < 120
    assert "interrupted" in running.text(1)
    assert "Traceback" not in running.text(0) + running.text(1)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_sigkill_of_one_ends_the_other_within_the_heartbeat(tmp_path, killed):
  workdir = str(tmp_path / "run")
  with jobs.train(tmp_path, workdir, jobs.FOREVER) as running:
    running.until(lambda: 2 in jobs.steps_on_disk(workdir))
    running.processes[killed].send_signal(signal.SIGKILL)
    began = time.monotonic()
    statuses = running.wait(60)
    took = time.monotonic() - began
  assert statuses[killed] == -signal.SIGKILL
  assert statuses[1 - killed] != 0
  assert took < 10 + 5, took
