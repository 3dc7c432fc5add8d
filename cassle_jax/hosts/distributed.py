"""Several processes as one job: start, agree, finish.

The engine is `jax.distributed`; what processes tell each other here goes
through its coordination service, which answers in a millisecond and needs no
device. With one process every function returns at once.

How a job fails and stops is in `job`.
"""

import contextlib
import errno
import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cassle_jax.errors import UserError
from cassle_jax.hosts.cluster import Cluster
from cassle_jax.hosts.job import (
  ROOT,
  current,
  excepthook,
  forget,
  joining,
  tell,
)

HEARTBEAT = 100
# How long the first process to finish waits for the others to finish too.
SHUTDOWN_SECONDS = 60
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def start(cluster: Cluster, *, heartbeat: int = HEARTBEAT) -> None:
  """Joins the other processes of a job; before anything touches a device.

  Args:
    cluster: from `cluster.choose`.
    heartbeat: seconds without a sign of life after which a process counts as
      dead and the others end.

  Raises:
    UserError: the heartbeat is out of range, the coordinator's port is taken,
      JAX says that it cannot connect, or it hides its key-value store. Where
      the others do not come within JAX's 300 s it does not say so: it ends the
      process by SIGABRT.
  """
  if heartbeat < 2:
    raise UserError(f"--heartbeat={heartbeat}: it must be at least 2 seconds.")
  import jax

  if cluster.process_id == 0:
    tell(statement(cluster))
    _check_port(cluster.coordinator)
  late = threading.Timer(
    10,
    tell,
    [
      f"still waiting for the other processes: {statement(cluster)}; are all of"
      " them started, and can they reach that port?"
    ],
  )
  late.daemon = True
  late.start()
  # JAX's own handler of SIGTERM would take the signal from Python's, is asked
  # by Orbax at every save under other numbers than ours, and does not know
  # that nothing is unsaved while a program compiles.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    with joining():
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
  except jax.errors.JaxRuntimeError as error:
    raise UserError(
      f"no connection ({statement(cluster)}): {error}. Check that it is the"
      " host of process 0, with a port that is free there and that all hosts"
      " reach, and that every process was started with it."
    ) from error
  finally:
    late.cancel()
  if current() is None:
    raise UserError(
      f"jax {jax.__version__} hides its key-value store, through which"
      " processes agree; use a version that this package was tested with."
    )
  current().watch()
  sys.excepthook = excepthook


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


def _check_port(coordinator: str) -> None:
  """Raises UserError where process 0 cannot listen.

  JAX 0.10 crashes on a taken port as often as not, and shares it with the
  coordinator of another job if it is one.
  """
  address = bind_address(coordinator)
  if address is None and "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
    return
  port = coordinator.rsplit(":", 1)[1]
  host = (address or f"[::]:{port}").rsplit(":", 1)[0].strip("[]")
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  try:
    with socket.socket(family) as server:
      server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      server.bind((host, int(port)))
  except (OSError, OverflowError) as error:  # The latter from 65536 on.
    number = getattr(error, "errno", errno.EADDRINUSE)
    if number in (errno.EADDRINUSE, errno.EACCES):
      raise UserError(
        f"coordinator {coordinator}: process 0 cannot listen at its port"
        f" ({error}). Choose another one, for all processes."
      ) from None


def finish() -> None:
  """Waits for the other processes to finish too, and leaves the job."""
  if current() is None:
    return
  import jax

  forget()
  sys.excepthook = sys.__excepthook__
  jax.distributed.shutdown()


def barrier(name: str, seconds: float) -> None:
  """Waits until all processes are at the place of that name, again and again.

  Raises:
    TimeoutError: not all came within so many seconds.
  """
  job = current()
  if job is not None:
    job.barrier(name, seconds)


def share(name: str, value: Any, *, seconds: float = 600) -> list[Any]:
  """Gathers a JSON value from every process, by process; all must call it.

  Args:
    name: of the place in the program; it may be passed many times.
    value: of this process.
    seconds: how long to wait for the others.

  Raises:
    TimeoutError: not all came in time.
  """
  job = current()
  if job is None:
    return [value]
  folder = f"share/{name}/{job.rounds[name] + 1}"
  job.write(folder, value)
  barrier(name, seconds)
  found = job.read(folder)
  if job.rounds[name] > 1:  # All have read what was shared the last time.
    job.client.key_value_delete(
      f"{ROOT}/share/{name}/{job.rounds[name] - 1}/{job.index}"
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
  first = current() is None or current().index == 0
  return share(name, make() if first else None)[0]


@contextlib.contextmanager
def first(name: str, *, seconds: float = 600) -> Iterator[None]:
  """Lets process 0 go through a block before the others."""
  job = current()
  if job is not None and job.index > 0:
    barrier(name, seconds)
  yield
  if job is not None and job.index == 0:
    barrier(name, seconds)


def differences(
  values: Mapping[str, Any], others: Mapping[str, Any], whose: str
) -> list[str]:
  """The keys in which two dicts differ, each with both JSON values.

  A key that one of them lacks and that is None in the other is no difference.
  """

  def show(held: Mapping[str, Any], key: str) -> str:
    return json.dumps(held[key]) if key in held else "absent"

  return [
    f"{key} is {show(values, key)} ({whose}: {show(others, key)})"
    for key in sorted(values.keys() | others.keys())
    if values.get(key) != others.get(key)
  ]


def check_same(name: str, mine: Mapping[str, Any]) -> None:
  """Refuses to go on where JSON values by name differ; all must call it.

  Raises:
    UserError: on every process, naming what differs and where.
  """
  values = share(name, dict(mine))
  wrong = {}
  for index, theirs in enumerate(values):
    differing = differences(theirs, values[0], "process 0")
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
  import cassle_jax

  root = os.path.dirname(os.path.abspath(cassle_jax.__file__))
  mark = hashlib.sha256()
  for folder, folders, names in os.walk(root):
    folders.sort()
    for name in sorted(names):
      if name.endswith((".py", ".json")):
        path = os.path.join(folder, name)
        mark.update(os.path.relpath(path, root).encode())
        with open(path, "rb") as file:
          mark.update(file.read())
  return f"{cassle_jax.__version__} (sources {mark.hexdigest()[:12]})"
