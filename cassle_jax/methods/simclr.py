"""SimCLR: NT-Xent over both views of the global batch.

Chen et al. 2020, arXiv 2002.05709, equation 1. The temperature defaults to
the 0.2 of the published CASSLE runs (SimCLR itself uses 0.1).
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


def nt_xent(
  z1: jax.Array,
  z2: jax.Array,
  *,
  temperature: float,
  criterion: contrast.Criterion = contrast.softmax_loss,
) -> tuple[jax.Array, jax.Array]:
  """NT-Xent: each row must find its other view among all 2B - 1 others.

  Args:
    z1: [B, k] projections of the first views of the global batch.
    z2: [B, k] projections of the second views.
    temperature: positive divisor of the cosine similarities.
    criterion: what is made of them.

  Returns:
    The mean over the 2B rows in nats, and the share of rows whose positive
    is their nearest neighbour.
  """
  contrast.check_pairs(z1, z2)
  batch = z1.shape[0]
  # An example's two rows side by side: one after the other, the batches would
  # change devices.
  z = jnp.stack([z1, z2], axis=1).reshape(2 * batch, -1)
  z = contrast.normalize(z)
  cosines = contrast.similarity(z, z)
  cosines = jnp.where(jnp.eye(2 * batch, dtype=bool), -jnp.inf, cosines)
  positives = jnp.arange(2 * batch) ^ 1
  return criterion(cosines, positives, temperature)


def loss(
  key: jax.Array,
  online: Branch,
  target: Branch,
  memory: Memory,
  *,
  temperature: float,
  criterion: contrast.Criterion = contrast.softmax_loss,
) -> tuple[jax.Array, Metrics]:
  """NT-Xent of the two online projections."""
  del key, target, memory
  value, accuracy = nt_xent(
    *online.projections, temperature=temperature, criterion=criterion
  )
  return value, {"contrast_accuracy": accuracy}


def build(*, temperature: float = 0.2) -> Method:
  """SimCLR.

  Args:
    temperature: positive divisor of the cosine similarities.
  """
  check_numbers(temperature=temperature)
  return Method(
    name="simclr",
    heads=Heads(projector=(0, 128)),
    loss=functools.partial(loss, temperature=temperature),
    contrastive=contrast.Contrastive(temperature, lambda batch: 2 * batch - 1),
  )
