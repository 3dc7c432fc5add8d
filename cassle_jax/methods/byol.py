"""BYOL: predictions of the other view's projection by a slow target.

Grill et al. 2020, arXiv 2006.07733, equation 2 and algorithm 1.
"""

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


def regression(predictions: jax.Array, targets: jax.Array) -> jax.Array:
  """Mean squared distance of unit vectors, 2 - 2 cos(p, z).

  Args:
    predictions: [B, k] online predictions.
    targets: [B, k] target projections of the other views.

  Returns:
    The mean over the batch, scalar float32 in [0, 4].
  """
  contrast.check_pairs(predictions, targets)
  cosine = jnp.sum(
    contrast.normalize(predictions) * contrast.normalize(targets), axis=1
  )
  return jnp.mean(2 - 2 * cosine)


def loss(
  key: jax.Array, online: Branch, target: Branch, memory: Memory
) -> tuple[jax.Array, Metrics]:
  """2 - 2 cos(p1, z2') + 2 - 2 cos(p2, z1'), the directions summed."""
  del key, memory
  (p1, p2), (z1, z2) = online.predictions, target.projections
  value = regression(p1, z2) + regression(p2, z1)
  return value, {"cosine": 1 - value / 4}


def build(
  *,
  momentum: float = 0.996,
  momentum_schedule: str = "cosine",
  momentum_per: str = "step",
) -> Method:
  """BYOL.

  The last layers have no bias, as in the paper's code. The published CASSLE
  code gives them one, model.projector_bias=True and model.predictor_bias=True,
  and reports the loss less the constant 4.

  Args:
    momentum: of the target at step 0, in [0, 1].
    momentum_schedule: "cosine" for a ramp to 1, or "constant".
    momentum_per: "step", or "epoch" for parity with the published CASSLE
      code.
  """
  check_numbers(
    momentum=momentum,
    momentum_schedule=momentum_schedule,
    momentum_per=momentum_per,
  )
  return Method(
    name="byol",
    heads=Heads(
      projector=(4096, 256),
      projector_bias=False,
      predictor=(4096, 256),
      predictor_bias=False,
    ),
    loss=loss,
    target_views=(0, 1),
    target_update="after",
    momentum=momentum,
    momentum_schedule=momentum_schedule,
    momentum_per=momentum_per,
  )
