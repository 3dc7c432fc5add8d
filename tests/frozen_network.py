"""Pictures and a small conditioned network for tests of frozen networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import random_variables

from cassle_jax import augment, models
from cassle_jax.evaluation import pairs, sensitivity


def pictures(count, size=16, seed=0):
  """Smooth noise: every operation shows."""
  coarse = np.random.default_rng(seed).uniform(0, 256, (count, 4, 4, 3))
  fine = coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
  return fine.astype(np.uint8)


def pair(key, images, *, operation, policy):
  """x and t(x) of every image, with their omegas."""
  policies = pairs.untouched(policy), pairs.only(operation, policy)
  return tuple(
    augment.View(
      *pairs.encode(key, images, policy=each, function=lambda image: image)
    )
    for each in policies
  )


@functools.cache
def network():
  """Jitted images -> {block: [B, d]} and (features, omega) -> [B, 6]."""
  networks = models.build(
    backbone="conv2", image_size=16, projector=(8, 6), gamma_depth=2
  )
  features = jnp.zeros((2, networks.backbone.features))
  backbone = random_variables.make(
    networks.backbone, jnp.zeros((2, 16, 16, 3)), seed=1
  )
  head = random_variables.make(
    networks.projector, features, jnp.zeros((2, augment.omega.size())), seed=2
  )

  def blocks(variables, images):
    return sensitivity.pooled(
      *networks.backbone.apply(variables, images, train=False)
    )

  def project(variables, features, omega):
    packed = augment.omega.pack(omega)
    return networks.projector.apply(variables, features, packed, train=False)

  return (
    functools.partial(jax.jit(blocks), backbone),
    functools.partial(jax.jit(project), head),
  )
