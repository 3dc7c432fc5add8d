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
