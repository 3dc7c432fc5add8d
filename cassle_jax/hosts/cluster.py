"""Which processes make up a job: flags, or what a cluster tells its tasks.

JAX reads the variables of SLURM, Cloud TPU, GKE and Open MPI. Here is what it
leaves out: shells without a task, steps smaller than their job, tasks with all
devices of a machine. What is found is handed to `jax.distributed`; nothing is
started.
"""

import os
import re
from typing import NamedTuple

from cassle_jax.errors import UserError, unknown

MODES = ("auto", "on", "off")
# JAX's name of a cluster -> people's. Not "k8s", which is any pod.
_NAMES = {
  "ompi": "Open MPI",
  "slurm": "SLURM",
  "gcetpu": "TPU",
  "gketpu": "TPU",
}
# Steps that SLURM makes of a batch script or an interactive shell, not of srun.
_SLURM_OWN_STEPS = 4294967290
# How long to wait for the coordinator's name to be known.
_SECONDS = 300


class Cluster(NamedTuple):
  """A job of several processes and this one's place in it.

  Attributes:
    found_by: what said so, for people.
    num_processes: how many there are, 2 or more.
    process_id: which this one is, from 0.
    coordinator: HOST:PORT where process 0 is met; None if nothing says.
    local_devices: the devices of this machine that are this process's; None
      means all that it sees.
  """

  found_by: str
  num_processes: int
  process_id: int
  coordinator: str | None
  local_devices: tuple[int, ...] | None = None


def detect() -> Cluster | None:
  """Finds the job that this process was started in.

  Returns:
    None where a process is alone: no cluster, a cluster's job of one process,
    or a shell on a cluster (`salloc`, a batch script without `srun`).

  Raises:
    UserError: the cluster's variables make no sense.
  """
  # There is no public way to ask without joining.
  from jax._src.clusters import ClusterEnv

  kinds = {kind.name: kind for kind in ClusterEnv._cluster_types}
  for name, title in _NAMES.items():
    kind = kinds[name]
    try:
      if _present(kind):
        found = _task(kind)
        return found if found.num_processes > 1 else None
    except (ValueError, KeyError, OSError, RuntimeError) as error:
      raise UserError(
        f"{title} does not say which process this is ({error}); start it with"
        " the cluster's own launcher, or with --distributed=off."
      ) from error
  return None


def choose(
  mode: str,
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> Cluster | None:
  """Joins the flags with what the cluster says; flags win.

  `mode` is of `MODES`: "on" insists on several processes, "off" on one. None is
  the answer for a process on its own.

  Raises:
    UserError: flags that contradict each other, or too little to go by.
  """
  if mode not in MODES:
    raise unknown("--distributed", mode, MODES)
  given = {
    "--coordinator": coordinator,
    "--num_processes": num_processes,
    "--process_id": process_id,
  }
  flags = [name for name, value in given.items() if value is not None]
  if mode == "off":
    if flags:
      raise UserError(f"--distributed=off goes without {', '.join(flags)}.")
    return None
  found = detect()
  if not flags and found is None:
    if mode == "on":
      raise UserError(
        "--distributed=on, but neither SLURM (srun), a TPU, GKE nor Open MPI"
        " says that there are several processes; give"
        " --coordinator=HOST:PORT --num_processes=N --process_id=I."
      )
    return None
  if found is not None:
    given["--coordinator"] = coordinator or found.coordinator
    if num_processes is None:
      given["--num_processes"] = found.num_processes
    if process_id is None:
      given["--process_id"] = found.process_id
  missing = [name for name, value in given.items() if value is None]
  if missing:
    whose = f"{found.found_by} does not tell" if found else "there is no"
    raise UserError(
      f"{whose} {' and no '.join(missing)}; a job of several processes needs"
      " --coordinator=HOST:PORT --num_processes=N --process_id=I."
    )
  address, count, index = given.values()
  if not re.fullmatch(r"\S+:\d+", address):
    raise UserError(
      f"--coordinator={address} is not HOST:PORT; name the machine of process"
      " 0 and a free port on it, e.g. 10.0.0.2:8476."
    )
  if count < 1 or not 0 <= index < count:
    raise UserError(
      f"--process_id={index} of --num_processes={count}: processes are"
      " numbered from 0 to N - 1."
    )
  if count == 1:
    return None
  by = f"{found.found_by} and {', '.join(flags)}" if found else "flags"
  return Cluster(
    by if flags else found.found_by,
    count,
    index,
    address,
    found.local_devices if found else None,
  )


def _task(kind: type) -> Cluster:
  """This process's place, as JAX reads a cluster's variables."""
  local, count = None, kind.get_process_count()
  if kind.name == "slurm":
    # A step may be smaller than the job whose tasks JAX counts.
    count = int(os.environ.get("SLURM_STEP_NUM_TASKS", count))
    each = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    local = None if re.fullmatch(r"1(\(x\d+\))?", each) else "SLURM_LOCALID"
  elif kind.name == "ompi":
    several = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") != "1"
    local = "OMPI_COMM_WORLD_LOCAL_RANK" if several else None
  # JAX would always take one device a task: the others of a machine with one
  # task would be idle, and a task that is shown its own device alone knows it
  # as number 0.
  seen = os.environ.get("CUDA_VISIBLE_DEVICES")
  devices = None
  if local and local in os.environ and (not seen or "," in seen):
    devices = (int(os.environ[local]),)
  address = None
  if count > 1 and kind.is_env_present():  # Open MPI 5 does not tell it.
    address = kind.get_coordinator_address(
      timeout_secs=_SECONDS,
      override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
    )
  return Cluster(
    _NAMES[kind.name], count, kind.get_process_id(), address, devices
  )


def _present(kind: type) -> bool:
  """Whether a launcher of this kind has started the process."""
  if kind.name == "slurm":
    step = int(os.environ.get("SLURM_STEP_ID", 0))
    return kind.is_env_present() and step < _SLURM_OWN_STEPS
  if kind.name == "ompi":
    return "OMPI_COMM_WORLD_RANK" in os.environ
  try:
    return kind.is_env_present()
  except (OSError, ImportError):  # No metadata server answers.
    return False
