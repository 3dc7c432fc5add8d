"""Few-shot classification: logistic regression on a few pictures a class.

An episode draws `way` classes, `shot` pictures of each to learn from and
`queries` others of each to be tested on. Its classifier minimises

    sum of cross-entropies + weight * (||W||^2 + ||b||^2)

over its `way * shot` pictures: at weight = 1/2 scikit-learn's objective at its
default C = 1, with the bias penalised too. The optimum lies in the span of the
pictures it is fitted to, so each episode is solved there, in one dimension a
picture instead of the features' own, by Newton's method with backtracking; many
episodes make one batch.

Protocol: Lee et al. 2021 (AugSelf), arXiv 2111.09613. Their code fits one
binary classifier for each class (liblinear): form="one_vs_rest".
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cassle_jax.errors import UserError, unknown
from cassle_jax.evaluation import confidence

# Loss of one picture's logits [C], given its label one-hot [C].
FORMS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  "multinomial": optax.softmax_cross_entropy,
  "one_vs_rest": lambda logits, target: jnp.sum(
    optax.sigmoid_binary_cross_entropy(logits, target)
  ),
}
# Part of an episode's seed.
_EPISODE = 0xF5
# Episodes in one batch: their features must fit into memory side by side.
_CHUNK = 50
# Where a fit ends, and the excess that is small enough.
_STEPS, _TOLERANCE = 50, 1e-6
_HALVINGS = 10
_HIGHEST = jax.lax.Precision.HIGHEST


class Episodes(NamedTuple):
  """Rows of a table of features; those of one class stand together.

  Attributes:
    support: [E, way * shot] int32, what is learned from.
    query: [E, way * queries] int32, what is tested.
  """

  support: np.ndarray
  query: np.ndarray


class Result(NamedTuple):
  """What the episodes found.

  Attributes:
    accuracy: mean over episodes and its 95 % interval, in [0, 1].
    episodes: [E] float64 accuracy of each.
    objective: [E] of each, in nats.
    excess: the largest of `fit`.
  """

  accuracy: confidence.Interval
  episodes: np.ndarray
  objective: np.ndarray
  excess: float


def usable(labels: np.ndarray, pictures: int) -> np.ndarray:
  """Labels, ascending, of the classes that have so many pictures at least."""
  found, counts = np.unique(labels, return_counts=True)
  return found[counts >= pictures]


def draw(
  labels: np.ndarray,
  *,
  way: int = 5,
  shot: int = 1,
  queries: int = 16,
  episodes: int = 2000,
  seed: int = 0,
) -> Episodes:
  """Draws episodes; the e-th is a function of (labels, seed, e).

  Episodes of more shots have the same classes and queries, and what they learn
  from contains what those of fewer shots learn from, as long as the same
  classes are large enough for both.

  Args:
    labels: [n] int, of the table's rows.
    way: classes an episode.
    shot: pictures of each to learn from.
    queries: pictures of each to test.
    episodes: how many.
    seed: of the draws.

  Raises:
    UserError: a number is below 1, or too few classes are large enough.
  """
  if min(way, shot, queries, episodes) < 1:
    raise UserError(
      f"few_shot: way={way}, shot={shot}, queries={queries},"
      f" episodes={episodes} must all be at least 1."
    )
  each = shot + queries
  classes = usable(labels, each)
  if len(classes) < way:
    raise UserError(
      f"{len(classes)} classes have the {each} pictures that {shot} shots and"
      f" {queries} queries take, and way={way} asks for more; lower"
      " --config.few_shot.way, shots or queries."
    )
  rows = [np.flatnonzero(labels == label) for label in classes]
  support = np.empty((episodes, way, shot), np.int32)
  query = np.empty((episodes, way, queries), np.int32)
  for e in range(episodes):
    generator = np.random.default_rng((seed, _EPISODE, e))
    chosen = generator.permutation(len(classes))[:way]
    for place, label in enumerate(chosen):
      order = generator.permutation(rows[label])
      query[e, place] = order[:queries]
      support[e, place] = order[queries:each]
  return Episodes(
    support.reshape(episodes, way * shot),
    query.reshape(episodes, way * queries),
  )


def span(support: jax.Array, query: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Coordinates in an orthonormal basis of the support's span.

  Both get a last feature of 1, which stands for the bias. Logits, and so the
  objective, are the same in these coordinates.

  Args:
    support: [S, d] float32.
    query: [M, d] float32.

  Returns:
    [S, S + 1] and [M, S + 1]; columns beyond the span's dimensions are 0.
  """
  support, query = (
    jnp.pad(x.astype(jnp.float32), ((0, 0), (0, 1)), constant_values=1.0)
    for x in (support, query)
  )
  product = functools.partial(jnp.matmul, precision=_HIGHEST)
  # The mean is a direction of its own: features that all point into one
  # direction differ in what the squares of a Gram matrix lose to rounding.
  mean = jnp.mean(support, axis=0)
  length = jnp.linalg.norm(mean)
  first = mean / length

  def apart(x):
    rest = x - mean[None]
    along = product(rest, first)
    return length + along, rest - along[:, None] * first[None]

  along, rest = apart(support)
  values, vectors = jnp.linalg.eigh(product(rest, rest.T))
  there = values > 1e-7 * values[-1]
  root = jnp.sqrt(jnp.where(there, values, 1.0))
  asked, other = apart(query)
  inside = product(product(other, rest.T), vectors) / root[None]
  return (
    jnp.concatenate([along[:, None], vectors * (there * root)[None]], axis=1),
    jnp.concatenate([asked[:, None], inside * there[None]], axis=1),
  )


