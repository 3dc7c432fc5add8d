"""Machines that are not there: names, sizes, and their devices for a compiler.

h100, h100x8     GPUs of one host; h100x16 is two hosts of eight
v5e:4x4          a slice of TPUs, as Cloud TPU names its topology
v5p:2x2x1
"""

import importlib.util
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from cassle_jax.errors import UserError
from cassle_jax.hosts.chips import CHIPS, Chip

GPUS = tuple(name for name, chip in CHIPS.items() if chip.gpu)
# Name -> axes of a slice.
TPUS = {"v5e": 2, "v6e": 2, "v5p": 3}
# Cloud TPU's slices of v5e and v6e.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_EXAMPLES = "h100x8, h200, a100x4, v5e:4x4, v6e:2x4, v5p:2x2x1"
_GPUS_A_HOST = 8
# The share of a GPU's memory that JAX takes at start, unless this variable says
# another.
_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_USUAL_FRACTION = 0.75


class Topology(NamedTuple):
  """Accelerators that run as one.

  Attributes:
    name: as it was asked for.
    chip: what they are.
    devices: how many.
    hosts: that they are in, where that matters for links.
    tpu: whether they are TPUs.
  """

  name: str
  chip: Chip
  devices: int
  hosts: int
  tpu: bool

  @property
  def extra(self) -> str:
    """The extra of this package that installs the compiler."""
    return "preflight-tpu" if self.tpu else "preflight-gpu"

  @property
  def module(self) -> str:
    """The module that the compiler comes with."""
    return "libtpu" if self.tpu else "jax_cuda12_plugin"

  def limit(self, environment: Mapping[str, str] | None = None) -> int:
    """Bytes that a program may have on a device, as JAX allots them."""
    if self.tpu:
      return self.chip.memory
    known = os.environ if environment is None else environment
    return int(self.chip.memory * float(known.get(_FRACTION, _USUAL_FRACTION)))


def parse(text: str) -> Topology:
  """The topology of a name.

  Raises:
    UserError: there is none of that name.
  """
  kind, colon, shape = text.lower().partition(":")
  if colon:
    return _slice(text, kind, shape)
  found = re.fullmatch(r"(.*?)(?:x(\d+))?", kind)
  name, count = found.group(1), int(found.group(2) or 1)
  if name in TPUS:
    raise UserError(
      f"--on={text}: give the shape of the slice, e.g. --on={name}:"
      f"{'4x4' if TPUS[name] == 2 else '2x2x1'}."
    )
  if name not in GPUS:
    raise _unknown(text)
  if not count or (count > _GPUS_A_HOST and count % _GPUS_A_HOST):
    raise UserError(
      f"--on={text}: {count} GPUs; use 1 to {_GPUS_A_HOST}, or a multiple of"
      f" {_GPUS_A_HOST} for several hosts."
    )
  hosts = -(-count // _GPUS_A_HOST)
  return Topology(text, CHIPS[name], count, hosts, tpu=False)


def _slice(text: str, kind: str, shape: str) -> Topology:
  if kind not in TPUS:
    raise _unknown(text)
  sizes = [int(size) for size in re.findall(r"\d+", shape)]
  if "x".join(map(str, sizes)) != shape or len(sizes) != TPUS[kind]:
    example = "4x4" if TPUS[kind] == 2 else "2x2x1"
    raise UserError(
      f"--on={text}: the shape of a {kind} has {TPUS[kind]} sizes, e.g."
      f" --on={kind}:{example}."
    )
  if TPUS[kind] == 2 and shape not in _FLAT:
    raise UserError(f"--on={text}: {kind} has {', '.join(_FLAT)}.")
  if TPUS[kind] == 3 and (min(sizes) < 1 or sizes[0] % 2 or sizes[1] % 2):
    raise UserError(
      f"--on={text}: the first two sizes of a {kind} are even (a host has"
      " 2x2x1 chips)."
    )
  return Topology(text, CHIPS[kind], math.prod(sizes), 1, tpu=True)


def _unknown(text: str) -> UserError:
  return UserError(
    f"--on={text} is not known. GPUs: {', '.join(GPUS)}, and x8 or the like;"
    f" TPUs: {', '.join(TPUS)}, with a shape; e.g. {_EXAMPLES}."
  )


def check_installed(topology: Topology) -> None:
  """Raises UserError with the pip command where the compiler is missing."""
  if importlib.util.find_spec(topology.module) is None:
    raise UserError(
      f"--on={topology.name} needs the compiler for it, which runs without a"
      f" chip: pip install 'cassle_jax[{topology.extra}]'"
    )


def environment(topology: Topology) -> dict[str, str]:
  """Variables that a process which compiles for a topology starts with."""
  result = {"JAX_PLATFORMS": "cpu"}
  if topology.tpu:
    # libtpu asks Google's servers what it runs on unless it is told.
    return result | {
      "TPU_SKIP_MDS_QUERY": "1",
      "TPU_WORKER_HOSTNAMES": "localhost",
      "TPU_ACCELERATOR_TYPE": "v5litepod-4",
      # Nothing is held here that two processes could fight for.
      "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
  flags = [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_gpu_autotune_level=0",
    # Without tuning, Triton's products find no tiles for some shapes.
    "--xla_gpu_enable_triton_gemm=false",
  ]
  nvcc = importlib.util.find_spec("nvidia.cuda_nvcc")
  if nvcc and nvcc.submodule_search_locations:
    folder = next(iter(nvcc.submodule_search_locations))
    flags.append(f"--xla_gpu_cuda_data_dir={folder}")
  return result | {"XLA_FLAGS": " ".join(flags).strip()}


def devices(topology: Topology) -> list[Any]:
  """JAX's devices of a topology; none of them can run anything."""
  from jax.experimental import topologies

  if topology.tpu:
    name = topology.name.lower()
    found = topologies.get_topology_desc(platform="tpu", topology_name=name)
  else:
    each = topology.devices // topology.hosts
    found = topologies.get_topology_desc(
      platform="cuda",
      topology_name="",
      topology=f"1x{topology.hosts}x{each}",
      target_config=target_config(topology.chip),
    )
  return list(found.devices)


def target_config(chip: Chip) -> str:
  """A GPU as XLA's compiler is told of it, a text-format GpuTargetConfigProto.

  Limits of blocks, threads and registers are CUDA's, the same for all of them.
  """
  gpu = chip.gpu
  return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared_per_core}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(chip.bandwidth)}
  l2_cache_size: {gpu.l2_bytes}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {chip.memory}
  shared_memory_per_block_optin: {gpu.shared_per_block}
  cuda_compute_capability {{ major: {gpu.major} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.kind}"
"""
