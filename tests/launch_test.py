"""The launchers: they parse, print their commands, and pass signals on.

Where a launcher needs a program that is not here (srun, gcloud), a stand-in
runs what it was given, with a stub for Python.
"""

import configparser
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LAUNCH = os.path.join(ROOT, "launch")
SCRIPTS = sorted(n for n in os.listdir(LAUNCH) if n.endswith(".sh"))
MANIFESTS = ("gke.yaml", "sky.yaml")

# In place of Python: says what it was called with, and behaves as told by the
# variable ACT, one word for each process.
STUB = f"""#!{sys.executable} -SE
import os, signal, sys, time

words = sys.argv[1:]
number = [w.split("=")[1] for w in words if w.startswith("--process_id=")]
number = int((number or [os.environ.get("SLURM_PROCID", 0)])[0])
act = os.environ.get("ACT", "done").split()
act = act[number % len(act)]


def save(*_):
  os.write(1, b"saved\\n")  # print may be at work already.
  os._exit(143)


deaf = act == "deaf"
signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else save)
print("called", *words, flush=True)
for name in ("XLA_FLAGS", "CUDA_VISIBLE_DEVICES"):
  print(name, os.environ.get(name, ""), flush=True)
print("a warning", file=sys.stderr, flush=True)
if act.isdigit():
  sys.exit(int(act))
if act == "done":
  sys.exit(0)
time.sleep(60)
"""


def read(name):
  with open(os.path.join(LAUNCH, name)) as file:
    return file.read()


def program(path, text):
  """Writes a program."""
  path.write_text(text)
  path.chmod(0o755)
  return str(path)


