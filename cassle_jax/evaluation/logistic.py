"""Multinomial logistic regressions that differ in their weight, by L-BFGS.

Each minimises, over the kernel W and the bias b,

    sum of cross-entropies + weight * (||W||^2 + ||b||^2),

a convex problem of its own. A fit starts at zero under a strong weight, which
is lowered along a fixed ladder to its own. Fits share the rungs that they have
in common, and so take a few steps each; which others are asked for changes
none of them. What makes it fast and exact:

- A constant feature stands for the bias, and the features are turned to their
  principal axes, which changes neither the losses nor the norm. On each rung
  the curvatures of single parameters scale them.
- A rung starts where its two predecessors point, on a line in log(weight), and
  with what L-BFGS remembers of the last one.
- Logits are linear in the parameters. A line search adds those of the step,
  and needs no products with the features; a step takes only two.
- Cross-entropies are sums over the wrong classes, which keeps their digits
  where they are almost zero.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cassle_jax.errors import UserError, unknown
from cassle_jax.evaluation import cross_entropy

# What a fit leaves undone, as a share of its objective; see `fit`.
TOLERANCES = {"float32": 1e-8, "float64": 1e-10}
# Bytes of rows and of their logits that are worked on at a time.
CHUNK = 16 << 20
# The ladder has four rungs a factor of ten, the first at this power of it.
_RUNGS, _TOP = 4, 5
# Pairs of steps and gradients that L-BFGS remembers.
_PAIRS = 10
# A line search ends when the slope has fallen to this share of its start.
_SLOPE = 0.5
_TRIALS = 20


class Classifier(NamedTuple):
  """One fitted classifier for each regularisation weight.

  Attributes:
    kernel: [R, d, C].
    bias: [R, C].
    objective: [R] at the end. It is above the minimum by no more than
      gradient_norm ** 2 / (4 weight), usually by far less.
    gradient_norm: [R] of the objective, with respect to kernel and bias.
    steps: [R] int32, how many L-BFGS took on the last rung.
    converged: [R] bool; False where `max_steps` ended it.
  """

  kernel: jax.Array
  bias: jax.Array
  objective: jax.Array
  gradient_norm: jax.Array
  steps: jax.Array
  converged: jax.Array


def fit(
  features: np.ndarray | jax.Array,
  labels: np.ndarray | jax.Array,
  weights: Sequence[float],
  *,
  num_classes: int,
  max_steps: int = 1000,
  tolerance: float | None = None,
  dtype: str = "float32",
  chunk: int = CHUNK,
) -> Classifier:
  """Fits one classifier for each regularisation weight.

  Beside the features, which it holds twice, it takes no more memory than three
  times the logits [N, C], forty kernels, two chunks and three matrices [d, d].

  Args:
    features: [N, d] float; used as they are, without normalisation. They may
      be sharded over devices by rows.
    labels: [N] int in [0, num_classes).
    weights: [R] positive regularisation weights.
    num_classes: number of classes C.
    max_steps: upper bound on the L-BFGS steps of each rung.
    tolerance: a fit is done when its next step promises to lower the objective
      by less than this share of it. It is then above the minimum by usually
      ten to a hundred times this share; up to 1,200 times were measured. The
      result's `gradient_norm` bounds it. None = of `TOLERANCES`.
    dtype: "float32", or "float64" where the device has it (CPU).
    chunk: bytes of rows and of their logits that are worked on at a time.

  Returns:
    The classifiers, in the order of their weights.

  Raises:
    UserError: unknown dtype, or a weight that is not positive.
  """
  if dtype not in TOLERANCES:
    raise unknown("dtype", dtype, TOLERANCES)
  weights = [float(weight) for weight in weights]
  if not weights or not all(0 < weight < np.inf for weight in weights):
    raise UserError(f"weights={weights} must be one or more, all above 0.")
  # The same number but for its last digits.
  weights = [
    _rung(x) if np.isclose(x, _rung(x), rtol=1e-7, atol=0) else x
    for x in weights
  ]
  rows, width = features.shape
  size = np.dtype(dtype).itemsize * (width + num_classes)
  chunks = -(-rows * size // chunk)
  with jax.enable_x64(dtype == "float64"):
    data = _prepare(
      jnp.asarray(features, dtype),
      jnp.asarray(labels, jnp.int32),
      rows=-(-rows // min(chunks, rows)),
    )
    number = functools.partial(jnp.asarray, dtype=dtype)
    found, trail = {}, []
    pairs = _memory(jnp.zeros((num_classes, width + 1), dtype))
    for weight, shared in _ladder(weights):
      fitted = _descend(
        data,
        _start(trail, weight, (num_classes, width + 1), dtype),
        pairs,
        number(weight),
        number(TOLERANCES[dtype] if tolerance is None else tolerance),
        jnp.asarray(max_steps, jnp.int32),
      )
      if shared:
        trail = [*trail[-1:], (weight, fitted.theta)]
        pairs = fitted.pairs
      if weight in weights:
        found[weight] = _classifier(data.axes, fitted)
    each = [found[weight] for weight in weights]
    return jax.tree.map(lambda *x: jnp.stack(x), *each)


def predict(
  classifier: Classifier, features: np.ndarray | jax.Array
) -> jax.Array:
  """Labels [R, N] that each of the R classifiers gives to [N, d] features."""
  with jax.enable_x64(classifier.kernel.dtype == np.float64):
    return _predict(classifier, jnp.asarray(features, classifier.kernel.dtype))


@jax.jit
def _predict(classifier: Classifier, features: jax.Array) -> jax.Array:
  def one(fitted: tuple[jax.Array, jax.Array]) -> jax.Array:
    kernel, bias = fitted
    logits = jnp.matmul(features, kernel, precision="highest")
    return jnp.argmax(logits + bias[None], axis=-1).astype(jnp.int32)

  return jax.lax.map(one, (classifier.kernel, classifier.bias))


class _Fit(NamedTuple):
  """The end of one rung; theta [C, D] and scalars, see `Classifier`.

  The pairs of L-BFGS are of parameters without scales.
  """

  theta: jax.Array
  objective: jax.Array
  gradient_norm: jax.Array
  steps: jax.Array
  converged: jax.Array
  pairs: Any


class _State(NamedTuple):
  """Where L-BFGS is, in parameters [C, D] over their scales: `scaled`.

  Gradient and slope (along the next step's direction) are with respect to it.
  """

  scaled: jax.Array
  logits: jax.Array
  gradient: jax.Array
  direction: jax.Array
  slope: jax.Array
  objective: jax.Array
  steps: jax.Array
  pairs: Any


def _rung(weight: float) -> float:
  """The weight of the ladder that is nearest."""
  return float(10 ** (round(_RUNGS * np.log10(weight)) / _RUNGS))


def _ladder(weights: Sequence[float]) -> Iterator[tuple[float, bool]]:
  """Weights to solve, strong ones first, and whether each is a rung.

  A weight that is no rung starts from the rungs above it, and none from it.
  """
  top = _RUNGS * _TOP
  low = round(_RUNGS * np.log10(min(weights)))
  rungs = {float(10 ** (k / _RUNGS)) for k in range(low, top + 1)}
  for weight in sorted(rungs | set(weights), reverse=True):
    if weight >= min(weights):
      yield weight, weight in rungs


def _start(
  trail: Sequence[tuple[float, jax.Array]],
  weight: float,
  shape: tuple[int, int],
  dtype: str,
) -> jax.Array:
  """Where the last two rungs point to, or the last one, or zero."""
  if not trail:
    return jnp.zeros(shape, dtype)
  if len(trail) == 1:
    return trail[0][1]
  (before, far), (last, near) = trail
  share = np.log(weight / last) / np.log(last / before)
  return near + float(share) * (near - far)


_dot = functools.partial(jnp.vdot, precision="highest")
_prepare = jax.jit(cross_entropy.prepare, static_argnames=("rows",))


@jax.jit
def _classifier(axes: jax.Array, fitted: _Fit) -> Classifier:
  """The fit for the features as they were given, without the leading R."""
  theta = jnp.matmul(axes, fitted.theta.T, precision="highest")
  return Classifier(theta[:-1], theta[-1], *fitted[1:-1])


@jax.jit
def _descend(
  data: cross_entropy.Data,
  start: jax.Array,
  pairs: Any,
  weight: jax.Array,
  tolerance: jax.Array,
  max_steps: jax.Array,
) -> _Fit:
  """L-BFGS for one weight from parameters [C, D]."""
  optimiser = optax.scale_by_lbfgs(memory_size=_PAIRS)
  first = pairs.count == 0
  logits = cross_entropy.logits(data, start)
  scale = jax.lax.rsqrt(cross_entropy.curvatures(data, logits) + 2 * weight)

  def measured(scaled, logits, steps, pairs) -> _State:
    theta = scale * scaled
    loss, slopes = cross_entropy.gradient(data, logits)
    gradient = scale * (slopes + 2 * weight * theta)
    # No pair reaches from one rung to the next: this one is zero.
    before = jnp.where(steps == 0, gradient, pairs.updates)
    pairs = pairs._replace(updates=before)
    direction, pairs = optimiser.update(gradient, pairs, scaled)
    # optax shortens the first step, which the scales have made a good one.
    plain = (first & (steps == 0)) | ~(_dot(gradient, direction) > 0)
    direction = -jnp.where(plain, gradient, direction)
    slope = _dot(gradient, direction)
    objective = loss + weight * _dot(theta, theta)
    return _State(
      scaled, logits, gradient, direction, slope, objective, steps, pairs
    )

  def near(state: _State) -> jax.Array:
    return -state.slope / 2 <= tolerance * state.objective

  def step(state: _State) -> _State:
    theta, move = scale * state.scaled, scale * state.direction
    change = cross_entropy.logits(data, move)
    size = _search(data, state, change, weight, theta, move)
    return measured(
      state.scaled + size * state.direction,
      state.logits + size * change,
      state.steps + 1,
      state.pairs,
    )

  scaled = start / scale
  pairs = _scaled(pairs, scale)._replace(params=scaled)
  end = jax.lax.while_loop(
    lambda state: ~near(state) & (state.steps < max_steps),
    step,
    measured(scaled, logits, jnp.zeros((), jnp.int32), pairs),
  )
  return _Fit(
    scale * end.scaled,
    end.objective,
    jnp.linalg.norm(end.gradient / scale),
    end.steps,
    near(end),
    _scaled(end.pairs, 1 / scale),
  )


def _memory(theta: jax.Array) -> Any:
  """What L-BFGS remembers at the start."""
  return optax.scale_by_lbfgs(memory_size=_PAIRS).init(theta)


def _scaled(pairs: Any, scale: jax.Array) -> Any:
  """The same pairs of parameters that are divided by a scale [C, D]."""
  return pairs._replace(
    diff_params_memory=pairs.diff_params_memory / scale[None],
    diff_updates_memory=pairs.diff_updates_memory * scale[None],
  )


def _search(
  data: cross_entropy.Data,
  state: _State,
  change: jax.Array,
  weight: jax.Array,
  theta: jax.Array,
  move: jax.Array,
) -> jax.Array:
  """Size of the step: Newton's method on the slope, within a bracket.

  The objective is convex, so its slope alone tells where it is low. A step of
  size 1 moves the parameters theta [C, D] by `move`, the logits by `change`.
  """
  along, square = _dot(theta, move), _dot(move, move)

  def trial(carry: tuple[jax.Array, ...]):
    size, low, high, _, trials = carry
    first, second = cross_entropy.along(data, state.logits, change, size)
    first += 2 * weight * (along + size * square)
    second += 2 * weight * square
    found = jnp.abs(first) <= _SLOPE * jnp.abs(state.slope)
    low = jnp.where(first < 0, size, low)
    high = jnp.where(first < 0, high, size)
    newton = size - first / second
    middle = jnp.where(jnp.isinf(high), 4 * size, (low + high) / 2)
    inside = (newton > low) & (newton < high)
    guess = jnp.minimum(jnp.where(inside, newton, middle), 4 * size)
    return jnp.where(found, size, guess), low, high, found, trials + 1

  one = jnp.ones_like(weight)
  size, *_ = jax.lax.while_loop(
    lambda carry: ~carry[3] & (carry[4] < _TRIALS),
    trial,
    (one, 0 * one, jnp.inf * one, jnp.asarray(False), 0),
  )
  return size
