"""Barlow Twins: the views' cross-correlation is drawn to the identity.

Zbontar et al. 2021, arXiv 2103.03230, equations 1 and 2.
"""

import functools

import jax
import jax.numpy as jnp

from cassle_jax.methods import contrast
from cassle_jax.methods.interface import (
  Branch,
  Heads,
  Memory,
  Method,
  Metrics,
  check_numbers,
)


def correlation_terms(
  z1: jax.Array, z2: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """sum_i (1 - C_ii)^2 and sum_{i != j} C_ij^2, with C = z1^T z2 / B.

  Args:
    z1: [B, k] projections of the first views of the global batch, each column
      of mean 0 and variance 1: they come out of a plain BatchNorm.
    z2: [B, k] projections of the second views, likewise.

  Returns:
    The two sums, scalar float32.
  """
  contrast.check_pairs(z1, z2, least=2)
  z1, z2 = z1.astype(jnp.float32), z2.astype(jnp.float32)
  correlation = contrast.similarity(z1.T, z2.T) / z1.shape[0]
  diagonal = jnp.eye(z1.shape[1], dtype=bool)
  invariance = jnp.sum(jnp.square(1 - jnp.diagonal(correlation)))
  redundancy = jnp.sum(jnp.where(diagonal, 0, jnp.square(correlation)))
  return invariance, redundancy


def loss(
  key: jax.Array,
  online: Branch,
  target: Branch,
  memory: Memory,
  *,
  redundancy_weight: float,
) -> tuple[jax.Array, Metrics]:
  """The diagonal's sum plus the weighted sum of all that is beside it."""
  del key, target, memory
  invariance, redundancy = correlation_terms(*online.projections)
  value = invariance + redundancy_weight * redundancy
  return value, {"invariance": invariance, "redundancy": redundancy}


def build(*, redundancy_weight: float = 0.0051) -> Method:
  """Barlow Twins.

  Args:
    redundancy_weight: the paper's lambda, of the terms off the diagonal.
  """
  check_numbers(redundancy_weight=redundancy_weight)
  return Method(
    name="barlow_twins",
    heads=Heads(projector=(8192, 8192, 8192), projector_norm="plain"),
    loss=functools.partial(loss, redundancy_weight=redundancy_weight),
  )
