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
  """What a linear probe reports.

  Attributes:
    top1: accuracy on the test set, in [0, 1].
    weight: the regularisation weight that the validation split chose.
    validation: accuracy on that split for each weight tried.
  """

  top1: float
  weight: float
  validation: tuple[float, ...]


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
  classes = int(max(train_labels.max(), test_labels.max())) + 1
  order = np.random.default_rng(seed).permutation(len(train_labels))
  held = order[: max(1, int(validation * len(order)))]
  kept = order[len(held) :]
  x, y = jnp.asarray(train_features), jnp.asarray(train_labels, jnp.int32)

  solve = functools.partial(fit, num_classes=classes, max_steps=max_steps)
  tried = solve(x[kept], y[kept], jnp.asarray(weights, jnp.float32))
  scores = np.mean(np.asarray(predict(tried, x[held]) == y[held][None]), axis=1)
  best = int(np.argmax(scores))
  final = solve(x, y, jnp.asarray([weights[best]], jnp.float32))
  predicted = np.asarray(predict(final, jnp.asarray(test_features)))[0]
  return Result(
    top1=float(np.mean(predicted == np.asarray(test_labels))),
    weight=float(weights[best]),
    validation=tuple(float(s) for s in scores),
  )
