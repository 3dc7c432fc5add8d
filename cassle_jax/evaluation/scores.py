"""Scores of predictions, in [0, 1] or at most 1; float64 on the host."""

from typing import Any

import numpy as np

from cassle_jax.errors import UserError


def dense(*labels: np.ndarray) -> tuple[list[np.ndarray], int]:
  """Labels numbered from 0 without gaps, in their order, and how many.

  Labels such as 20230001 would otherwise make tables of 20 million classes.

  Args:
    *labels: [N] integers each; they share their classes.

  Returns:
    The same as int32, and the number of classes.
  """
  classes, numbered = np.unique(np.concatenate(labels), return_inverse=True)
  ends = np.cumsum([len(each) for each in labels])[:-1]
  return np.split(numbered.astype(np.int32), ends), len(classes)


def check_features(what: str, features: Any, labels: Any) -> None:
  """Checks features [N, d] against labels [N].

  Raises:
    UserError: none at all, not one label each, or numbers that are not finite.
  """
  shape, count = np.shape(features), np.shape(labels)
  if len(shape) != 2 or count != shape[:1] or not shape[0]:
    raise UserError(
      f"{what}: features are {list(shape)} and labels {list(count)}; they must"
      " be [N, d] and [N], N at least 1."
    )
  bad = ~np.isfinite(np.asarray(features)).all(axis=1)
  if bad.any():
    raise UserError(
      f"{what}: the features of {np.sum(bad)} of {shape[0]} pictures are not"
      " finite: the network has diverged or its weights are damaged, so nothing"
      " can be measured; evaluate an earlier --step."
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


# Of classifications.
METRICS = {"top1": top1, "mean_per_class": mean_per_class}


def r2(target: np.ndarray, predicted: np.ndarray) -> np.ndarray:
  """Coefficient of determination of each column of [N, K]; nan if constant."""
  residual = np.mean(np.square(target - predicted), axis=0)
  varies = np.ptp(target, axis=0) > 0
  spread = np.where(varies, np.var(target, axis=0), np.nan)
  return 1 - residual / spread


def mean_of_known(values: np.ndarray) -> float:
  """Mean of those that are not nan; nan where there are none."""
  known = values[~np.isnan(values)]
  return float(np.mean(known)) if len(known) else float("nan")


def auc(positive: np.ndarray, score: np.ndarray) -> float:
  """Area under the ROC curve: P(a positive scores higher), ties count half.

  Args:
    positive: [N] bool.
    score: [N] float.

  Returns:
    A number in [0, 1]; nan if there is one class alone.
  """
  positive = np.asarray(positive, bool)
  count = np.sum(positive)
  if count in (0, len(positive)):
    return float("nan")
  # Imported here: it takes longer than everything else in this module.
  from scipy import stats

  above = np.sum(stats.rankdata(score)[positive]) - count * (count + 1) / 2
  return float(above / (count * (len(positive) - count)))


def squared_correlation(predicted: np.ndarray, targets: np.ndarray) -> float:
  """The published score, higher is better.

  All numbers of all pictures as one list: R^2 of the least-squares line from
  what was predicted to what is true, which is their squared Pearson
  correlation. An offset or a factor that all predictions share costs nothing.

  Args:
    predicted: [N, T].
    targets: [N, T].

  Returns:
    In [0, 1]; 0 where all predictions are the same.
  """
  x = np.asarray(predicted, np.float64).ravel()
  y = np.asarray(targets, np.float64).ravel()
  x, y = x - x.mean(), y - y.mean()
  size = (x @ x) * (y @ y)
  return float((x @ y) ** 2 / size) if size > 0 else 0.0


def r_squared(predicted: np.ndarray, targets: np.ndarray) -> float:
  """The standard R^2: explained share of each output's variance, averaged.

  Args:
    predicted: [N, T].
    targets: [N, T]; outputs that do not vary do not count.

  Returns:
    At most 1; nan where no output varies.
  """
  targets, predicted = (np.asarray(x, np.float64) for x in (targets, predicted))
  return mean_of_known(r2(targets, predicted))