@pytest.fixture
def shell(tmp_path):
  """Starts launch/NAME with a stub for Python; ends what it left behind."""
  folder = tmp_path / "bin"
  folder.mkdir()
  stub = program(folder / "python-stub", STUB)
  started = []

  def start(name, *flags, **variables):
    # A cluster's own variables would change the outcome.
    kept = {
      k: v
      for k, v in os.environ.items()
      if not k.startswith(("SLURM", "CUDA", "XLA", "DRY"))
    }
    environment = kept | {"PYTHON": stub, "DEVICES": "1"} | variables
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    process = subprocess.Popen(
      ["bash", os.path.join(LAUNCH, name), *flags],
      env={k: v for k, v in environment.items() if v is not None},
      cwd=tmp_path,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    started.append(process)
    return process

  start.folder, start.stub = folder, stub
  yield start
  for process in started:
    try:
      os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
      pass
    process.communicate()


def finish(process, timeout=120):
  """Exit status, standard output and error of a launcher."""
  out, err = process.communicate(timeout=timeout)
  return process.returncode, out, err


def wait_for(process, text, times=2):
  """Reads standard output up to the line in which `text` came `times`."""
  while times:
    line = process.stdout.readline()
    assert line, process.stderr.read()
    times -= text in line


def alive(text):
  """Whether a process has `text` in its command line."""
  for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
      with open(f"/proc/{pid}/cmdline") as file:
        if text in file.read():
          return True
    except OSError:
      pass
  return False


# What is written down.


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_parses_and_begins_with_its_use(name):
  check = subprocess.run(
    ["bash", "-n", os.path.join(LAUNCH, name)], capture_output=True, text=True
  )
  assert check.returncode == 0 and not check.stderr, check.stderr
  header = read(name).split("\nset -")[0]
  assert re.search(rf"^#   (bash|sbatch) .*launch/{name}", header, re.M)


@pytest.mark.parametrize("name", (*MANIFESTS, "Dockerfile"))
def test_a_manifest_begins_with_its_use(name):
  use = rf"^#   (kubectl|sky|docker) .*launch/{name}"
  assert re.search(use, read(name), re.M)


def test_only_paths_are_given_as_workdir():
  """The package refuses a URL; so does every launcher's example."""
  for name in (*SCRIPTS, *MANIFESTS, "Dockerfile"):
    assert "--workdir=gs:" not in read(name)
    assert "--workdir=s3:" not in read(name)


def test_constraints_pin_every_package_that_is_required():
  lines = [x for x in read("constraints.txt").split("\n") if x[:1] not in "# "]
  pins = dict(line.split("==") for line in lines if line)
  setup = configparser.ConfigParser()
  setup.read(os.path.join(ROOT, "setup.cfg"))
  for line in setup["options"]["install_requires"].strip().split("\n"):
    needed = Requirement(line)
    assert pins[canonicalize_name(needed.name)] in needed.specifier, line


def test_the_dockerfile_keeps_signals_and_root_away():
  lines = re.sub(r"\\\n\s*", "", read("Dockerfile")).split("\n")
  steps = [line.split(" ", 1) for line in lines if line and line[0] != "#"]
  words = [word for word, _ in steps]
  values = dict(steps)
  assert values["FROM"] == "python:3.12-slim"
  assert values["STOPSIGNAL"] == "SIGTERM"
  # Exec form: with a shell in between the signal would not arrive.
  assert yaml.safe_load(values["ENTRYPOINT"]) == [
    "python",
    "-m",
    "cassle_jax.main",
  ]
  assert isinstance(yaml.safe_load(values["CMD"]), list)
  assert int(values["USER"]) > 0
  assert words.index("USER") > max(
    i for i, word in enumerate(words) if word in ("RUN", "COPY")
  )
  (install,) = [v for w, v in steps if w == "RUN" and "pip install" in v]
  assert "--constraint launch/constraints.txt" in install
  # All that is copied must be there, and be let through to the engine.
  ignored = read("Dockerfile.dockerignore").split("\n")
  for word, value in steps:
    if word == "COPY":
      for source in value.split()[:-1]:
        assert os.path.exists(os.path.join(ROOT, source)), source
        top = source.split("/")[0]
        assert f"!{source}" in ignored or f"!{top}" in ignored, source


def test_the_jobset_restarts_all_hosts_and_counts_no_preemption():
  jobset = yaml.safe_load(read("gke.yaml"))
  assert jobset["kind"] == "JobSet"
  policy = jobset["spec"]["failurePolicy"]
  assert 0 < policy["maxRestarts"] < 10
  (rule,) = policy["rules"]
  assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  (replicated,) = jobset["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  assert job["backoffLimit"] == 0
  assert job["parallelism"] == job["completions"]
  codes, condition = job["podFailurePolicy"]["rules"]
  assert codes["onExitCodes"]["values"] == [143]
  assert condition["onPodConditions"][0]["type"] == "DisruptionTarget"
  pod = job["template"]["spec"]
  (main,) = pod["containers"]
  assert codes["onExitCodes"]["containerName"] == main["name"]
  assert pod["restartPolicy"] == "Never"
  assert pod["terminationGracePeriodSeconds"] >= 300
  assert pod["securityContext"]["runAsNonRoot"]
  assert "command" not in main  # The image's own, in exec form.
  (mount,) = main["volumeMounts"]
  (volume,) = pod["volumes"]
  assert mount["name"] == volume["name"]
  (workdir,) = [a for a in main["args"] if a.startswith("--workdir=")]
  assert workdir.split("=")[1].startswith(mount["mountPath"] + "/")
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  tall, wide = map(int, topology.split("x"))
  hosts = tall * wide // main["resources"]["limits"]["google.com/tpu"]
  assert job["parallelism"] == hosts


# One machine.

FLAGS = ("--config=a.py", "--workdir=/runs/x y")


def test_local_prints_the_commands_of_all_processes(shell):
  job = shell(
    "local.sh", "2", *FLAGS, DRY_RUN="1", PORT="777", DEVICES="4", ACT="9"
  )
  status, out, err = finish(job)
  assert (status, err) == (0, "")
  lines = [shlex.split(line) for line in out.strip().split("\n")]
  for number, words in enumerate(lines):
    assert words[0] == "JAX_PLATFORMS=cpu"
    assert "--xla_force_host_platform_device_count=4" in words[1]
    assert words[2:] == [
      shell.stub,
      "-m",
      "cassle_jax.main",
      *FLAGS,
      "--distributed=on",
      "--coordinator=127.0.0.1:777",
      "--num_processes=2",
      f"--process_id={number}",
    ]
  assert len(lines) == 2


def test_local_gives_each_process_a_gpu_where_there_are_any(shell):
  program(
    shell.folder / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: A'\n"
  )
  _, out, _ = finish(shell("local.sh", "2", *FLAGS, DEVICES=None, DRY_RUN="1"))
  assert [line.split()[0] for line in out.strip().split("\n")] == [
    "CUDA_VISIBLE_DEVICES=0",
    "CUDA_VISIBLE_DEVICES=1",
  ]
  status, _, err = finish(shell("local.sh", "3", *FLAGS, DEVICES=None))
  assert status == 2 and "use N=2" in err


def test_local_runs_all_processes_and_prefixes_their_lines(shell):
  status, out, err = finish(shell("local.sh", "2", *FLAGS, DEVICES="3"))
  assert status == 0
  assert sorted(err.split("\n")) == ["", "[0] a warning", "[1] a warning"]
  ports = set(re.findall(r"--coordinator=127.0.0.1:(\d+)", out))
  assert len(ports) == 1 and 20000 <= int(*ports) < 30000
  for number in range(2):
    called = f"[{number}] called -m cassle_jax.main --config=a.py"
    assert out.count(called) == 1
    assert f"[{number}] XLA_FLAGS" in out
  assert out.count("device_count=3") == 2


def test_local_ends_all_when_one_fails_and_returns_its_status(shell):
  began = time.time()
  status, out, err = finish(shell("local.sh", "2", *FLAGS, ACT="wait 7"))
  assert status == 7 and "process 1 ended with status 7" in err
  assert out.count("saved") == 1  # Process 0 was told.
  assert time.time() - began < 120
  assert not alive(shell.stub)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_forwards_a_signal_and_returns_143(shell, tmp_path, number):
  job = shell("local.sh", "2", *FLAGS, ACT="wait")
  wait_for(job, "called")
  job.send_signal(number)
  status, out, _ = finish(job)
  assert status == 143
  assert out.count("saved") == 2
  assert not alive(shell.stub)


def test_local_kills_what_does_not_save_in_time(shell):
  job = shell("local.sh", "2", *FLAGS, ACT="wait deaf", GRACE="1")
  wait_for(job, "called")
  job.send_signal(signal.SIGTERM)
  status, _, err = finish(job)
  assert status == 143 and "process 1 did not save in time" in err
  assert not alive(shell.stub)


def test_local_writes_logs_where_it_is_told(shell, tmp_path):
  logs = tmp_path / "logs"
  status, out, _ = finish(shell("local.sh", "2", *FLAGS, LOGS=str(logs)))
  assert (status, out) == (0, "")
  for number in range(2):
    text = (logs / f"process-{number}.log").read_text()
    assert f"--process_id={number}" in text and "a warning" in text


@pytest.mark.parametrize(
  "flags, fix",
  [
    ((), "bash launch/local.sh N"),
    (("two", *FLAGS), "bash launch/local.sh N"),
    (("2", "--config=a.py"), "--workdir=DIR"),
  ],
)
def test_local_says_what_is_missing(shell, flags, fix):
  status, _, err = finish(shell("local.sh", *flags))
  assert status == 2
  assert err.startswith("error: ") and fix in err and err.count("\n") == 1


# SLURM.


def cluster(shell):
  """Stand-ins for srun, which runs two tasks, and for scontrol."""
  program(
    shell.folder / "srun",
    """#!/bin/bash
while [[ $1 == --* ]]; do echo "srun $1"; shift; done
trap : TERM  # slurmstepd signals the tasks, here the test does.
for rank in 0 1; do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" &
  tasks+=("$!")
done
highest=0
for task in "${tasks[@]}"; do
  wait "$task"; status=$?
  ((status <= highest)) || highest=$status
done
exit $highest
""",
  )
  program(shell.folder / "scontrol", '#!/bin/bash\necho "scontrol $*"\n')


@pytest.mark.parametrize(
  "act, restarts, status, requeued",
  [
    ("done", 0, 0, False),
    ("143", 50, 143, True),
    ("143 0", 0, 143, True),
    ("75", 9, 75, True),
    ("75", 10, 75, False),
    ("2 2", 0, 2, False),
  ],
)
def test_slurm_requeues_what_another_start_mends(
  shell, act, restarts, status, requeued
):
  cluster(shell)
  job = shell(
    "slurm.sh",
    *FLAGS,
    ACT=act,
    SLURM_JOB_ID="42",
    SLURM_SUBMIT_DIR=ROOT,
    SLURM_RESTART_COUNT=str(restarts),
  )
  found, out, _ = finish(job)
  assert found == status
  assert ("scontrol requeue 42" in out) == requeued
  assert out.count("called -m cassle_jax.main --distributed=auto") == 2
  # Else srun would end the peers of a failed task, with a false 143.
  assert "srun --kill-on-bad-exit=0" in out


def test_slurm_lives_through_the_signal_until_the_tasks_have_saved(shell):
  cluster(shell)
  job = shell(
    "slurm.sh", *FLAGS, ACT="wait", SLURM_JOB_ID="42", SLURM_SUBMIT_DIR=ROOT
  )
  wait_for(job, "called")
  time.sleep(0.1)
  os.killpg(job.pid, signal.SIGTERM)  # Script, srun and tasks.
  status, out, _ = finish(job)
  assert status == 143 and "scontrol requeue 42" in out


def test_slurm_asks_for_the_signal_early_and_for_requeueing(shell):
  options = re.findall(r"^#SBATCH (\S+)", read("slurm.sh"), re.M)
  assert "--requeue" in options
  assert "--signal=TERM@300" in options  # No "B:": the tasks must get it.
  # JAX picks each task's GPU itself, out of all of the node's.
  assert not [
    o for o in options if o.startswith(("--gpus-per-task", "--gpu-b"))
  ]
  per_node = dict(o.split("=") for o in options if "per-node" in o)
  assert per_node["--ntasks-per-node"] == per_node["--gpus-per-node"]
  status, out, _ = finish(shell("slurm.sh", *FLAGS, DRY_RUN="1"))
  words = shlex.split(out)
  assert status == 0 and words[0] == "srun"
  assert words[words.index("-m") :] == [
    "-m",
    "cassle_jax.main",
    "--distributed=auto",
    "--heartbeat=30",
    *FLAGS,
  ]
  elsewhere = shell("slurm.sh", *FLAGS, SLURM_SUBMIT_DIR="/")
  status, _, err = finish(elsewhere)
  assert status == 2 and "run sbatch in the clone" in err


# Cloud TPUs.

# Runs what the workers would, in the folder "home".
GCLOUD = """#!/bin/bash
for word; do
  [[ $word == --command=* ]] && command="${word#--command=}"
done
cd "$HOME" && bash -c "$command"
"""


@pytest.mark.parametrize(
  "verb, more, expected",
  [
    (
      "create",
      ("v6e-16",),
      "tpu-vm create slice --zone=here --accelerator-type=v6e-16"
      " --version=v2-alpha-tpuv6e --spot",
    ),
    ("setup", ("bucket",), "scp /tmp/cassle_jax.tar.gz slice: --zone=here"),
    ("run", FLAGS, "tpu-vm ssh slice --zone=here --worker=all --command="),
    ("logs", (), "tpu-vm ssh slice --zone=here --worker=0 --command=tail"),
    ("stop", (), "--worker=all --command=kill -TERM"),
    ("delete", (), "tpu-vm delete slice --zone=here --quiet"),
  ],
)
def test_tpu_prints_its_commands(shell, verb, more, expected):
  job = shell("tpu.sh", verb, "slice", "here", *more, DRY_RUN="1")
  status, out, err = finish(job)
  assert (status, err) == (0, "")
  # Bash takes its own quoting apart, in an array, where nothing is run.
  plain = subprocess.run(
    ["bash", "-c", f'words=({out}); echo "${{words[*]}}"'],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert expected in plain
  if verb == "setup":
    assert "--constraint cassle_jax/launch/constraints.txt" in plain
    assert "gcsfuse --implicit-dirs bucket runs" in plain


def test_tpu_runs_detached_once_and_stops(shell, tmp_path):
  program(shell.folder / "gcloud", GCLOUD)
  home = tmp_path / "home"
  (home / "cassle_jax").mkdir(parents=True)
  (home / "venv/bin").mkdir(parents=True)
  (home / "venv/bin/python").symlink_to(shell.stub)
  variables = dict(HOME=str(home), ACT="wait")
  # Twice: the second is told that one is under way.
  status, _, err = finish(shell("tpu.sh", "run", "a", "b", *FLAGS, **variables))
  assert status == 0, err
  log = home / "main.log"
  deadline = time.time() + 120
  while "a warning" not in (log.read_text() if log.exists() else ""):
    assert time.time() < deadline
    time.sleep(0.02)
  assert "--workdir=/runs/x y" in log.read_text()
  assert (home / "cassle_jax/runs").is_symlink()
  status, _, err = finish(shell("tpu.sh", "run", "a", "b", *FLAGS, **variables))
  assert status == 1 and "a run is under way" in err
  status, out, _ = finish(shell("tpu.sh", "stop", "a", "b", **variables))
  assert status == 0 and "saved" in out
  assert not alive(str(home / "venv"))


# SkyPilot.


@pytest.mark.parametrize("nodes", [1, 2])
def test_sky_runs_one_process_a_machine(shell, tmp_path, nodes):
  task = yaml.safe_load(read("sky.yaml"))
  assert task["resources"]["use_spot"]
  assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [143]
  assert task["file_mounts"]["/bucket"]["mode"] == "MOUNT"
  assert "--constraint launch/constraints.txt" in task["setup"]
  (tmp_path / "venv/bin").mkdir(parents=True)
  (tmp_path / "venv/bin/python").symlink_to(shell.stub)
  job = subprocess.run(
    ["bash", "-c", task["run"]],
    env=os.environ
    | {
      "HOME": str(tmp_path),
      "FLAGS": "--config=a.py --config.seed=1",
      "RUN": "one",
      "SKYPILOT_NUM_NODES": str(nodes),
      "SKYPILOT_NODE_RANK": "1",
      "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8",
    },
    capture_output=True,
    text=True,
    timeout=30,
  )
  assert job.returncode == 0, job.stderr
  words = job.stdout.split("\n")[0].split()
  assert words[-3:] == [
    "--config=a.py",
    "--config.seed=1",
    "--workdir=/bucket/one",
  ]
  explicit = {"--coordinator=10.0.0.7:8476", "--num_processes=2"}
  assert explicit <= set(words) if nodes == 2 else "--distributed=auto" in words


def test_every_flag_that_is_passed_on_is_one_of_main():
  text = subprocess.run(
    [sys.executable, "-m", "cassle_jax.main", "--help"],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=True,
  ).stdout
  pattern = "--(?:distributed|coordinator|num_processes|process_id|heartbeat)"
  passed = set()
  for name in (*SCRIPTS, *MANIFESTS):
    passed |= set(re.findall(rf"{pattern}\b", read(name)))
  assert len(passed) == 5
  assert all(flag in text for flag in passed)


def test_chip_prints_its_commands(shell):
  process = shell("chip.sh", "out", DRY_RUN="1", ON="h100x1")
  status, out, err = finish(process)
  assert status == 0, err
  steps = [x for x in out.splitlines() if "benchmark step" in x]
  assert "--config=configs/mocov3_vit.py --batch=1024" in steps[0]
  bounds = [x for x in out.splitlines() if "cassle_jax.preflight --on" in x]
  assert len(bounds) == 2
  assert "--on=h100x1 --config=configs/simclr_resnet50.py" in bounds[1]
  assert "--config.batch_size=1024" in bounds[1]
  assert "preflight.chip out --json=out/chip.json" in out.splitlines()[-1]


def test_chip_takes_the_next_batch_where_one_does_not_fit(shell, tmp_path):
  """A stand-in that has no memory for more than 256 images."""
  python = program(
    tmp_path / "small",
    "if [[ $* == *--batch=1024* || $* == *--batch=512* ]]; then exit 2; fi\n"
    "if [[ $1 == -c ]]; then exit 1; fi\n"
    'if [[ $* == *preflight.chip ]]; then echo cpu; else echo "$@"; fi\n',
  )
  with open(python) as file:
    text = file.read()
  program(tmp_path / "small", f"#!/usr/bin/env bash\n{text}")
  process = shell("chip.sh", str(tmp_path / "out"), PYTHON=python)
  status, out, err = finish(process)
  assert status == 0, err
  steps = [x for x in out.splitlines() if "benchmark step" in x]
  assert len(steps) == 2 and all("--batch=256" in x for x in steps)
  assert "cassle_jax.preflight --on" not in out


@pytest.mark.slow
def test_chip_at_debug_size(tmp_path):
  """The script as it stands, on this CPU."""
  done = subprocess.run(
    ["bash", os.path.join(LAUNCH, "chip.sh"), str(tmp_path)],
    env=os.environ | {"SIZE": "debug", "PYTHON": sys.executable},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  with open(tmp_path / "chip.md") as file:
    table = file.read()
  assert "| mocov3_vit, float32 | 16 |" in table
  with open(tmp_path / "chip.json") as file:
    rows = json.load(file)["rows"]
  assert [row["config"] for row in rows] == ["mocov3_vit", "simclr_resnet50"]
  assert all(row["images_per_second"] > 0 for row in rows)
