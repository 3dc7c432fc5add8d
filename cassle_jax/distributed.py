"""Several processes as one job: start, agree, fail together, end together.

The engine is `jax.distributed`; what processes tell each other here goes
through its coordination service, which answers in a millisecond and needs no
device. With one process every function returns at once.

What the service does not do is end a job quickly. A process that raises would
leave the others in a collective until heartbeats are missed. So each process
has a thread that looks, twice a second, at what the others have announced: a
failure ends all of them, and SIGTERM on one is everybody's (see `preemption`).
"""

import collections
import contextlib
import hashlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cassle_jax.cluster import Cluster
from cassle_jax.errors import UserError

HEARTBEAT = 100
# How long the first process to finish waits for the others to finish too.
SHUTDOWN_SECONDS = 60
_POLL_SECONDS = 0.5
_ROOT = "cassle_jax"
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class _Job:
  """The job that this process is part of.

  Attributes:
    client: JAX's connection to the coordination service.
    count: number of processes.
    index: of this one.
  """

  def __init__(self, client: Any, count: int, index: int):
    self.client, self.count, self.index = client, count, index
    self.rounds: collections.Counter = collections.Counter()
    self.on_preempted: Callable[[], None] | None = None
    self.ending = threading.Lock()
    self.done = threading.Event()
    self.thread = threading.Thread(target=self._watch, daemon=True)

  def read(self, folder: str) -> dict[str, Any]:
    """What is written below a name: last part of the key -> JSON value."""
    entries = self.client.key_value_dir_get(f"{_ROOT}/{folder}/")
    return {key.rsplit("/", 1)[1]: json.loads(text) for key, text in entries}

  def write(self, folder: str, value: Any, name: Any = None) -> None:
    name = self.index if name is None else name
    self.client.key_value_set(
      f"{_ROOT}/{folder}/{name}", json.dumps(value), allow_overwrite=True
    )

  def _watch(self) -> None:
    preempted = False
    while not self.done.wait(_POLL_SECONDS):
      try:
        failed = self.read("failed")
        # Only looked for once somebody can act on it.
        told = self.on_preempted is not None and self.read("preempted")
      except Exception:
        continue  # The service is gone: JAX ends the process itself.
      failed.pop(str(self.index), None)
      if failed:
        _claim(self)
        _follow(self, failed)
      if told and not preempted:
        preempted = True
        self.on_preempted()


_job: _Job | None = None


def start(cluster: Cluster, *, heartbeat: int = HEARTBEAT) -> None:
  """Joins the other processes of a job; before anything touches a device.

  Args:
    cluster: from `cluster.choose`.
    heartbeat: seconds without a sign of life after which a process counts as
      dead and the others end.

  Raises:
    UserError: the heartbeat is out of range.
  """
  if heartbeat < 2:
    raise UserError(f"--heartbeat={heartbeat}: it must be at least 2 seconds.")
  import jax

  if cluster.process_id == 0:
    _print(statement(cluster))
  late = threading.Timer(
    10, _print, [f"still waiting for the other processes: {statement(cluster)}"]
  )
  late.daemon = True
  late.start()
  # JAX's own handler of SIGTERM would take the signal from Python's, is asked
  # by Orbax at every save under other numbers than ours, and does not know
  # that nothing is unsaved while a program compiles.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    cluster.coordinator,
    cluster.num_processes,
    cluster.process_id,
    local_device_ids=cluster.local_devices,
    cluster_detection_method="deactivate",
    coordinator_bind_address=bind_address(cluster.coordinator),
    heartbeat_timeout_seconds=heartbeat,
    shutdown_timeout_seconds=SHUTDOWN_SECONDS,
  )
  late.cancel()
  job = _current()
  job.thread.start()
  sys.excepthook = _excepthook


def statement(cluster: Cluster) -> str:
  """One line on what was found."""
  return (
    f"{cluster.num_processes} processes by {cluster.found_by}, this is"
    f" {cluster.process_id}, coordinator {cluster.coordinator}"
  )


def bind_address(coordinator: str) -> str | None:
  """Where process 0 listens: for local processes on the loopback alone.

  None leaves JAX's choice, all of the machine's addresses: the service is not
  authenticated, so a job belongs in a trusted network.
  """
  host, port = coordinator.rsplit(":", 1)
  if host not in _LOOPBACK:
    return None
  return coordinator if host == "[::1]" else f"127.0.0.1:{port}"


