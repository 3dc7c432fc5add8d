"""SimSiam: predictions of the other view's projection, which is held still.

Chen and He 2021, arXiv 2011.10566, algorithm 1. There is no target network:
the projections that are predicted are the online ones without their gradient.
The predictor's learning rate stays constant, which is an option of the
optimiser: optim.constant=("predictor",).
"""

import jax
import jax.numpy as jnp

from cassle_jax.methods import contrast
from cassle_jax.methods.interface import Branch, Heads, Memory, Method, Metrics


def cosine(predictions: jax.Array, projections: jax.Array) -> jax.Array:
  """Mean of cos(p, stop_gradient(z)) over the batch.

  Args:
    predictions: [B, k] online predictions.
    projections: [B, k] online projections of the other views.

  Returns:
    Scalar float32 in [-1, 1]; no gradient flows to the projections.
  """
  contrast.check_pairs(predictions, projections)
  still = jax.lax.stop_gradient(contrast.normalize(projections))
  return jnp.mean(jnp.sum(contrast.normalize(predictions) * still, axis=1))


def loss(
  key: jax.Array, online: Branch, target: Branch, memory: Memory
) -> tuple[jax.Array, Metrics]:
  """-(cos(p1, sg z2) + cos(p2, sg z1)) / 2."""
  del key, target, memory
  (p1, p2), (z1, z2) = online.predictions, online.projections
  value = (cosine(p1, z2) + cosine(p2, z1)) / 2
  return -value, {"cosine": value}


def build() -> Method:
  """SimSiam.

  The projector's last BatchNorm has scale and bias, as the published CASSLE
  and AugSelf runs have it; SimSiam's own code has none, which is
  model.projector_norm="plain".

  Args:
  """
  return Method(
    name="simsiam",
    heads=Heads(
      projector=(2048, 2048, 2048),
      projector_norm="affine",
      predictor=(512, 2048),
    ),
    loss=loss,
  )
