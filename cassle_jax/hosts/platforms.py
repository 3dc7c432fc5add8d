"""What the devices of a mesh are, where a choice between programs hangs on it.

JAX's default backend says nothing about that: a program is also made for
devices that are not there (`preflight`), or for the CPUs beside a GPU.
"""

from typing import NamedTuple

import jax

# cuDNN's fused attention is made for these and newer ones (Ampere).
_FUSED_SINCE = 8.0


class Platform(NamedTuple):
  """What the devices of a mesh are; they are alike.

  Attributes:
    name: "cpu", "gpu" or "tpu".
    cudnn_attention: whether cuDNN's fused attention runs there, in types of 16
      bits.
  """

  name: str
  cudnn_attention: bool = False


def of(mesh: jax.sharding.Mesh) -> Platform:
  """The platform of a mesh's devices."""
  device = mesh.devices.flat[0]
  if device.platform not in ("gpu", "cuda"):
    return Platform(device.platform)
  # AMD's name theirs "gfx90a" or the like.
  capability = str(getattr(device, "compute_capability", ""))
  try:
    recent = float(capability) >= _FUSED_SINCE
  except ValueError:
    recent = False
  return Platform("gpu", cudnn_attention=recent)
