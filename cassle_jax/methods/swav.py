"""SwAV: each crop predicts the cluster codes of the other crops.

Caron et al. 2020, arXiv 2006.09882, equations 2, 5 and 6.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from cassle_jax.methods import contrast, multicrop
from cassle_jax.methods.interface import (
  Branch,
  Heads,
  Memory,
  Method,
  Metrics,
  check_numbers,
)


def sinkhorn(
  scores: jax.Array, *, epsilon: float, iterations: int
) -> jax.Array:
  """Soft assignments that share the batch out equally among the prototypes.

  Sinkhorn and Knopp's scaling of exp(scores / epsilon) [Q in the paper]: each
  iteration gives all prototypes the same share of the batch, then every row
  the sum 1. It works on logarithms, so that no epsilon can overflow or leave a
  prototype without any share.

  Args:
    scores: [B, K] cosines of the global batch with the prototypes.
    epsilon: positive; the smaller, the nearer are the codes to one-hot.
    iterations: at least 1.

  Returns:
    [B, K] float32 codes without gradient; each row's sum is 1, and each
    column's, after many iterations, B / K.
  """
  logs = jax.lax.stop_gradient(scores).astype(jnp.float32) / epsilon
  for _ in range(iterations):
    logs -= jax.nn.logsumexp(logs, axis=0, keepdims=True)
    logs -= jax.nn.logsumexp(logs, axis=1, keepdims=True)
  return jnp.exp(logs)


def loss(
  key: jax.Array,
  online: Branch,
  target: Branch,
  memory: Memory,
  *,
  temperature: float,
  epsilon: float,
  iterations: int,
) -> tuple[jax.Array, Metrics]:
  """Every view predicts the codes of the two global views, but not its own.

  As in the paper's code, the mean over all these predictions; equation 6 is
  their sum.
  """
  del key, target, memory
  codes = [
    sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    for scores in online.scores[:2]
  ]
  value = multicrop.cross_view_loss(
    codes, online.scores, temperature=temperature
  )
  first, second = (jnp.argmax(code, axis=1) for code in codes)
  return value, {
    "code_agreement": jnp.mean(first == second, dtype=jnp.float32),
    "code_entropy": multicrop.mean_entropy(codes),
  }


def constrain(params: dict[str, Any]) -> dict[str, Any]:
  """Gives each prototype, a column of its kernel [k, K], unit length again."""
  kernel = contrast.normalize(params["prototypes"]["kernel"], axis=-2)
  return {**params, "prototypes": {**params["prototypes"], "kernel": kernel}}


def build(
  *,
  prototypes: int = 3000,
  temperature: float = 0.1,
  epsilon: float = 0.05,
  iterations: int = 3,
) -> Method:
  """SwAV.

  Deviations: there is no queue of earlier projections, which the paper has from
  epoch 15 where the batch is small (256); here the codes are shared out over
  the global batch alone, so `prototypes` should not be far above it. In the
  projector too, BatchNorm sees the views of one size together; in the paper's
  code it sees all views.

  Args:
    prototypes: number of clusters.
    temperature: positive divisor of the scores in the predictions.
    epsilon: positive divisor of the scores in the codes.
    iterations: of Sinkhorn and Knopp's scaling.
  """
  check_numbers(
    prototypes=prototypes,
    temperature=temperature,
    epsilon=epsilon,
    iterations=iterations,
  )
  return Method(
    name="swav",
    heads=Heads(projector=(0, 128), prototypes=prototypes),
    loss=functools.partial(
      loss, temperature=temperature, epsilon=epsilon, iterations=iterations
    ),
    online_views=None,
    joint_views=True,
    constrain=constrain,
  )
