"""VICReg: equal views, spread-out and uncorrelated coordinates.

Bardes et al. 2022, arXiv 2105.04906, equations 1 to 6, with the factors of the
authors' code, for which their weights are made: the invariance is the mean over
the d coordinates too (equation 5 divided by d), and the variance is the mean of
the two views' (in equation 6 their sum, twice as much).
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


def spread_terms(z: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The variance hinge and the covariance term of one view.

  Both divide by B - 1, as an unbiased variance does.

  Args:
    z: [B, k] projections of the global batch.

  Returns:
    mean_i relu(1 - sqrt(var_i + 1e-4)) and sum_{i != j} cov_ij^2 / k, scalar
    float32.
  """
  centred = z - jnp.mean(z, axis=0, keepdims=True)
  covariance = contrast.similarity(centred.T, centred.T) / (z.shape[0] - 1)
  deviation = jnp.sqrt(jnp.diagonal(covariance) + 1e-4)
  hinge = jnp.mean(jax.nn.relu(1 - deviation))
  diagonal = jnp.eye(z.shape[1], dtype=bool)
  squares = jnp.where(diagonal, 0, jnp.square(covariance))
  return hinge, jnp.sum(squares) / z.shape[1]


def terms(
  z1: jax.Array, z2: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Invariance, variance and covariance, not yet weighted.

  Args:
    z1: [B, k] projections of the first views of the global batch, B >= 2.
    z2: [B, k] projections of the second views.

  Returns:
    The mean squared difference over rows and coordinates, the mean of the
    views' hinges and the sum of their covariance terms, scalar float32.
  """
  contrast.check_pairs(z1, z2, least=2)
  z1, z2 = z1.astype(jnp.float32), z2.astype(jnp.float32)
  (hinge1, covariance1), (hinge2, covariance2) = map(spread_terms, (z1, z2))
  invariance = jnp.mean(jnp.square(z1 - z2))
  return invariance, (hinge1 + hinge2) / 2, covariance1 + covariance2


def loss(
  key: jax.Array,
  online: Branch,
  target: Branch,
  memory: Memory,
  *,
  invariance_weight: float,
  variance_weight: float,
  covariance_weight: float,
) -> tuple[jax.Array, Metrics]:
  """The weighted sum of the three terms."""
  del key, target, memory
  invariance, variance, covariance = terms(*online.projections)
  value = (
    invariance_weight * invariance
    + variance_weight * variance
    + covariance_weight * covariance
  )
  return value, {
    "invariance": invariance,
    "variance": variance,
    "covariance": covariance,
  }


def build(
  *,
  invariance_weight: float = 25.0,
  variance_weight: float = 25.0,
  covariance_weight: float = 1.0,
) -> Method:
  """VICReg.

  The last layer has no bias: none of the three terms would see it.

  Args:
    invariance_weight: of the mean squared difference; the paper's lambda.
    variance_weight: of the variance hinge; the paper's mu.
    covariance_weight: of the covariances; the paper's nu.
  """
  check_numbers(
    invariance_weight=invariance_weight,
    variance_weight=variance_weight,
    covariance_weight=covariance_weight,
  )
  return Method(
    name="vicreg",
    heads=Heads(projector=(8192, 8192, 8192), projector_bias=False),
    loss=functools.partial(
      loss,
      invariance_weight=invariance_weight,
      variance_weight=variance_weight,
      covariance_weight=covariance_weight,
    ),
  )
