"""Parameters and bytes of a run's networks, before anything is compiled.

Two parts of the library can outgrow a device. A hypernetwork projector emits
every weight of the projector for every example: `check_hypernetwork` refuses
one beyond a stated bound. An amortised ResNet has rank + 1 parameters for each
weight that its hypernetworks emit; whether it fits is this arithmetic, for a
ResNet-50 at descriptor_size=2 with Adam and a moving average (MoCo-v2):

| rank | emitted weights | parameters | bytes each | together |
|---|---|---|---|---|
| 32 (published) | 23.4 M | 773.8 M | 4 + 4 + 8 + 4 | 15.5 GB |
| 8 | 23.4 M | 211.1 M | 4 + 4 + 8 + 4 | 4.2 GB |

The bytes are those of a float32 parameter, its gradient, Adam's two moments and
the moving average. Rank 8 saves 11.3 GB. The step keeps the old state until it
knows that the new one is finite: compiled for a CPU, Adam with such a guard
takes 8 bytes for each parameter more, 6.2 GB at rank 32. The weights are
emitted once a step and not once an example: 93.8 MB in float32 for all layers
together.

What a forward pass over views of 224 px leaves for the backward one, and the
sum of all this (the heads add less than 1 GB):

| batch | type | views | remat | activations | sum at rank 32 |
|---|---|---|---|---|---|
| 128 (published) | float32 | 1 | no | 14.3 GB | 36.0 GB |
| 128 (published) | float32 | 1 | yes | 7.8 GB | 29.4 GB |
| 256 | bfloat16 | 2 | yes | 11.4 GB | 33.1 GB |
| 256 | float32 | 2 | yes | 22.8 GB | 44.5 GB |

So it fits one device of 80 GB. `activation_bytes` says what is counted; no such
run was made on a device.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cassle_jax.errors import UserError
from cassle_jax.models.build import HEADS, MIRRORED, Networks
from cassle_jax.models.projector import emitted_size

# A hypernetwork may keep this many bytes for a whole batch.
HYPERNETWORK_LIMIT = 8 * 2**30


def count(
  networks: Networks, *, image_size: int, omega_size: int, stacks: int = 1
) -> dict[str, int]:
  """Counts parameters by part. Nothing is computed or compiled.

  Args:
    networks: from `models.build`.
    image_size: side of the views in px.
    omega_size: length of the packed omega.
    stacks: how many projectors, predictors and sets of prototypes stand side by
      side (amortised invariances: one for each descriptor; LooC: one for each
      embedding space).

  Returns:
    {"backbone": parameters, "projector": ...}, without absent parts.
  """
  size = networks.backbone.features
  out = networks.projector.widths[-1]
  features, z = _array(2, size), _array(2, out)
  inputs = {
    "backbone": (_array(2, image_size, image_size, 3),),
    "projector": (features, _array(2, omega_size)),
    "predictor": (z,),
    "prototypes": (z,),
    "pair_heads": (features, features),
  }
  counts = {}
  for name, arguments in inputs.items():
    module = getattr(networks, name)
    if module is not None:
      options = {} if name == "prototypes" else {"train": False}
      params = _shapes(module, *arguments, **options)["params"]
      total = sum(leaf.size for leaf in jax.tree.leaves(params))
      counts[name] = total * (stacks if name in HEADS else 1)
  return counts


def training_bytes(
  counts: Mapping[str, int], *, moments: int = 2, moving_average: bool = True
) -> int:
  """Bytes of parameters and what training keeps beside them, in float32.

  Args:
    counts: parameters by part, from `count`.
    moments: that the optimiser keeps: 1 (SGD or LARS with momentum) or 2
      (Adam).
    moving_average: whether there is a target, a copy of the parts in MIRRORED.

  Returns:
    Bytes of parameters, gradients, moments and target.
  """
  total = sum(counts.values()) * (1 + 1 + moments)
  if moving_average:
    total += sum(counts.get(name, 0) for name in MIRRORED)
  return 4 * total


def statement(
  networks: Networks,
  *,
  image_size: int,
  omega_size: int,
  batch_size: int,
  stacks: int = 1,
  moments: int = 2,
  moving_average: bool = True,
  views: int = 1,
) -> str:
  """One line that tells a run's parameters and bytes.

  Args:
    networks: from `models.build`.
    image_size: as of `count`.
    omega_size: as of `count`.
    batch_size: examples of a view, for a hypernetwork projector.
    stacks: as of `count`.
    moments: as of `training_bytes`.
    moving_average: as of `training_bytes`.
    views: as of `hypernetwork_bytes`.

  Returns:
    E.g. "amortised resnet50, rank 32: 778.4 M parameters (backbone 773.8 M,
    projector 4.6 M), 15.6 GB with gradient, two moments and the moving average
    in float32". M and MB are 1e6, GB is 1e9.
  """
  counts = count(
    networks, image_size=image_size, omega_size=omega_size, stacks=stacks
  )
  parts = ", ".join(f"{name} {_millions(n)}" for name, n in counts.items())
  kept = ["gradient"]
  if moments:
    names = {1: "one moment", 2: "two moments"}
    kept.append(names.get(moments, f"{moments} moments"))
  if moving_average:
    kept.append("the moving average")
  text = " and ".join(filter(None, (", ".join(kept[:-1]), kept[-1])))
  total = training_bytes(counts, moments=moments, moving_average=moving_average)
  line = (
    f"{_describe(networks.backbone)}: {_millions(sum(counts.values()))}"
    f" parameters ({parts}), {_bytes(total)} with {text} in float32"
  )
  if networks.projector.conditioning == "hypernetwork":
    emitted = _emitted_bytes(networks, batch_size, views)
    line += (
      f"; the hypernetwork keeps {_bytes(emitted)} of emitted weights for a"
      f" batch of {batch_size}"
    )
  return line


def hypernetwork_bytes(
  sizes: Sequence[int],
  batch: int,
  last_bias: bool,
  dtype: jnp.dtype,
  *,
  views: int = 1,
) -> int:
  """Bytes that a hypernetwork projector keeps for the backward pass.

  Each example has all the projector's weights for itself, twice: as the input
  of the last BatchNorm over them, which is float32, and as its output in the
  compute type. (Compiled for a CPU in float32, loss and gradient of a
  ResNet-18's projector take 1.02 times this for one view and 1.06 for two.)

  Args:
    sizes: of the features, the projector's hidden layers and its output.
    batch: examples of one view.
    last_bias: whether the last layer has a bias.
    dtype: compute type.
    views: views that are projected with a gradient.
  """
  numbers = views * batch * emitted_size(sizes, last_bias)
  return numbers * (4 + jnp.dtype(dtype).itemsize)


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
    batch_size: examples of one view that go through the networks together, over
      all devices: the whole batch, or a micro-batch of it.
    views: views that are projected with a gradient.
    limit: largest number of bytes, over all devices.

  Raises:
    UserError: it would keep more than the limit.
  """
  if networks.projector.conditioning != "hypernetwork":
    return
  needed = _emitted_bytes(networks, batch_size, views)
  if needed > limit:
    widths = tuple(networks.projector.widths)
    raise UserError(
      "model.conditioning='hypernetwork' would keep"
      f" {needed / 2**30:.1f} GiB of emitted weights, more than"
      f" {limit / 2**30:.1f} GiB, with model.projector={widths} over"
      f" {networks.backbone.features} features and a batch of {batch_size}: use"
      " a smaller model.projector, a smaller batch or"
      " model.conditioning='concat'."
    )


def activation_bytes(
  backbone: nn.Module, *, batch_size: int, image_size: int, views: int = 1
) -> int:
  """Estimates what a backbone's forward pass keeps for its backward pass.

  Counted are the outputs of all modules, emitted weights among them. With remat
  they are the outputs of the stem and of each block, and for the block that is
  being recomputed the outputs inside it, twice: they and their gradients.
  Attention scores and XLA's temporaries are not counted.

  Args:
    backbone: of `Networks`.
    batch_size: examples of one view.
    image_size: side of the views in px.
    views: views that go through the backbone with a gradient.
  """
  # Under remat the modules of a block are hidden.
  remat = getattr(backbone, "remat", False)
  plain = backbone.clone(remat=False) if remat else backbone
  images = _array(batch_size, image_size, image_size, 3)

  def outputs(images):
    _, state = plain.init_with_output(
      jax.random.key(0),
      images,
      train=False,
      capture_intermediates=True,
      mutable=True,
      **_descriptor(backbone),
    )
    return state["intermediates"]

  tree = traverse_util.flatten_dict(jax.eval_shape(outputs, images))
  kept, inside = 0, {}
  for path, leaf in tree.items():
    if path == ("__call__",):
      continue
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(leaf))
    block = re.fullmatch(r"(layer\d+_)?block\d+", path[0])
    if remat and block and path[1:] != ("__call__",):
      inside[path[0]] = inside.get(path[0], 0) + size
    else:
      kept += size
  return views * kept + 2 * max(inside.values(), default=0)


