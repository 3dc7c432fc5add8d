"""Jobs of several local processes for the tests, each with its own log."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time

from cassle_jax.runs import logs

# A length that no test waits for.
FOREVER = "--config.steps=100000"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def free_port():
  """Below the range that the system takes for outgoing connections."""
  while True:
    port = random.randrange(20000, 30000)
    with socket.socket() as server:
      try:
        server.bind(("127.0.0.1", port))
      except OSError:
        continue
    return port


class Job:
  """Processes of one job; killed, with their children, at the latest on exit.

  Attributes:
    processes: by process id.
    logs: their paths.
  """

  def __init__(
    self, folder, *, count=2, devices=2, script=None, extra=None, cwd=None
  ):
    """Starts them.

    Args:
      folder: for the logs.
      count: how many.
      devices: of each.
      script: Python to run in place of `cassle_jax.main`.
      extra: process id -> (flags, variables of the environment).
      cwd: where to start them; None means here.
    """
    self.processes, self.logs = [], []
    start = ["-m", "cassle_jax.main"] if script is None else [str(script)]
    for index in range(count):
      flags, variables = extra(index)
      path = os.path.join(folder, f"log{index}")
      environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(
          [ROOT, os.environ.get("PYTHONPATH", "")]
        ).strip(os.pathsep),
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + f" --xla_force_host_platform_device_count={devices}",
        **variables,
      }
      with open(path, "wb") as log:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, *start, *flags],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=cwd,
            start_new_session=True,
          )
        )
      self.logs.append(path)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.processes:
      try:
        os.killpg(process.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
      process.wait()

  def text(self, index):
    """What a process printed, without Gloo's lines, which may be torn."""
    with open(self.logs[index], errors="replace") as file:
      return "".join(
        line
        for line in file
        if "[Gloo]" not in line and "connected peer ranks" not in line
      )

  def until(self, ready, seconds=240):
    """Waits until `ready()`; all processes must live meanwhile."""
    deadline = time.monotonic() + seconds
    while not ready():
      for index, process in enumerate(self.processes):
        assert process.poll() is None, self.text(index)
      assert time.monotonic() < deadline, self.text(0)
      time.sleep(0.02)

  def wait(self, seconds=240):
    """The exit statuses, all of them there within `seconds`."""
    deadline = time.monotonic() + seconds
    statuses = []
    for index, process in enumerate(self.processes):
      try:
        left = max(0.1, deadline - time.monotonic())
        statuses.append(process.wait(left))
      except subprocess.TimeoutExpired:
        raise AssertionError(
          f"process {index} still runs: {self.text(index)}"
        ) from None
    return statuses


def flags(index, port, workdir, *overrides, count=2):
  """The flags that start process `index` of a small run."""
  place = [
    "--heartbeat=10",
    f"--coordinator=127.0.0.1:{port}",
    f"--num_processes={count}",
    f"--process_id={index}",
  ]
  return [
    f"--config={os.path.join(ROOT, 'tests', 'small_config.py')}",
    f"--workdir={workdir}",
    "--config.mesh.data=0",
    *(place if count > 1 else []),
    *overrides,
  ]


def train(folder, workdir, *overrides, count=2, devices=2, variables=None):
  """A small run in several processes."""
  port = free_port()
  return Job(
    folder,
    count=count,
    devices=devices,
    extra=lambda i: (
      flags(i, port, workdir, *overrides, count=count),
      variables or {},
    ),
  )


def records(workdir):
  with open(os.path.join(workdir, logs.METRICS)) as file:
    return [json.loads(line) for line in file]


def losses(workdir):
  return {r["step"]: r["loss"] for r in records(workdir) if "loss" in r}


def steps_on_disk(workdir):
  folder = os.path.join(workdir, "checkpoints")
  names = os.listdir(folder) if os.path.isdir(folder) else []
  return sorted(int(name) for name in names if name.isdigit())


def script(folder, body):
  """A program that patches something, then runs `cassle_jax.main`."""
  path = folder / "patched.py"
  path.write_text(
    "import os, sys\n"
    "from cassle_jax import main\n"
    "from cassle_jax.config import cli\n"
    "from cassle_jax.hosts import distributed\n"
    "from cassle_jax.runs import logs, progress\n"
    "from cassle_jax.errors import UserError\n"
    "index = int(sys.argv.pop())\n"
    + textwrap.dedent(body)
    + "\nif __name__ == '__main__':\n  cli.run(main.main)\n"
  )
  return path


def at_step(step, action):
  """The body of a script that does something once a step was started."""
  return f"""
update = progress.ProgressBar.update
def act(self, step, loss=None):
  update(self, step, loss)
  if step == {step}:
    {action}
progress.ProgressBar.update = act
"""


def raising(mark, hosts, error):
  """The body of a script in which some hosts fail at a step."""
  return at_step(
    3, f"if index in {hosts}: open({str(mark)!r}, 'w').close(); raise {error}"
  )


def patched(folder, workdir, body, *overrides, count=2, devices=2):
  port = free_port()
  return Job(
    folder,
    count=count,
    devices=devices,
    script=script(folder, body),
    extra=lambda i: (
      [*flags(i, port, workdir, *overrides, count=count), str(i)],
      {},
    ),
  )
