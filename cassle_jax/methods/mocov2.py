"""MoCo-v2: queries against a queue of keys from a slowly moving encoder.

He et al. 2020, arXiv 1911.05722 (algorithm 1); Chen et al. 2020, arXiv
2003.04297 (MLP head, temperature 0.2).
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


def info_nce(
  queries: jax.Array,
  keys: jax.Array,
  negatives: jax.Array,
  *,
  temperature: float,
  criterion: contrast.Criterion = contrast.softmax_loss,
) -> tuple[jax.Array, jax.Array]:
  """InfoNCE with one positive a row and the queue as negatives.

  Args:
    queries: [B, k] online projections.
    keys: [B, k] target projections of the other views.
    negatives: [K, k] unit-length keys of earlier steps, the queue.
    temperature: positive divisor of the cosine similarities.
    criterion: what is made of them.

  Returns:
    The mean loss in nats and the share of rows whose positive wins.
  """
  contrast.check_pairs(queries, keys)
  queries = contrast.normalize(queries)
  keys = contrast.normalize(keys)
  positive = jnp.sum(queries * keys, axis=1, keepdims=True)
  negative = contrast.similarity(queries, negatives)
  cosines = jnp.concatenate([positive, negative], axis=1)
  first = jnp.zeros(cosines.shape[0], dtype=jnp.int32)
  return criterion(cosines, first, temperature)


def loss(
  key: jax.Array,
  online: Branch,
  target: Branch,
  memory: Memory,
  *,
  temperature: float,
  criterion: contrast.Criterion = contrast.softmax_loss,
) -> tuple[jax.Array, Metrics]:
  """InfoNCE of view 1's queries and view 2's keys against the queue."""
  del key
  value, accuracy = info_nce(
    online.projections[0],
    target.projections[0],
    memory["queue"],
    temperature=temperature,
    criterion=criterion,
  )
  return value, {"contrast_accuracy": accuracy}


def update_memory(
  memory: Memory, online: Branch, target: Branch, *, queue_source: str
) -> Memory:
  """Enqueues the keys, or the queries as the published CASSLE code does."""
  source = target if queue_source == "key" else online
  return queue.enqueue(memory, source.projections[0])


def build(
  *,
  temperature: float = 0.2,
  momentum: float = 0.999,
  momentum_schedule: str = "constant",
  queue_size: int = 65536,
  queue_source: str = "key",
  target_update: str = "before",
) -> Method:
  """MoCo-v2.

  Args:
    temperature: positive divisor of the cosine similarities.
    momentum: of the target encoder, in [0, 1].
    momentum_schedule: "constant", or "cosine" for a ramp to 1.
    queue_size: number of keys kept; a multiple of the batch.
    queue_source: "key", or "query" for parity with the published CASSLE
      code, which enqueues the online queries.
    target_update: "before" the key pass, or "after" the optimiser step for
      parity with the published CASSLE code.
  """
  check_numbers(
    temperature=temperature,
    momentum=momentum,
    momentum_schedule=momentum_schedule,
    queue_size=queue_size,
    queue_source=queue_source,
    target_update=target_update,
  )
  return Method(
    name="mocov2",
    heads=Heads(projector=(0, 128)),
    loss=functools.partial(loss, temperature=temperature),
    online_views=(0,),
    target_views=(1,),
    target_update=target_update,
    momentum=momentum,
    momentum_schedule=momentum_schedule,
    shuffle_keys=True,
    init_memory=functools.partial(queue.init, size=queue_size),
    update_memory=functools.partial(update_memory, queue_source=queue_source),
    whole=("queue",),
    check=functools.partial(queue.check, size=queue_size),
    contrastive=contrast.Contrastive(
      temperature, lambda batch: queue_size + 1, negatives=queue_size
    ),
  )
