"""NNCLR: a view's nearest neighbour among earlier pictures is the positive.

Dwibedi et al. 2021, arXiv 2104.14548, equations 2 and 3 and algorithm 1.
"""

import functools

import jax
import jax.numpy as jnp

from cassle_jax.methods import contrast, queue
from cassle_jax.methods.interface import (
  Branch,
  Heads,
  Memory,
  Method,
  Metrics,
  check_numbers,
)


def nearest(rows: jax.Array, support: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Each row's nearest neighbour by cosine.

  Args:
    rows: [B, k] projections.
    support: [K, k] unit-length projections of earlier pictures.

  Returns:
    [B, k] rows of the support, and [B] their cosines; no gradient flows to
    either argument.
  """
  rows = contrast.normalize(jax.lax.stop_gradient(rows))
  cosines = contrast.similarity(rows, support)
  return support[jnp.argmax(cosines, axis=1)], jnp.max(cosines, axis=1)


def loss(
  key: jax.Array,
  online: Branch,
  target: Branch,
  memory: Memory,
  *,
  temperature: float,
  criterion: contrast.Criterion = contrast.softmax_loss,
) -> tuple[jax.Array, Metrics]:
  """(CE(n1 p2^T / T, diagonal) + CE(n2 p1^T / T, diagonal)) / 2.

  n1, the neighbour of view 1's projection, must find its own picture's
  prediction from view 2 among all of the global batch.
  """
  del key, target
  (z1, z2), (p1, p2) = online.projections, online.predictions
  own = jnp.arange(z1.shape[0])
  values, accuracies, cosines = [], [], []
  for projections, predictions in ((z1, p2), (z2, p1)):
    contrast.check_pairs(projections, predictions)
    neighbours, cosine = nearest(projections, memory["queue"])
    similarities = contrast.similarity(
      neighbours, contrast.normalize(predictions)
    )
    value, accuracy = criterion(similarities, own, temperature)
    values.append(value)
    accuracies.append(accuracy)
    cosines.append(jnp.mean(cosine))
  return sum(values) / 2, {
    "contrast_accuracy": sum(accuracies) / 2,
    "neighbour_cosine": sum(cosines) / 2,
  }


def update_memory(memory: Memory, online: Branch, target: Branch) -> Memory:
  """Enqueues view 1's projections, after the loss."""
  del target
  return queue.enqueue(memory, online.projections[0])


def build(*, temperature: float = 0.1, queue_size: int = 98304) -> Method:
  """NNCLR.

  A neighbour keeps the projection, and with CASSLE the omega, that it was made
  with.

  Args:
    temperature: positive divisor of the cosine similarities.
    queue_size: number of projections kept to find neighbours in; a multiple of
      the batch.
  """
  check_numbers(temperature=temperature, queue_size=queue_size)
  return Method(
    name="nnclr",
    heads=Heads(
      projector=(2048, 2048, 256),
      projector_norm="affine",
      predictor=(4096, 256),
    ),
    loss=functools.partial(loss, temperature=temperature),
    init_memory=functools.partial(queue.init, size=queue_size),
    update_memory=update_memory,
    whole=("queue",),
    check=functools.partial(queue.check, size=queue_size),
    contrastive=contrast.Contrastive(temperature, lambda batch: batch),
  )
