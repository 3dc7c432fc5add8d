"""Intervals and ranks by hand and against tables."""

import numpy as np
import pytest

from cassle_jax.evaluation import confidence


@pytest.mark.parametrize(
  "count, quantile", [(2, 12.7062), (3, 4.3027), (10, 2.2622), (31, 2.0423)]
)
def test_interval_has_the_quantiles_of_the_books(count, quantile):
  values = np.arange(count, dtype=np.float64)
  found = confidence.interval(values)
  assert found.mean == (count - 1) / 2 and found.count == count
  error = np.sqrt(np.sum((values - found.mean) ** 2) / (count - 1) / count)
  np.testing.assert_allclose(found.half, quantile * error, rtol=1e-4)


def test_interval_covers_the_mean_as_often_as_it_says():
  draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 4))
  found = [confidence.interval(row) for row in draws]
  covered = np.mean([abs(one.mean - 3.0) <= one.half for one in found])
  assert 0.94 < covered < 0.96


def test_interval_of_few_values():
  one = confidence.interval([5.0])
  assert one.mean == 5.0 and np.isnan(one.half) and one.count == 1
  none = confidence.interval([])
  assert np.isnan(none.mean) and none.count == 0


def test_difference_is_paired():
  """Seeds differ by 10, the methods by 1 and 2: the seeds cancel out."""
  first, second = {0: 11.0, 1: 22.0, 5: 0.0}, {0: 10.0, 1: 20.0, 7: 3.0}
  found = confidence.difference(first, second)
  assert found.mean == 1.5 and found.count == 2
  np.testing.assert_allclose(found.half, 12.7062 * 0.5, rtol=1e-4)


def test_mean_ranks_by_hand():
  table = [
    [90.0, 10.0, 50.0],
    [80.0, 30.0, 50.0],
    [99.0, np.nan, 99.0],
    [70.0, 20.0, 40.0],
  ]
  # First column 1 2 3, second 3 1 2, third 1.5 1.5 3; the third row is left
  # out, and takes nobody's place.
  np.testing.assert_allclose(
    confidence.mean_ranks(np.array(table)),
    [5.5 / 3, 4.5 / 3, np.nan, 8 / 3],
  )
  assert np.isnan(confidence.mean_ranks(np.zeros((2, 0)))).all()


@pytest.mark.parametrize(
  "right, count, low, high",
  # R's prop.test(x, n, correct = FALSE).
  [(4 / 6, 6, 0.29999, 0.90323), (0, 10, 0, 0.27753), (1, 10, 0.72247, 1)]
  + [(0.5, 100, 0.40383, 0.59617)],
)
def test_wilsons_interval(right, count, low, high):
  found = confidence.share(right, count)
  np.testing.assert_allclose(found, (low, high), atol=2e-5)


def test_the_interval_of_a_share_covers_as_often_as_it_says():
  draws = np.random.default_rng(0).binomial(20, 0.9, 4000) / 20
  found = [confidence.share(x, 20) for x in draws]
  assert 0.93 < np.mean([low <= 0.9 <= high for low, high in found]) < 0.98


def test_half_of_an_accuracy_over_pictures_and_over_classes():
  right = np.array([True, True, True, True, False, False])
  low, high = confidence.share(4 / 6, 6)
  assert confidence.accuracy_half(right) == (high - low) / 2
  classes = np.array([0, 0, 0, 0, 1, 1])
  ends = [confidence.share(1.0, 4), confidence.share(0.0, 2)]
  halves = [(b - a) / 2 for a, b in ends]
  expected = np.hypot(*halves) / 2
  found = confidence.accuracy_half(right, classes)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
