"""Which job a process belongs to: variables as clusters set them, and flags."""

import os

import pytest
from jax._src.clusters import cloud_tpu_cluster

from cassle_jax.errors import UserError
from cassle_jax.hosts import cluster, distributed

SRUN = {
  "SLURM_JOB_ID": "4097",
  "SLURM_STEP_ID": "0",
  "SLURM_STEP_NODELIST": "node[007-009,012],other",
  "SLURM_STEP_NUM_TASKS": "8",
  "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
  "SLURM_NTASKS": "8",
  "SLURM_PROCID": "5",
  "SLURM_LOCALID": "1",
}
GKE = {
  "TPU_WORKER_ID": "1",
  "TPU_WORKER_HOSTNAMES": "localhost,job-1.svc",
}
MPI = {
  "OMPI_COMM_WORLD_SIZE": "4",
  "OMPI_COMM_WORLD_RANK": "3",
  "OMPI_COMM_WORLD_LOCAL_RANK": "1",
  "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
  "OMPI_MCA_orte_hnp_uri": "12288.0;tcp://10.96.0.1,10.148.0.1:34911",
}


@pytest.fixture
def within(monkeypatch):
  """Sets the variables of a cluster, of which there are no others."""
  for name in list(os.environ):
    if name.startswith(("SLURM", "OMPI", "TPU", "MEGASCALE", "CUDA", "JAX_CO")):
      monkeypatch.delenv(name)

  def enter(variables):
    on_tpu = "TPU_WORKER_ID" in variables
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", on_tpu)
    monkeypatch.setattr(
      cloud_tpu_cluster, "get_metadata", lambda key: ("", 404)
    )
    for name, value in variables.items():
      monkeypatch.setenv(name, value)

  return enter


def without(variables, *names):
  return {k: v for k, v in variables.items() if k not in names}


@pytest.mark.parametrize(
  ("variables", "expected"),
  [
    # 65536 - 4096 + 4097 % 4096, as JAX has it.
    (SRUN, ("SLURM", 8, 5, "node007:61441", (1,))),
    (
      SRUN | {"SLURM_STEP_NODELIST": "a1,b[2-3]"},
      ("SLURM", 8, 5, "a1:61441", (1,)),
    ),
    (
      SRUN | {"SLURM_STEP_TASKS_PER_NODE": "1(x8)"},
      ("SLURM", 8, 5, "node007:61441", None),
    ),
    # --gpus-per-task: each task sees its own device, whose number is 0.
    (
      SRUN | {"CUDA_VISIBLE_DEVICES": "3"},
      ("SLURM", 8, 5, "node007:61441", None),
    ),
    (
      SRUN | {"JAX_COORDINATOR_PORT": "1234"},
      ("SLURM", 8, 5, "node007:1234", (1,)),
    ),
    (
      without(SRUN, "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID"),
      ("SLURM", 8, 5, "node007:61441", (1,)),
    ),
    # A shell of salloc, on the login node and as a step of its own.
    (
      {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_NODELIST": "a[1-2]"},
      None,
    ),
    (SRUN | {"SLURM_STEP_ID": "4294967290"}, None),
    (SRUN | {"SLURM_STEP_ID": "4294967291"}, None),
    (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, None),
    (GKE, ("TPU", 2, 1, "localhost:8482", None)),
    (
      GKE
      | {
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1:8080",
      },
      ("TPU", 4, 3, "127.0.0.1:8482", None),
    ),
    (GKE | {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    # The job's number 12288 is 3 x 4096.
    (MPI, ("Open MPI", 4, 3, "10.96.0.1:61443", (1,))),
    (
      MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
      ("Open MPI", 4, 3, "10.96.0.1:61443", None),
    ),
    (
      without(MPI, "OMPI_MCA_orte_hnp_uri"),
      ("Open MPI", 4, 3, None, (1,)),
    ),
    (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({}, None),
  ],
)
def test_detection(within, variables, expected):
  within(variables)
  found = cluster.detect()
  assert (None if found is None else tuple(found)) == expected


def test_what_is_found_is_said_in_one_line(within):
  within(SRUN)
  assert distributed.statement(cluster.detect()) == (
    "8 processes by SLURM, this is 5, coordinator node007:61441"
  )


def test_flags_win_over_the_cluster(within):
  within(SRUN)
  found = cluster.choose("auto", coordinator="10.0.0.2:99")
  assert found == (
    "SLURM and --coordinator",
    8,
    5,
    "10.0.0.2:99",
    (1,),
  )
  assert cluster.choose("off") is None


def test_flags_do_without_a_cluster(within):
  within({})
  found = cluster.choose(
    "auto", coordinator="a:1", num_processes=2, process_id=1
  )
  assert found == ("flags", 2, 1, "a:1", None)
  assert cluster.choose("auto") is None
  alone = {"coordinator": "a:1", "num_processes": 1, "process_id": 0}
  assert cluster.choose("on", **alone) is None


@pytest.mark.parametrize(
  ("mode", "variables", "flags", "message"),
  [
    ("perhaps", {}, {}, "unknown --distributed 'perhaps'.*auto, off, on"),
    ("on", {}, {}, "neither SLURM .* give --coordinator"),
    ("off", {}, {"process_id": 1}, "off goes without --process_id"),
    ("auto", {}, {"coordinator": "a:1"}, "no --num_processes and no --process"),
    (
      "auto",
      without(MPI, "OMPI_MCA_orte_hnp_uri"),
      {},
      "Open MPI does not tell --coordinator",
    ),
    ("auto", SRUN, {"coordinator": "node"}, "=node is not HOST:PORT"),
    ("auto", SRUN, {"process_id": 8}, "numbered from 0"),
    (
      "auto",
      SRUN | {"SLURM_PROCID": "x"},
      {},
      "SLURM does not say .*'x'",
    ),
  ],
)
def test_what_makes_no_sense_is_refused(
  within, mode, variables, flags, message
):
  within(variables)
  with pytest.raises(UserError, match=message) as caught:
    cluster.choose(mode, **flags)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("coordinator", "address"),
  [
    ("127.0.0.1:80", "127.0.0.1:80"),
    ("localhost:80", "127.0.0.1:80"),
    ("[::1]:80", "[::1]:80"),
    ("node007:80", None),
  ],
)
def test_a_local_coordinator_listens_on_the_loopback_alone(
  coordinator, address
):
  assert distributed.bind_address(coordinator) == address


@pytest.mark.parametrize(
  "endpoints", ["127.0.0.1,10.0.0.6", "unknown:1:127.0.0.1,unknown:2:10.0.0.6"]
)
def test_a_tpu_vm_is_told_by_its_metadata_server(
  within, monkeypatch, endpoints
):
  within({})
  answers = {
    "agent-worker-number": "1",
    "worker-network-endpoints": endpoints,
    "tpu-env": "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'\n",
  }
  monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
  monkeypatch.setattr(
    cloud_tpu_cluster, "get_metadata", lambda key: (answers[key], 200)
  )
  assert cluster.detect() == ("TPU", 4, 1, "127.0.0.1:8482", None)

  def silent(key):
    raise ConnectionError

  monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", silent)
  assert cluster.detect() is None
