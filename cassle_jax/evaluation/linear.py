"""Linear evaluation: a logistic regression on frozen features.

Kornblith et al. 2019, arXiv 1805.08974, appendix A, in the form of the
CASSLE and AugSelf evaluations: the objective is

    sum of cross-entropies + weight * (||W||^2 + ||b||^2),

one weight is chosen on a validation split, the classifier is fitted again on
everything and tested once. `logistic` solves it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cassle_jax.errors import UserError, unknown
from cassle_jax.evaluation import confidence, logistic
from cassle_jax.evaluation.scores import METRICS, check_features, dense

WEIGHTS = tuple(np.logspace(-6, 5, 45).tolist())
QUICK_WEIGHTS = tuple(np.logspace(-4, 3, 8).tolist())


class Result(NamedTuple):
  """What a linear evaluation reports.

  Attributes:
    score: of the test set, in [0, 1].
    weight: the regularisation weight that the validation split chose.
    validation: score of that split for each weight tried.
    fits: how the fit of each weight tried ended: {attribute: numbers}, for
      "objective", "gradient_norm", "steps" and "converged" of
      `logistic.Classifier`.
    refit: the same of the chosen weight alone, on train and validation data.
    half: half of the width of the score's 95 % interval over the test pictures.
  """

  score: float
  weight: float
  validation: tuple[float, ...]
  fits: dict[str, list]
  refit: dict[str, Any]
  half: float


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
    max_steps: see `logistic.fit`.
  """
  if len(train_labels) < 2:
    raise UserError(
      "a probe needs at least 2 training images, one to choose its weight on,"
      f" got {len(train_labels)}."
    )
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
  dtype: str = "float32",
) -> Result:
  """Chooses a weight on validation data, refits on both, tests once.

  Args:
    train: features [N, d] and int labels [N].
    validation: the same, of other images.
    test: the same.
    weights: the regularisation weights to choose from; of equally good ones
      the first.
    metric: of `scores.METRICS`.
    max_steps: see `logistic.fit`.
    dtype: "float32", or "float64" where the device has it (CPU).

  Raises:
    UserError: unknown metric or dtype, a weight that is not positive, or
      features that are missing or not finite.
  """
  if metric not in METRICS:
    raise unknown("metric", metric, METRICS)
  score = METRICS[metric]
  for each in (train, validation, test):
    check_features("linear evaluation", *each)
  parts = train[0], validation[0], test[0]
  labels, classes = dense(train[1], validation[1], test[1])
  train, validation, test = zip(parts, labels, strict=True)
  both = [np.concatenate(pair) for pair in zip(train, validation, strict=True)]

  def solve(data, weights):
    return logistic.fit(
      *data, weights, num_classes=classes, max_steps=max_steps, dtype=dtype
    )

  tried = solve(train, weights)
  guesses = np.asarray(logistic.predict(tried, validation[0]))
  scores = [score(guess, validation[1]) for guess in guesses]
  best = int(np.argmax(scores))
  final = solve(both, [weights[best]])
  guess = np.asarray(logistic.predict(final, test[0]))[0]
  return Result(
    score=score(guess, test[1]),
    weight=float(weights[best]),
    validation=tuple(scores),
    fits=_ends(tried),
    refit={name: each[0] for name, each in _ends(final).items()},
    half=confidence.accuracy_half(
      guess == test[1], test[1] if metric == "mean_per_class" else None
    ),
  )


def _ends(fitted: logistic.Classifier) -> dict[str, list]:
  names = ("objective", "gradient_norm", "steps", "converged")
  return {name: np.asarray(getattr(fitted, name)).tolist() for name in names}
