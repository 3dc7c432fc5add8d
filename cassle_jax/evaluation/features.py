"""Features of many images through a frozen backbone, in eval mode."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.hosts import sharding
from cassle_jax.models import Backbone, check_backbone, check_output


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
  batch_size: int = 256,
  stop: Callable[[], None] = lambda: None,
) -> Callable[[Mapping[str, Any], np.ndarray], np.ndarray]:
  """Builds (variables, images [N, H, W, 3] uint8) -> features [N, d].

  Args:
    backbone: the module.
    mean: see `normalize`, as `std`.
    std: of the channels.
    mesh: the devices; each batch is sharded over them.
    descriptor: as of `forward`.
    batch_size: images at a time; rounded up to a multiple of the devices.
      The last batch is padded, so that one program serves all.
    stop: called between batches; may raise to end early (pre-emption).

  Raises:
    UserError: the module does not keep the contract of `Backbone`.
  """
  told = {} if descriptor is None else {"descriptor": descriptor}
  check_backbone(backbone, **told)
  batch_size += -batch_size % mesh.size
  compiled = jax.jit(
    functools.partial(
      forward, backbone=backbone, mean=mean, std=std, descriptor=descriptor
    ),
    out_shardings=sharding.replicated(mesh),
  )

  def extract(variables: Mapping[str, Any], images: np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(images), batch_size):
      stop()
      batch = np.asarray(images[start : start + batch_size])
      missing = batch_size - len(batch)
      batch = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
      parts.append(compiled(variables, sharding.split_whole(batch, mesh)))
    return np.concatenate([np.asarray(p) for p in parts])[: len(images)]

  return extract