def _describe(backbone: nn.Module) -> str:
  name = getattr(backbone, "variant", None) or f"conv{len(backbone.widths)}"
  if not backbone.descriptor_size:
    return name
  if hasattr(backbone, "prompt_mlps"):
    return f"amortised {name}, prompt of {backbone.prompt_mlps} MLPs"
  return f"amortised {name}, rank {backbone.amortised_rank}"


def _emitted_bytes(networks: Networks, batch_size: int, views: int) -> int:
  projector = networks.projector
  return hypernetwork_bytes(
    (networks.backbone.features, *projector.widths),
    batch_size,
    projector.emits_last_bias,
    projector.dtype,
    views=views,
  )


def _shapes(module: nn.Module, *inputs: Any, **options: Any) -> Any:
  options |= _descriptor(module)
  return jax.eval_shape(
    lambda *arrays: module.init(jax.random.key(0), *arrays, **options), *inputs
  )


def _descriptor(module: nn.Module) -> dict[str, np.ndarray]:
  size = getattr(module, "descriptor_size", 0)
  return {"descriptor": np.ones(size, np.float32)} if size else {}


def _array(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _millions(number: int) -> str:
  return f"{number / 1e6:.1f} M"


def _bytes(number: int) -> str:
  """In GB, or in MB where that would read as zero."""
  if number >= 1e8:
    return f"{number / 1e9:.1f} GB"
  return f"{number / 1e6:.1f} MB"
