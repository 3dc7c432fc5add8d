"""Scores against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from cassle_jax.evaluation import scores


def test_mean_per_class_by_hand():
  """Class 0: 3 of 4 right; class 2: 0 of 1; class 1 does not occur."""
  labels, predicted = [0, 0, 0, 0, 2], [0, 0, 0, 1, 0]
  assert scores.mean_per_class(predicted, labels) == 0.375
  assert scores.top1(predicted, labels) == 0.6


def test_auc_equals_sklearns_also_with_ties():
  draw = np.random.default_rng(0)
  for score in (draw.normal(size=60), draw.integers(0, 4, 60).astype(float)):
    positive = draw.uniform(size=60) < 0.4
    found = scores.auc(positive, score)
    assert found == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
  # By hand: of 2 x 2 pairs one is won, one tied, two lost.
  found = scores.auc([True, True, False, False], [2.0, 0.0, 1.0, 2.0])
  assert found == pytest.approx(1.5 / 4)
  assert scores.auc([True, False], [3.0, 3.0]) == 0.5
  assert np.isnan(scores.auc([True, True], [1.0, 2.0]))


def test_r2_equals_sklearns():
  draw = np.random.default_rng(1)
  target, predicted = draw.normal(size=(2, 50, 3))
  target[:, 2] = 4.0
  found = scores.r2(target, predicted)
  expected = r2_score(target[:, :2], predicted[:, :2], multioutput="raw_values")
  np.testing.assert_allclose(found[:2], expected, rtol=1e-12)
  assert np.isnan(found[2])


def test_scores_by_hand():
  """Twice the truth plus one: perfectly correlated, and far off."""
  truth = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
  guess = 2 * truth + 1
  np.testing.assert_allclose(scores.squared_correlation(guess, truth), 1)
  # Of the first output, the only one that varies: errors 1, 3, 5; spread 8.
  np.testing.assert_allclose(scores.r_squared(guess, truth), 1 - 35 / 8)
  flat = np.ones((3, 2))
  assert scores.squared_correlation(flat, truth) == 0
  assert np.isnan(scores.r_squared(truth, flat))


def test_mean_of_known_by_hand():
  assert scores.mean_of_known(np.array([1.0, np.nan, 4.0])) == 2.5
  assert np.isnan(scores.mean_of_known(np.array([np.nan])))
