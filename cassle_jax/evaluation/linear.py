"""Multinomial logistic regression on frozen features, by L-BFGS.

Kornblith et al. 2019, arXiv 1805.08974, appendix A, in the form of the
CASSLE and AugSelf evaluations: the objective is

    sum of cross-entropies + weight * (||W||^2 + ||b||^2),

one weight is chosen on a validation split, the classifier is fitted again on
everything and tested once. Every weight is a convex problem of its own; they
are solved together as one batch.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cassle_jax.errors import unknown

WEIGHTS = tuple(np.logspace(-6, 5, 45).tolist())
QUICK_WEIGHTS = tuple(np.logspace(-4, 3, 8).tolist())


class Classifier(NamedTuple):
  """One fitted classifier for each regularisation weight.

  Attributes:
    kernel: [R, d, C] float32.
    bias: [R, C] float32.
    gradient_norm: [R] norm of the objective's gradient over N, at the end.
  """

  kernel: jax.Array
  bias: jax.Array
  gradient_norm: jax.Array


class Result(NamedTuple):
  """What a linear evaluation reports.

  Attributes:
    score: of the test set, in [0, 1].
    weight: the regularisation weight that the validation split chose.
    validation: score of that split for each weight tried.
    gradient_norm: of each weight's fit, see `Classifier`.
  """

  score: float
  weight: float
  validation: tuple[float, ...]
  gradient_norm: tuple[float, ...]


@functools.partial(jax.jit, static_argnames=("num_classes", "max_steps"))
def fit(
  features: jax.Array,
  labels: jax.Array,
  weights: jax.Array,
  *,
  num_classes: int,
  max_steps: int = 300,
  tolerance: float = 1e-6,
) -> Classifier:
  """Fits one classifier for each regularisation weight, all at once.

  The variables are scaled by each feature's standard deviation and shifted
  by its mean, which conditions the problem and leaves its objective, and so
  its optimum, exactly as stated at the top of this file.

  Args:
    features: [N, d] float; used as they are, without normalisation.
    labels: [N] int32 in [0, num_classes).
    weights: [R] positive regularisation weights.
    num_classes: number of classes C.
    max_steps: upper bound on the L-BFGS steps.
    tolerance: a fit stops when the norm of its gradient, divided by N, in
      the scaled variables, falls below this.

  Returns:
    The classifiers for the features as they were given.
  """
  features = features.astype(jnp.float32)
  count = features.shape[0]
  mean = jnp.mean(features, axis=0)
  scale = jnp.maximum(jnp.std(features, axis=0), 1e-6)
  inputs = (features - mean[None]) / scale[None]
  targets = jax.nn.one_hot(labels, num_classes)

  def original(v: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    kernel = v["kernel"] / scale[:, None]
    return kernel, v["bias"] - mean @ kernel

  def objective(v: dict[str, jax.Array], weight: jax.Array) -> jax.Array:
    logits = jnp.matmul(
      inputs, v["kernel"], precision=jax.lax.Precision.HIGHEST
    )
    loss = jnp.sum(
      optax.softmax_cross_entropy(logits + v["bias"][None], targets)
    )
    kernel, bias = original(v)
    penalty = jnp.sum(jnp.square(kernel)) + jnp.sum(jnp.square(bias))
    return (loss + weight * penalty) / count

  def solve(weight: jax.Array) -> Classifier:
    function = functools.partial(objective, weight=weight)
    solver = optax.lbfgs(memory_size=10)
    start = {
      "kernel": jnp.zeros((features.shape[1], num_classes)),
      "bias": jnp.zeros((num_classes,)),
    }
    value_and_grad = optax.value_and_grad_from_state(function)

    def step(carry):
      v, state = carry
      value, grad = value_and_grad(v, state=state)
      updates, state = solver.update(
        grad, state, v, value=value, grad=grad, value_fn=function
      )
      return optax.apply_updates(v, updates), state

    def unfinished(carry):
      _, state = carry
      steps = optax.tree.get(state, "count")
      grad = optax.tree.get(state, "grad")
      far = optax.tree.norm(grad) > tolerance
      return (steps == 0) | ((steps < max_steps) & far)

    v, state = jax.lax.while_loop(unfinished, step, (start, solver.init(start)))
    kernel, bias = original(v)
    return Classifier(
      kernel, bias, optax.tree.norm(optax.tree.get(state, "grad"))
    )

  return jax.vmap(solve)(weights)


@jax.jit
def predict(classifier: Classifier, features: jax.Array) -> jax.Array:
  """Labels [R, N] that each of the R classifiers gives to [N, d] features."""
  logits = jnp.einsum(
    "nd,rdc->rnc",
    features.astype(jnp.float32),
    classifier.kernel,
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.argmax(logits + classifier.bias[:, None], axis=-1)


def probe(
  train_features: np.ndarray,
  train_labels: np.ndarray,
  test_features: np.ndarray,
  test_labels: np.ndarray,
  *,
  weights: Sequence[float] = QUICK_WEIGHTS,
  validation: float = 0.2,
  seed: int = 0,
  max_steps: int = 300,
) -> Result:
  """Chooses a weight on held-out training data, refits, tests once.

  Args:
    train_features: [N, d] features.
    train_labels: [N] int labels.
    test_features: [M, d] features.
    test_labels: [M] int labels.
    weights: the regularisation weights to choose from.
    validation: share of the training set that is held out for the choice.
    seed: of that split.
    max_steps: upper bound on the L-BFGS steps of each fit.
  """
  order = np.random.default_rng(seed).permutation(len(train_labels))
  held = order[: max(1, int(validation * len(order)))]
  kept = order[len(held) :]
  return sweep(
    (train_features[kept], train_labels[kept]),
    (train_features[held], train_labels[held]),
    (test_features, test_labels),
    weights=weights,
    max_steps=max_steps,
  )


def sweep(
  train: tuple[np.ndarray, np.ndarray],
  validation: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  *,
  weights: Sequence[float] = WEIGHTS,
  metric: str = "top1",
  max_steps: int = 1000,
) -> Result:
  """Chooses a weight on validation data, refits on both, tests once.

  Args:
    train: features [N, d] and int labels [N].
    validation: the same, of other images.
    test: the same.
    weights: the regularisation weights to choose from; of equally good ones
      the first.
    metric: of `METRICS`.
    max_steps: upper bound on the L-BFGS steps of each fit.

  Raises:
    UserError: unknown metric.
  """
  if metric not in METRICS:
    raise unknown("metric", metric, METRICS)
  score = METRICS[metric]
  both = [np.concatenate(pair) for pair in zip(train, validation, strict=True)]
  classes = int(max(both[1].max(), test[1].max())) + 1

  def solve(features, labels, weights):
    return fit(
      jnp.asarray(features),
      jnp.asarray(labels, jnp.int32),
      jnp.asarray(weights, jnp.float32),
      num_classes=classes,
      max_steps=max_steps,
    )

  tried = solve(*train, weights)
  guesses = np.asarray(predict(tried, jnp.asarray(validation[0])))
  scores = [score(guess, validation[1]) for guess in guesses]
  best = int(np.argmax(scores))
  final = solve(*both, [weights[best]])
  guess = np.asarray(predict(final, jnp.asarray(test[0])))[0]
  return Result(
    score=score(guess, test[1]),
    weight=float(weights[best]),
    validation=tuple(scores),
    gradient_norm=tuple(np.asarray(tried.gradient_norm).tolist()),
  )


def top1(predicted: np.ndarray, labels: np.ndarray) -> float:
  """Share of [N] predictions that are right."""
  return float(np.mean(np.asarray(predicted) == np.asarray(labels)))


def mean_per_class(predicted: np.ndarray, labels: np.ndarray) -> float:
  """Share of each class's predictions that are right, mean over classes.

  Args:
    predicted: [N] int.
    labels: [N] int; classes that do not occur in them do not count.
  """
  labels = np.asarray(labels)
  right = (np.asarray(predicted) == labels).astype(np.float64)
  count = np.bincount(labels)
  share = np.bincount(labels, right)[count > 0] / count[count > 0]
  return float(np.mean(share))


METRICS = {"top1": top1, "mean_per_class": mean_per_class}