def fit(
  inputs: jax.Array,
  labels: jax.Array,
  weight: float | jax.Array,
  *,
  classes: int,
  form: str = "multinomial",
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Fits a classifier by Newton's method; can be jitted and mapped.

  Args:
    inputs: [S, r] float32; a constant column stands for a bias.
    labels: [S] int32 in [0, classes).
    weight: of the regularisation, positive.
    classes: number of classes C.
    form: "multinomial", or "one_vs_rest" for C binary classifiers.

  Returns:
    theta [r, C] float32; the objective in nats; and its excess, an upper bound
    of how far it lies above its minimum, ||gradient||^2 / (4 weight), as a
    share of it.

  Raises:
    UserError: unknown form.
  """
  if form not in FORMS:
    raise unknown("few_shot.form", form, FORMS)
  targets = jax.nn.one_hot(labels, classes)
  size = inputs.shape[1] * classes

  def logits(theta):
    return jnp.matmul(inputs, theta, precision=_HIGHEST)

  def objective(theta):
    losses = jax.vmap(FORMS[form])(logits(theta), targets)
    return jnp.sum(losses) + weight * jnp.sum(jnp.square(theta))

  def direction(theta, gradient):
    curvature = jax.vmap(jax.hessian(FORMS[form]))(logits(theta), targets)
    pulled = jnp.einsum("sr,scd->scdr", inputs, curvature, precision=_HIGHEST)
    hessian = jnp.einsum("sq,scdr->qcrd", inputs, pulled, precision=_HIGHEST)
    hessian = hessian.reshape(size, size)
    # Beside the penalty's own, a damping that float32 needs for features whose
    # scales lie far apart.
    damping = 2 * weight + 1e-6 * jnp.max(jnp.diagonal(hessian))
    hessian = hessian + damping * jnp.eye(size)
    factor = jax.scipy.linalg.cho_factor(hessian)
    step = jax.scipy.linalg.cho_solve(factor, gradient.ravel())
    return -step.reshape(theta.shape)

  def excess(value, gradient):
    # The objective is strongly convex, its curvature at least 2 weight.
    bound = jnp.sum(jnp.square(gradient)) / (4 * weight)
    return bound / jnp.maximum(value, jnp.finfo(jnp.float32).tiny)

  lengths = 0.5 ** jnp.arange(_HALVINGS)

  def step(carry):
    theta, value, gradient, steps = carry
    move = direction(theta, gradient)
    slope = jnp.sum(move * gradient)
    tried = jax.vmap(lambda t: objective(theta + t * move))(lengths)
    # The last digits of an objective are noise: a step that is lost in them
    # counts as one that does not climb.
    noise = 1e-6 * jnp.abs(value)
    falls = tried <= value + 1e-4 * lengths * slope + noise
    length = lengths[jnp.argmax(falls)] * jnp.any(falls)
    theta = theta + length * move
    value, gradient = jax.value_and_grad(objective)(theta)
    return theta, value, gradient, steps + 1

  def unfinished(carry):
    _, value, gradient, steps = carry
    return (steps < _STEPS) & (excess(value, gradient) > _TOLERANCE)

  start = jnp.zeros((inputs.shape[1], classes))
  value, gradient = jax.value_and_grad(objective)(start)
  theta, value, gradient, _ = jax.lax.while_loop(
    unfinished, step, (start, value, gradient, jnp.int32(0))
  )
  return theta, value, excess(value, gradient)


@functools.partial(jax.jit, static_argnames=("way", "form"))
def _solve(
  features: jax.Array,
  support: jax.Array,
  query: jax.Array,
  weight: jax.Array,
  *,
  way: int,
  form: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Right answers [E], objectives [E] and excesses [E] of episodes."""

  def one(rows):
    learn, test = rows
    known = jnp.repeat(jnp.arange(way), len(learn) // way)
    asked = jnp.repeat(jnp.arange(way), len(test) // way)
    inputs, tested = span(features[learn], features[test])
    theta, *bounds = fit(inputs, known, weight, classes=way, form=form)
    logits = jnp.matmul(tested, theta, precision=_HIGHEST)
    return jnp.sum(jnp.argmax(logits, axis=1) == asked), *bounds

  return jax.lax.map(one, (support, query), batch_size=_CHUNK)


def measure(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  way: int = 5,
  weight: float = 0.5,
  form: str = "multinomial",
  **drawn: int,
) -> Result:
  """Draws the episodes and solves all of them.

  Args:
    features: [n, d]; used as they are, without normalisation.
    labels: [n] int.
    way: classes an episode.
    weight: of the regularisation.
    form: see `fit`.
    **drawn: `shot`, `queries`, `episodes` and `seed` of `draw`.

  Raises:
    UserError: see `draw` and `fit`; `weight` is not positive.
  """
  if not weight > 0:
    raise UserError(
      f"few_shot.weight={weight} must be positive; 0.5 is the default."
    )
  support, query = draw(labels, way=way, **drawn)
  right, objective, excess = _solve(
    jnp.asarray(features, jnp.float32),
    support,
    query,
    jnp.float32(weight),
    way=way,
    form=form,
  )
  share = np.asarray(right, np.float64) / query.shape[1]
  return Result(
    confidence.interval(share),
    share,
    np.asarray(objective),
    float(np.max(excess)),
  )
