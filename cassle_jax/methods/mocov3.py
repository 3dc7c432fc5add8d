"""MoCo-v3: in-batch contrast between predictions and momentum keys.

Chen et al. 2021, arXiv 2104.02057, algorithm 1.
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


def contrast_pairs(
  queries: jax.Array,
  keys: jax.Array,
  *,
  temperature: float,
  criterion: contrast.Criterion = contrast.softmax_loss,
) -> tuple[jax.Array, jax.Array]:
  """2 T CE(q k^T / T, diagonal): row i of the queries must find key i.

  Args:
    queries: [B, k] predictions of the global batch.
    keys: [B, k] target projections of the other views.
    temperature: positive divisor of the cosine similarities.
    criterion: what is made of them.

  Returns:
    The scaled mean loss and the share of rows whose own key is nearest.
  """
  contrast.check_pairs(queries, keys)
  cosines = contrast.similarity(
    contrast.normalize(queries), contrast.normalize(keys)
  )
  own = jnp.arange(queries.shape[0])
  value, accuracy = criterion(cosines, own, temperature)
  return 2 * temperature * value, accuracy


def loss(
  key: jax.Array,
  online: Branch,
  target: Branch,
  memory: Memory,
  *,
  temperature: float,
  criterion: contrast.Criterion = contrast.softmax_loss,
) -> tuple[jax.Array, Metrics]:
  """ctr(q1, k2) + ctr(q2, k1)."""
  del key, memory
  (q1, q2), (k1, k2) = online.predictions, target.projections
  options = dict(temperature=temperature, criterion=criterion)
  first, accuracy = contrast_pairs(q1, k2, **options)
  second, _ = contrast_pairs(q2, k1, **options)
  return first + second, {"contrast_accuracy": accuracy}


def build(
  *,
  vit: bool = False,
  temperature: float = 0.2,
  momentum: float = 0.99,
  momentum_schedule: str = "cosine",
  momentum_per: str = "step",
) -> Method:
  """MoCo-v3.

  The target moves before the key pass, in the paper's code and in that of
  CASSLE. The paper's predictor of a ResNet has no bias in its last layer, which
  is model.predictor_bias=False.

  Args:
    vit: whether the backbone is a vision transformer; the paper gives it one
      more projector layer and a last BatchNorm in the predictor.
    temperature: positive divisor; the paper has 0.2 for ViT, 1.0 for ResNet.
    momentum: of the target at step 0, in [0, 1].
    momentum_schedule: "cosine" for a ramp to 1, or "constant" (with 0.999:
      parity with the published CASSLE code).
    momentum_per: "step", or "epoch" for parity.
  """
  check_numbers(
    temperature=temperature,
    momentum=momentum,
    momentum_schedule=momentum_schedule,
    momentum_per=momentum_per,
  )
  heads = Heads(
    projector=(4096, 4096, 256) if vit else (4096, 256),
    projector_norm="plain",
    predictor=(4096, 256),
    predictor_norm="plain" if vit else "none",
  )
  return Method(
    name="mocov3",
    heads=heads,
    loss=functools.partial(loss, temperature=temperature),
    contrastive=contrast.Contrastive(temperature, lambda batch: batch),
    target_views=(0, 1),
    target_update="before",
    momentum=momentum,
    momentum_schedule=momentum_schedule,
    momentum_per=momentum_per,
  )
