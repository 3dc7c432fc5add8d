"""Scores of predicted augmentations: R^2 of numbers, AUC of yes and no."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cassle_jax.errors import UserError
from cassle_jax.evaluation.scores import auc, mean_of_known, r2


class Probe(NamedTuple):
  """How well each field is predicted, on images that were not fitted.

  Attributes:
    metric: {field: "r2" or "auc"}: "auc" where each number of the field has
      two values, as flip and grayscale have.
    value: {field: float}, mean of `components` where they are not nan.
    components: {field: [k] float64}, of each number of the field; nan for one
      that is constant. R^2 is at most 1 and 0 for the mean of the test images;
      AUC is 0.5 for a guess.
    weight: {field: [k] float64}, the regularisation chosen for each.
  """

  metric: dict[str, str]
  value: dict[str, float]
  components: dict[str, np.ndarray]
  weight: dict[str, np.ndarray]


class Targets(NamedTuple):
  """The numbers of all fields side by side, K columns.

  Attributes:
    train: [N, K] float64.
    test: [M, K] float64.
    binary: [K] bool, whether the number has two values.
    columns: {field: its columns}.
  """

  train: np.ndarray
  test: np.ndarray
  binary: np.ndarray
  columns: dict[str, slice]


def lay_out(
  train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]
) -> Targets:
  """Lays the fields side by side and finds the numbers of two values.

  Args:
    train: {field: [N, k]}; fields that are constant there are left out.
    test: {field: [M, k]}, with the same fields.

  Raises:
    UserError: no field varies.
  """
  names = [n for n in sorted(train) if np.any(np.ptp(train[n], axis=0) > 0)]
  if not names:
    raise UserError(
      f"nothing to probe: omega is the same for all images in"
      f" {', '.join(sorted(train)) or 'no field at all'}; use a policy that"
      " draws something."
    )
  ends = np.cumsum([train[name].shape[1] for name in names])
  columns = {
    name: slice(int(end) - train[name].shape[1], int(end))
    for name, end in zip(names, ends, strict=True)
  }
  both = [
    np.concatenate([part[name] for name in names], axis=1).astype(np.float64)
    for part in (train, test)
  ]
  distinct = [len(np.unique(column)) for column in np.concatenate(both).T]
  binary = np.zeros(len(distinct), bool)
  for place in columns.values():
    binary[place] = max(distinct[place]) == 2
  return Targets(*both, binary, columns)


def scores(
  target: np.ndarray, predicted: np.ndarray, binary: np.ndarray
) -> np.ndarray:
  """[K] AUC where binary and R^2 elsewhere; nan where the target is constant.

  Larger is positive: what two values stand for does not matter.
  """
  found = r2(target, predicted)
  for k in np.flatnonzero(binary):
    positive = target[:, k] > np.min(target[:, k])
    found[k] = auc(positive, predicted[:, k])
  return found


def choose(
  targets: Targets,
  held: np.ndarray,
  held_predicted: np.ndarray,
  test_predicted: np.ndarray,
  weights: Sequence[float],
) -> Probe:
  """Picks for every column the fit that is best on `held`; scores the test.

  Args:
    targets: K columns.
    held: rows of the training part.
    held_predicted: [R, H, K].
    test_predicted: [R, M, K].
    weights: R values of the regularisation.
  """
  tried = np.stack(
    [
      scores(targets.train[held], predicted, targets.binary)
      for predicted in held_predicted
    ]
  )
  best = np.argmax(np.nan_to_num(tried, nan=-np.inf), axis=0)
  picked = test_predicted[best, :, np.arange(len(best))].T
  tested = scores(targets.test, picked, targets.binary)
  weight = np.asarray(weights, np.float64)[best]

  metric, value, components, chosen = {}, {}, {}, {}
  for name, place in targets.columns.items():
    metric[name] = "auc" if targets.binary[place][0] else "r2"
    components[name], chosen[name] = tested[place], weight[place]
    value[name] = mean_of_known(tested[place])
  return Probe(metric, value, components, chosen)
