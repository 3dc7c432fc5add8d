"""Linear regression with absolute errors on frozen features, by ADMM.

The published evaluation of 300-W (Ericsson et al. 2021, arXiv 2011.13377; Lee
et al. 2021, arXiv 2111.09613): minimise

    sum over pictures and outputs of |error| + weight * (||W||^2 + ||b||^2),

choose the weight on a validation split, fit again on everything, test once.

The objective is convex but has kinks, on which L-BFGS stalls. Here it is split
at the residuals (Boyd et al. 2011, Distributed optimization and statistical
learning via ADMM, section 6.1): by turns a ridge regression, which one singular
value decomposition of the features solves for every weight and output, and a
soft threshold. All weights and outputs are one batch. A dual point bounds how
far each objective lies above its minimum.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.evaluation.linear import WEIGHTS
from cassle_jax.evaluation.scores import r_squared, squared_correlation

_HIGHEST = jax.lax.Precision.HIGHEST
# Steps between two looks at the gaps and at the penalties' sizes.
_ROUND = 25
# Over-relaxation; Boyd et al., section 3.4.3.
_RELAXED = 1.6
# Of the split at the start, over the mean size of the targets. Few steps where
# there are more features than pictures, as with any backbone.
_PENALTY = 10.0


class Regressor(NamedTuple):
  """One regression for each regularisation weight.

  Attributes:
    kernel: [R, d, T].
    bias: [R, T].
    objective: [R], of all outputs.
    gap: [R] upper bound of how far the objective lies above its minimum, as a
      share of the objective at zero.
    steps: int32, of ADMM.
  """

  kernel: jax.Array
  bias: jax.Array
  objective: jax.Array
  gap: jax.Array
  steps: jax.Array


class Result(NamedTuple):
  """What an evaluation reports.

  Attributes:
    score: `squared_correlation` of the test set.
    r2: `r_squared` of the test set.
    weight: the regularisation weight that the validation split chose.
    validation: `squared_correlation` of that split for each weight tried.
    gap: of each weight's fit, see `Regressor`.
  """

  score: float
  r2: float
  weight: float
  validation: tuple[float, ...]
  gap: tuple[float, ...]


@functools.partial(jax.jit, static_argnames=("max_steps",))
def fit(
  features: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  *,
  max_steps: int = 5000,
  tolerance: float = 1e-5,
) -> Regressor:
  """Fits one regression for each weight, all at once.

  Args:
    features: [N, d]; used as they are. Their type is that of the computation:
      float32, or float64 where jax allows it.
    targets: [N, T] of the same type.
    weights: [R] positive.
    max_steps: upper bound on the steps, rounded up to a multiple of 25.
    tolerance: of `Regressor.gap`, where the steps end.
  """
  product = functools.partial(jnp.matmul, precision=_HIGHEST)
  inputs = jnp.pad(features, ((0, 0), (0, 1)), constant_values=1)
  count, outputs = targets.shape
  left, values, right = jnp.linalg.svd(inputs, full_matrices=False)
  epsilon = jnp.finfo(inputs.dtype).eps
  there = values > 10 * epsilon * max(inputs.shape) * values[0]
  left = left * there[None]
  values = jnp.where(there, values, 1)
  # Problem p is the p // T-th weight's, for output p % T.
  weight = jnp.repeat(weights.astype(inputs.dtype), outputs)[None]
  aim = jnp.tile(targets, (1, len(weights)))
  scale = jnp.mean(jnp.abs(targets), axis=0)
  scale = jnp.tile(jnp.where(scale > 0, scale, 1), len(weights))[None]
  start = jnp.sum(jnp.abs(aim), axis=0)

  def coordinates(point, penalty):
    """Of the ridge regression of a point [N, P], in the basis of `right`."""
    pulled = product(left.T, point)
    ridge = jnp.square(values)[:, None] + 2 * weight / penalty
    return values[:, None] * pulled / ridge

  def outcome(theta):
    return product(left, values[:, None] * theta)

  def step(carry, _):
    residual, dual, penalty = carry
    theta = coordinates(aim + residual - dual, penalty)
    found = outcome(theta) - aim
    mixed = _RELAXED * found + (1 - _RELAXED) * residual
    point = mixed + dual
    bound = 1 / penalty
    new_dual = jnp.clip(point, -bound, bound)
    new = point - new_dual
    first = jnp.linalg.norm(found - new, axis=0)
    second = penalty[0] * jnp.linalg.norm(new - residual, axis=0)
    return (new, new_dual, penalty), (first, second)

  def gaps(dual, penalty, residual):
    """Objective and gap of each problem.

    Signs of errors s in [-1, 1] with inputs^T s + 2 weight theta = 0 bound the
    objective from below by -aim^T s - weight ||theta||^2.
    """
    theta = coordinates(aim + residual - dual, penalty)
    errors = outcome(theta) - aim
    size = weight[0] * jnp.sum(jnp.square(theta), axis=0)
    objective = jnp.sum(jnp.abs(errors), axis=0) + size
    signs = penalty * dual
    wrong = product(left.T, signs) + 2 * weight * theta / values[:, None]
    signs = signs - product(left, wrong)
    shrink = 1 / jnp.maximum(1, jnp.max(jnp.abs(signs), axis=0))
    lower = -shrink * jnp.sum(aim * signs, axis=0) - shrink**2 * size
    lower = jnp.maximum(lower, 0)
    return theta, objective, objective - lower

  def a_round(carry):
    (residual, dual, penalty), _, steps = carry
    # Balance the two residuals (Boyd et al., section 3.4.1).
    (residual, dual, _), (first, second) = jax.lax.scan(
      step, (residual, dual, penalty), length=_ROUND
    )
    gap = gaps(dual, penalty, residual)[2]
    tiny = jnp.finfo(inputs.dtype).tiny
    ratio = jnp.sqrt((first[-1] + tiny) / (second[-1] + tiny))
    # Less and less often, so that it ends in steps of one size.
    change = jnp.clip(ratio, 0.2, 5.0)
    change = jnp.where((ratio > 2) | (ratio < 0.5), change, 1)[None]
    settled = (steps // _ROUND) % jnp.maximum(1, steps // 500) != 0
    change = jnp.where(settled, 1, change)
    return (residual, dual / change, penalty * change), gap, steps + _ROUND

  def unfinished(carry):
    _, gap, steps = carry
    return (steps < max_steps) & jnp.any(gap > tolerance * start)

  zeros = jnp.zeros_like(aim)
  (residual, dual, penalty), _, steps = jax.lax.while_loop(
    unfinished,
    a_round,
    ((zeros, zeros, _PENALTY / scale), jnp.full_like(start, jnp.inf), 0),
  )
  theta, objective, gap = gaps(dual, penalty, residual)
  solved = product(right.T, theta).reshape(-1, len(weights), outputs)
  solved = jnp.moveaxis(solved, 1, 0)
  objective, gap, start = (
    jnp.sum(x.reshape(len(weights), outputs), axis=1)
    for x in (objective, gap, start)
  )
  return Regressor(solved[:, :-1], solved[:, -1], objective, gap / start, steps)


@jax.jit
def predict(regressor: Regressor, features: jax.Array) -> jax.Array:
  """Outputs [R, N, T] that each of R regressions gives to [N, d] features."""
  found = jnp.einsum(
    "nd,rdt->rnt", features, regressor.kernel, precision=_HIGHEST
  )
  return found + regressor.bias[:, None]


def sweep(
  train: tuple[np.ndarray, np.ndarray],
  validation: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  *,
  weights: Sequence[float] = WEIGHTS,
  max_steps: int = 5000,
) -> Result:
  """Chooses a weight on validation data, refits on both, tests once.

  Args:
    train: features [N, d] and targets [N, T].
    validation: the same, of other pictures.
    test: the same.
    weights: the regularisation weights to choose from; of equally good ones
      the first.
    max_steps: upper bound on the steps of each fit.
  """
  both = [np.concatenate(pair) for pair in zip(train, validation, strict=True)]

  def solve(features, targets, weights):
    return fit(
      jnp.asarray(features),
      jnp.asarray(targets),
      jnp.asarray(weights),
      max_steps=max_steps,
    )

  tried = solve(*train, weights)
  guesses = np.asarray(predict(tried, jnp.asarray(validation[0])))
  scores = [squared_correlation(guess, validation[1]) for guess in guesses]
  best = int(np.argmax(scores))
  final = solve(*both, [weights[best]])
  guess = np.asarray(predict(final, jnp.asarray(test[0])))[0]
  return Result(
    score=squared_correlation(guess, test[1]),
    r2=r_squared(guess, test[1]),
    weight=float(weights[best]),
    validation=tuple(scores),
    gap=tuple(np.asarray(tried.gap).tolist()),
  )
