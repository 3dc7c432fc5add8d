"""What is published of accelerators: arithmetic, memory, links.

Figures are of one chip, arithmetic without sparsity.
"""

from typing import NamedTuple

_A100 = "NVIDIA's data sheet of the A100"
_H100 = "NVIDIA's data sheet of the H100, half of the figure with sparsity"
_H200 = "NVIDIA's data sheet of the H200, half of the figure with sparsity"
_V100 = "NVIDIA's data sheet of the V100"
_L4 = "NVIDIA's data sheet of the L4, half of the figure with sparsity"
_TPU = (
  "cloud.google.com/tpu/docs/system-architecture-tpu-vm; memory as the compiler"
  " allots it"
)
_GIB = 2**30


class Gpu(NamedTuple):
  """What a compiler for NVIDIA GPUs is told of one.

  From the data sheets and the target configs of the OpenXLA project
  (xla/backends/gpu/target_config/specs).
  """

  major: int
  cores: int
  fpus_per_core: int
  clock_ghz: float
  shared_per_core: int
  shared_per_block: int
  l2_bytes: int


class Chip(NamedTuple):
  """One accelerator.

  Attributes:
    kind: a part of JAX's `device_kind` for it, in lower case.
    flops: operations a second at most.
    source: who says so.
    memory: bytes.
    bandwidth: of the memory, bytes a second.
    link: bytes a second that a chip sends to the others of its host (NVLink) or
      slice (ICI), in one direction over all links.
    network: bytes a second that it sends to other hosts; None where the links
      go on (ICI).
    gpu: of NVIDIA GPUs that can be compiled for.
    type: of the numbers of `flops`.
  """

  kind: str
  flops: float
  source: str
  memory: int = 0
  bandwidth: float = 0.0
  link: float = 0.0
  network: float | None = None
  gpu: Gpu | None = None
  type: str = "bfloat16"


_AMPERE = Gpu(8, 108, 64, 1.41, 167936, 166912, 41943040)
_HOPPER = Gpu(9, 132, 128, 1.98, 233472, 232448, 52428800)

# By name; a kind that is part of another stands behind it. An L4's ends with a
# space, the L40 is another. Networks are one port a GPU: HDR InfiniBand for
# A100 (200 Gb/s), NDR for Hopper (400 Gb/s), as in NVIDIA's own servers.
CHIPS = {
  "h100_pcie": Chip("h100 pcie", 756e12, _H100),
  "h100_nvl": Chip("h100 nvl", 835e12, _H100),
  "h100": Chip(
    "h100", 989e12, _H100, 84942979072, 3.352e12, 450e9, 50e9, _HOPPER
  ),
  "h200_nvl": Chip("h200 nvl", 835e12, _H200),
  "h200": Chip(
    "h200", 989e12, _H200, 151397597184, 4.8e12, 450e9, 50e9, _HOPPER
  ),
  "a100_40": Chip(
    "a100-sxm4-40gb",
    312e12,
    _A100,
    42331013120,
    1.555e12,
    300e9,
    25e9,
    _AMPERE,
  ),
  "a100": Chip(
    "a100", 312e12, _A100, 85100068864, 2.039e12, 300e9, 25e9, _AMPERE
  ),
  "v100_pcie": Chip("v100-pcie", 112e12, _V100, type="float16"),
  "v100": Chip("v100", 125e12, _V100, type="float16"),
  "l4": Chip("nvidia l4 ", 121e12, _L4),
  "v4": Chip("tpu v4", 275e12, _TPU, 32 * _GIB, 1.228e12, 300e9),
  "v5e": Chip("tpu v5 lite", 197e12, _TPU, int(15.75 * _GIB), 819e9, 200e9),
  "v5p": Chip("tpu v5", 459e12, _TPU, int(95.73 * _GIB), 2.765e12, 600e9),
  "v6e": Chip("tpu v6", 918e12, _TPU, int(31.24 * _GIB), 1.64e12, 400e9),
}


def of_kind(kind: str) -> Chip | None:
  """The chip by JAX's `device_kind`; None = not known."""
  padded = f"{kind.lower()} ".replace("tpu v5e", "tpu v5 lite")
  return next((c for c in CHIPS.values() if c.kind in padded), None)
