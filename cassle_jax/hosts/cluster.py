"""Which processes make up a job: flags, or what a cluster tells its tasks.

SLURM, Cloud TPU, GKE and Open MPI are known. What is found here is handed to
`jax.distributed`; nothing is started.
"""

import glob
import re
from collections.abc import Mapping
from typing import NamedTuple

from cassle_jax.errors import UserError, unknown

MODES = ("auto", "on", "off")
_TPU_PORT = 8482
# Steps that SLURM makes of a batch script or an interactive shell, not of srun.
_SLURM_OWN_STEPS = 4294967290
_METADATA = "computeMetadata/v1/instance/attributes"


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


def detect(environment: Mapping[str, str]) -> Cluster | None:
  """Finds the job that this process was started in.

  Args:
    environment: of the process, and `tpu_metadata`.

  Returns:
    None where a process is alone: no cluster, a cluster's job of one process,
    or a shell on a cluster (`salloc`, a batch script without `srun`).

  Raises:
    UserError: a variable that is not the number it should be.
  """
  for found in (_open_mpi, _slurm, _tpu):
    cluster = found(environment)
    if cluster is not None:
      return cluster if cluster.num_processes > 1 else None
  return None


def choose(
  mode: str,
  environment: Mapping[str, str],
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> Cluster | None:
  """Joins the flags with what the cluster says; flags win.

  Args:
    mode: of `MODES`: "on" insists on several processes, "off" on one.
    environment: see `detect`.
    coordinator: HOST:PORT.
    num_processes: of the job.
    process_id: of this process.

  Returns:
    The job, or None for a process on its own.

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
  found = detect(environment)
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


def _number(environment: Mapping[str, str], name: str) -> int:
  try:
    return int(environment[name])
  except ValueError:
    raise UserError(
      f"{name}={environment[name]} is not a number; start the process with"
      " the cluster's own launcher, or with --distributed=off."
    ) from None


def _open_mpi(environment: Mapping[str, str]) -> Cluster | None:
  """mpirun's tasks. Open MPI 5 does not say where it was started."""
  size, rank = "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"
  if size not in environment or rank not in environment:
    return None
  coordinator = None
  uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
  match = re.match(r"(\d+).*?(?:tcp://(.+?)[,:]|tcp6://\[(.+?)[,\]])", uri)
  if match:
    # The job's number is a multiple of 2^12.
    port = _port(environment, int(match[1]) // 2**12)
    coordinator = f"{match[2] or f'[{match[3]}]'}:{port}"
  local, beside = "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"
  alone = environment.get(beside) == "1"
  return Cluster(
    "Open MPI",
    _number(environment, size),
    _number(environment, rank),
    coordinator,
    None if alone else _own_device(environment, local),
  )


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
  """srun's tasks; a shell of salloc has the job's variables without a task."""
  nodes = environment.get("SLURM_STEP_NODELIST")
  if not nodes or not {"SLURM_JOB_ID", "SLURM_PROCID"} <= environment.keys():
    return None
  if "SLURM_STEP_ID" in environment:
    if _number(environment, "SLURM_STEP_ID") >= _SLURM_OWN_STEPS:
      return None
  count = "SLURM_STEP_NUM_TASKS"
  if count not in environment:
    count = "SLURM_NTASKS"
  if count not in environment:
    return None
  # "node7", "node7,node9", "node[007-009,012],other": the first of them.
  first = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
  host = first[1] + (first[2] or "")
  port = _port(environment, _number(environment, "SLURM_JOB_ID"))
  per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
  alone = re.fullmatch(r"1(\(x\d+\))?", per_node)
  return Cluster(
    "SLURM",
    _number(environment, count),
    _number(environment, "SLURM_PROCID"),
    f"{host}:{port}",
    None if alone else _own_device(environment, "SLURM_LOCALID"),
  )


def _tpu(environment: Mapping[str, str]) -> Cluster | None:
  """The workers of a TPU, of several slices joined by Megascale too."""
  hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get(
    "TPU_WORKER_HOSTNAMES"
  )
  if not hosts or "TPU_WORKER_ID" not in environment:
    return None
  workers = hosts.split(",")
  slices, number = 1, 0
  if environment.get("MEGASCALE_NUM_SLICES"):
    slices = _number(environment, "MEGASCALE_NUM_SLICES")
  if environment.get("MEGASCALE_SLICE_ID"):
    number = _number(environment, "MEGASCALE_SLICE_ID")
  first = environment.get("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]
  port = environment.get("JAX_COORDINATOR_PORT", _TPU_PORT)
  return Cluster(
    "TPU" if slices == 1 else f"TPU ({slices} slices)",
    len(workers) * slices,
    _number(environment, "TPU_WORKER_ID") + number * len(workers),
    f"{first.split(':')[0]}:{port}",
  )


def _port(environment: Mapping[str, str], job: int) -> int:
  """A port that all processes of a job come upon, as JAX does."""
  if "JAX_COORDINATOR_PORT" in environment:
    return _number(environment, "JAX_COORDINATOR_PORT")
  return 65536 - 2**12 + job % 2**12


def _own_device(
  environment: Mapping[str, str], name: str
) -> tuple[int, ...] | None:
  """One device a task, unless the launcher lets each task see its own only."""
  seen = environment.get("CUDA_VISIBLE_DEVICES")
  if name not in environment or (seen and "," not in seen):
    return None
  return (_number(environment, name),)


def tpu_metadata(environment: Mapping[str, str]) -> dict[str, str]:
  """What a TPU VM's metadata server says, under the names that GKE uses.

  Asks only where there are TPU chips and nothing else has told; {} elsewhere,
  and where no server answers.
  """
  told = {"TPU_WORKER_ID", "TPU_SKIP_MDS_QUERY"} & environment.keys()
  if told or not (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
    return {}
  return read_metadata(
    environment.get("GCE_METADATA_IP", "metadata.google.internal")
  )


def read_metadata(server: str, *, seconds: float = 5.0) -> dict[str, str]:
  """Asks a metadata server which worker of which TPU this machine is.

  Args:
    server: its host, or HOST:PORT.
    seconds: how long to wait for each answer.

  Returns:
    TPU_WORKER_ID, TPU_WORKER_HOSTNAMES and the MEGASCALE_* of several slices;
    {} where the machine is no TPU's worker.
  """

  import urllib.request  # Not needed elsewhere, and slow to import.

  direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

  def ask(attribute: str) -> str:
    request = urllib.request.Request(
      f"http://{server}/{_METADATA}/{attribute}",
      headers={"Metadata-Flavor": "Google"},
    )
    with direct.open(request, timeout=seconds) as answer:
      return answer.read().decode()

  try:
    number = ask("agent-worker-number").strip()
    endpoints = ask("worker-network-endpoints").strip()
    lines = ask("tpu-env").splitlines()
  except OSError:
    return {}
  found = {
    "TPU_WORKER_ID": number,
    # A host, or a name, a number and an address with colons between them.
    "TPU_WORKER_HOSTNAMES": ",".join(
      each.split(":")[-1] for each in endpoints.split(",")
    ),
  }
  for line in lines:
    name, _, value = line.partition(":")
    if name.strip().startswith("MEGASCALE_"):
      found[name.strip()] = value.strip().strip("'\"")
  return found