def finish() -> None:
  """Waits for the other processes to finish too, and leaves the job."""
  global _job
  if _job is None:
    return
  import jax

  _job.done.set()
  if _job.thread.is_alive():
    _job.thread.join()
  _job = None
  sys.excepthook = sys.__excepthook__
  jax.distributed.shutdown()


def several() -> bool:
  """Whether there is more than one process."""
  return _current() is not None


def barrier(name: str, seconds: float) -> None:
  """Waits until all processes are here.

  Args:
    name: of the place in the program; it may be passed many times.
    seconds: how long to wait.

  Raises:
    TimeoutError: not all came in time.
  """
  job = _current()
  if job is None:
    return
  wait = getattr(job.client, "wait_at_barrier", None)
  if wait is None:
    from jax.experimental import multihost_utils

    return multihost_utils.sync_global_devices(name)  # Without a bound.
  job.rounds[name] += 1
  try:
    wait(f"{_ROOT}/{name}/{job.rounds[name]}", round(1000 * seconds))
  except Exception as error:
    raise TimeoutError(
      f"not all {job.count} processes came to {name!r} within {seconds:g} s:"
      f" {str(error).splitlines()[0]}"
    ) from None


def share(name: str, value: Any, *, seconds: float = 600) -> list[Any]:
  """Gathers a JSON value from every process; all must call it.

  Args:
    name: of the place in the program; it may be passed many times.
    value: of this process.
    seconds: how long to wait for the others.

  Returns:
    The values by process; with one process a list of its own.

  Raises:
    TimeoutError: not all came in time.
  """
  job = _current()
  if job is None:
    return [value]
  folder = f"share/{name}/{job.rounds[name] + 1}"
  job.write(folder, value)
  barrier(name, seconds)
  found = job.read(folder)
  if job.rounds[name] > 1:  # All have read what was shared the last time.
    job.client.key_value_delete(
      f"{_ROOT}/share/{name}/{job.rounds[name] - 1}/{job.index}"
    )
  return [found[str(index)] for index in range(job.count)]


def gather(value: float) -> list[float]:
  """A number from every process, by process; all must call it."""
  return share("gather", float(value))


def from_first(name: str, make: Callable[[], Any]) -> Any:
  """A JSON value that process 0 makes for all.

  For whatever depends on a clock or on files that process 0 writes: processes
  that see different things would part ways, and wait for each other for ever.
  """
  first = _current() is None or _current().index == 0
  return share(name, make() if first else None)[0]


@contextlib.contextmanager
def first(name: str, *, seconds: float = 600) -> Iterator[None]:
  """Lets process 0 go through a block before the others."""
  job = _current()
  if job is not None and job.index > 0:
    barrier(name, seconds)
  yield
  if job is not None and job.index == 0:
    barrier(name, seconds)


def check_same(name: str, mine: Mapping[str, Any]) -> None:
  """Refuses to go on where processes differ; all must call it.

  Args:
    name: what is compared.
    mine: of this process, JSON values by name.

  Raises:
    UserError: on every process, naming what differs and where.
  """
  values = share(name, dict(mine))
  wrong = {}
  for index, theirs in enumerate(values):
    differing = [
      f"{key} is {_show(theirs, key)} (process 0: {_show(values[0], key)})"
      for key in sorted(values[0].keys() | theirs.keys())
      if theirs.get(key) != values[0].get(key)
    ]
    if differing:
      wrong[index] = "; ".join(differing[:4])
      if len(differing) > 4:
        wrong[index] += f"; and {len(differing) - 4} more"
  if wrong:
    index, text = next(iter(wrong.items()))
    where = f"process {index}"
    if len(wrong) > 1:
      where = f"{len(wrong)} processes, the first of them {index},"
    raise UserError(
      f"{where} differs from process 0: {text}. Start all of them with the same"
      " command and the same installation."
    )


def code_version() -> str:
  """The package's version and a hash of its source files."""
  root = os.path.dirname(os.path.abspath(__file__))
  mark = hashlib.sha256()
  for folder, folders, names in os.walk(root):
    folders.sort()
    for name in sorted(names):
      if name.endswith((".py", ".json")):
        path = os.path.join(folder, name)
        mark.update(os.path.relpath(path, root).encode())
        with open(path, "rb") as file:
          mark.update(file.read())
  import cassle_jax

  return f"{cassle_jax.__version__} (sources {mark.hexdigest()[:12]})"


