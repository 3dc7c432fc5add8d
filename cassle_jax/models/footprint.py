"""Parameters and bytes of networks that may outgrow a device.

Two parts of the library can. An amortised ResNet has rank + 1 parameters for
each weight that its hypernetworks emit: 773.8 M in a ResNet-50 of the published
rank 32, 211.1 M at rank 8; `statement` says what a run has, before anything is
compiled. A hypernetwork projector emits every weight of the projector for every
example; `check_hypernetwork` refuses one beyond a stated bound.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.errors import UserError
from cassle_jax.hosts.device_memory import size
from cassle_jax.models.build import Networks
from cassle_jax.models.projector import emitted_size

# A hypernetwork may keep this many bytes for a whole batch.
HYPERNETWORK_LIMIT = 8 * 2**30


def statement(
  networks: Networks,
  params: Mapping[str, Any],
  *beside: Any,
  batch_size: int,
  views: int = 1,
) -> str:
  """One line that tells a run's parameters and bytes.

  E.g. "amortised resnet50, rank 32: 778.4 M parameters (backbone 773.8 M,
  projector 4.6 M), 15.6 GB with gradients and the rest of the state". M and MB
  are 1e6, GB is 1e9.

  Args:
    networks: from `models.build`.
    params: {network: its parameters}; shapes and types are enough.
    *beside: trees that training keeps beside parameters and gradients: the
      optimiser's state, the target.
    batch_size: examples of a view, for a hypernetwork projector.
    views: as of `hypernetwork_bytes`.
  """
  counts = {
    name: sum(x.size for x in jax.tree.leaves(tree))
    for name, tree in params.items()
  }
  total = sum(
    x.size * x.dtype.itemsize for x in jax.tree.leaves((params, params, beside))
  )
  each = ", ".join(f"{name} {n / 1e6:.1f} M" for name, n in counts.items())
  line = (
    f"{_describe(networks.backbone)}: {sum(counts.values()) / 1e6:.1f} M"
    f" parameters ({each}), {size(total)} with gradients and the rest of the"
    " state"
  )
  if networks.projector.conditioning == "hypernetwork":
    emitted = hypernetwork_bytes(networks, batch_size, views=views)
    line += (
      f"; the hypernetwork keeps {size(emitted)} of emitted weights for a"
      f" batch of {batch_size}"
    )
  return line


def hypernetwork_bytes(
  networks: Networks, batch_size: int, *, views: int = 1
) -> int:
  """Bytes that a hypernetwork projector keeps for the backward pass.

  Each example has all the projector's weights for itself, twice: as the input
  of the last BatchNorm over them, which is float32, and as its output in the
  compute type. (Compiled for a CPU in float32, loss and gradient of a
  ResNet-18's projector take 1.02 times this for one view and 1.06 for two.)
  """
  projector = networks.projector
  sizes = (networks.features, *projector.widths)
  emitted = emitted_size(sizes, projector.emits_last_bias)
  each = 4 + jnp.dtype(projector.dtype).itemsize
  return views * batch_size * emitted * each


def check_hypernetwork(
  networks: Networks,
  *,
  batch_size: int,
  views: int = 1,
  limit: int = HYPERNETWORK_LIMIT,
) -> None:
  """Refuses a hypernetwork projector that keeps too much for a batch.

  Args:
    networks: from `models.build`; without a hypernetwork all is well.
    batch_size: examples of a view that go through the networks together, over
      all devices: the whole batch, or a micro-batch of it.
    views: views that are projected with a gradient.
    limit: largest number of bytes, over all devices.
  """
  if networks.projector.conditioning != "hypernetwork":
    return
  needed = hypernetwork_bytes(networks, batch_size, views=views)
  if needed > limit:
    raise UserError(
      "model.conditioning='hypernetwork' would keep"
      f" {needed / 2**30:.1f} GiB of emitted weights, more than"
      f" {limit / 2**30:.1f} GiB, with"
      f" model.projector={tuple(networks.projector.widths)} over"
      f" {networks.features} features and a batch of {batch_size}: use"
      " a smaller model.projector, a smaller batch or"
      " model.conditioning='concat'."
    )


def _describe(backbone: nn.Module) -> str:
  name = getattr(backbone, "variant", None) or f"conv{len(backbone.widths)}"
  if not backbone.descriptor_size:
    return name
  if hasattr(backbone, "prompt_mlps"):
    return f"amortised {name}, prompt of {backbone.prompt_mlps} MLPs"
  return f"amortised {name}, rank {backbone.amortised_rank}"
