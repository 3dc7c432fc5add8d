"""Features of many images through a frozen backbone, in eval mode."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.hosts import device_memory, sharding
from cassle_jax.models import Backbone, check_backbone, check_output

# Bytes of activations that a batch may take, and float32 numbers that a forward
# pass holds at once for each number of a picture, at most: ResNet-50's 24.
BATCH_BYTES = 2**30
_HELD = 24
_MOST = 256


def batch_of(size: tuple[int, int]) -> int:
  """How many pictures of (height, width) pixels are computed at a time."""
  each = _HELD * 4 * 3 * size[0] * size[1]
  return max(1, min(_MOST, BATCH_BYTES // each))


def normalize(
  images: jax.Array,
  *,
  mean: tuple[float, float, float],
  std: tuple[float, float, float],
) -> jax.Array:
  """Images as a backbone takes them.

  Args:
    images: [B, H, W, 3] uint8.
    mean: of the channels in [0, 1], as in training: that of the policy.
    std: of the channels, likewise.

  Returns:
    [B, H, W, 3] float32.
  """
  x = images.astype(jnp.float32) / 255
  mean, std = (jnp.asarray(x)[None, None, None] for x in (mean, std))
  return (x - mean) / std


def forward(
  variables: Mapping[str, Any],
  images: jax.Array,
  *,
  backbone: Backbone,
  mean: tuple[float, float, float],
  std: tuple[float, float, float],
  descriptor: tuple[float, ...] | jax.Array | None = None,
) -> jax.Array:
  """Backbone features of uint8 images, with BatchNorm in eval mode.

  Args:
    variables: {"params": ..., "batch_stats": ...} of the backbone.
    images: [B, H, W, 3] uint8.
    backbone: the module.
    mean: see `normalize`, as `std`.
    std: of the channels.
    descriptor: invariances that an amortised backbone is told; None for an
      ordinary one.

  Returns:
    [B, d] float32.
  """
  x = normalize(images, mean=mean, std=std)
  told = {} if descriptor is None else {"descriptor": jnp.asarray(descriptor)}
  output = backbone.apply(variables, x, train=False, **told)
  features, _ = check_output(backbone, output, len(images))
  return features.astype(jnp.float32)


def extractor(
  *,
  backbone: Backbone,
  mean: tuple[float, float, float],
  std: tuple[float, float, float],
  mesh: jax.sharding.Mesh,
  descriptor: tuple[float, ...] | None = None,
  batch_size: int = 0,
  stop: Callable[[], None] = lambda: None,
  tell: Callable[[str], None] = lambda line: None,
) -> Callable[[Mapping[str, Any], np.ndarray], np.ndarray]:
  """Builds (variables, images [N, H, W, 3] uint8) -> features [N, d].

  Args:
    backbone: the module.
    mean: see `normalize`, as `std`.
    std: of the channels.
    mesh: the devices; each batch is sharded over them.
    descriptor: as of `forward`.
    batch_size: images at a time, rounded up to a multiple of the devices; 0
      for as many as `batch_of` says. The last batch is padded, so that one
      program serves all.
    stop: called between batches; may raise to end early (pre-emption).
    tell: is told, before a program's first batch, what memory it needs.

  Raises:
    UserError: the module does not keep the contract of `Backbone`.
  """
  told = {} if descriptor is None else {"descriptor": descriptor}
  check_backbone(backbone, **told)
  program = jax.jit(
    functools.partial(
      forward, backbone=backbone, mean=mean, std=std, descriptor=descriptor
    ),
    out_shardings=sharding.replicated(mesh),
  )

  compiled = {}

  def compile_for(variables: Mapping[str, Any], batch: jax.Array) -> Callable:
    where = [getattr(x, "sharding", None) for x in jax.tree.leaves(variables)]
    key = batch.shape, tuple(where)
    if key not in compiled:
      made = program.lower(variables, batch).compile()
      memory = device_memory.of(made)
      if memory is not None:
        tell(
          f"memory of each device: {device_memory.size(memory.total)} for an"
          f" evaluation, {len(batch)} images at a time"
        )
      compiled[key] = made
    return compiled[key]

  def extract(variables: Mapping[str, Any], images: np.ndarray) -> np.ndarray:
    size = batch_size or batch_of(images.shape[1:3])
    size += -size % mesh.size
    parts = []
    for start in range(0, len(images), size):
      stop()
      batch = np.asarray(images[start : start + size])
      missing = size - len(batch)
      batch = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
      batch = sharding.split_whole(batch, mesh)
      parts.append(compile_for(variables, batch)(variables, batch))
    return np.concatenate([np.asarray(p) for p in parts])[: len(images)]

  return extract