def announce_preemption() -> None:
  """Tells every process that SIGTERM has come to this one."""
  job = _current()
  if job is not None:
    job.write("preempted", True)


def on_preemption(call: Callable[[], None]) -> None:
  """Has `call` called, from a thread, once SIGTERM has come to any process."""
  job = _current()
  if job is not None:
    job.on_preempted = call


def leave(status: int, text: str) -> None:
  """Ends this process at once; for what all processes do at the same time."""
  job = _current()
  _claim(job)
  if job.index == 0:
    _print(text)
  _exit(job, status)


def fail(error: BaseException) -> None:
  """Ends this process because of an error, and the others with it.

  Returns where there is one process, whose errors need no help. A `UserError`
  is one line and status 2, anything else a traceback and status 1.
  """
  job = _current()
  if job is None:
    return
  _claim(job)
  line = " ".join(str(error).split())
  if isinstance(error, UserError):
    status, text = 2, line
  elif isinstance(error, KeyboardInterrupt):
    status, text = 130, "interrupted"
  else:
    status, text = 1, f"{type(error).__name__}: {line}"
    with contextlib.suppress(Exception):
      # What breaks because another process broke is of no interest.
      if others := job.read("failed"):
        _follow(job, others)
  with contextlib.suppress(Exception):
    job.write("failed", [status, text])
  if status == 1:
    traceback.print_exception(error)
    _print(f"process {job.index} failed: {text[:300]}")
  else:
    _print(f"error: {text}" if status == 2 else text)
  _exit(job, status, wait=True)


@contextlib.contextmanager
def fail_fast() -> Iterator[None]:
  """Ends the job on an error before anything is closed in an orderly way.

  Closing a run waits for saves and steps that the other processes have a part
  in. An error of the user's that all processes meet at the same time is left
  to the caller, so that a save under way is finished.
  """
  try:
    yield
  except Exception as error:
    if several():
      if not isinstance(error, UserError):
        fail(error)
      try:
        barrier("the same error", 5)
      except TimeoutError:
        fail(error)
    raise


def _follow(job: _Job, failed: Mapping[str, Any]) -> None:
  """Ends this process because others have failed."""
  index = min(failed, key=int)
  status, text = failed[index]
  if status == 2:
    _print(f"error: process {index}: {text}")
  else:
    _print(
      f"ended because process {index} failed: {text[:300]}; its own output has"
      " the traceback"
    )
  _exit(job, status)


def _claim(job: _Job) -> None:
  """Of two threads that both want to end the process only one goes on."""
  if not job.ending.acquire(blocking=False):
    time.sleep(3600)


def _exit(job: _Job, status: int, *, wait: bool = False) -> None:
  """Ends the process, process 0 last: the others' connection ends with it.

  Args:
    job: the job.
    status: exit status.
    wait: whether other processes must first have seen what happened here.
  """
  with contextlib.suppress(Exception):
    job.write("gone", True)
    deadline = time.monotonic() + 5
    while job.index == 0 or wait:
      if len(job.read("gone")) == job.count or time.monotonic() > deadline:
        break
      time.sleep(0.05)
  if job.index == 0:
    time.sleep(0.3)
  with contextlib.suppress(Exception):
    sys.stdout.flush()
    sys.stderr.flush()
  os._exit(status)


def _excepthook(kind: type, error: BaseException, trace: Any) -> None:
  if not several():
    sys.__excepthook__(kind, error, trace)
  fail(error)


def _current() -> _Job | None:
  """The job, also where somebody else has called `jax.distributed`."""
  global _job
  if _job is None and "jax" in sys.modules:
    # There is no public way to the key-value store and its barriers yet.
    from jax._src.distributed import global_state

    if global_state.client is not None and global_state.num_processes > 1:
      _job = _Job(
        global_state.client, global_state.num_processes, global_state.process_id
      )
  return _job


def _show(values: Mapping[str, Any], key: str) -> str:
  return json.dumps(values[key]) if key in values else "absent"


def _print(text: str) -> None:
  sys.stderr.write(text + "\n")
  sys.stderr.flush()
