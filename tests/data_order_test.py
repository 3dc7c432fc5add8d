"""The order of a run: seed and step decide, nothing else."""

import numpy as np
import pytest

from cassle_jax.data import order
from cassle_jax.errors import UserError


def test_permutation_is_pinned():
  # Written down from NumPy 2.4; a change would reorder every resumed run.
  first = order.permutation(10, seed=0, epoch=0)
  np.testing.assert_array_equal(first, [0, 2, 9, 1, 8, 5, 4, 3, 6, 7])
  large = order.permutation(4202, seed=1, epoch=3)
  np.testing.assert_array_equal(large[:5], [2204, 2499, 3301, 2116, 387])


@pytest.mark.parametrize("count", [1, 2, 257, 5000])
def test_permutation_holds_each_index_once(count):
  for epoch in range(3):
    drawn = order.permutation(count, seed=5, epoch=epoch)
    np.testing.assert_array_equal(np.sort(drawn), np.arange(count))
    assert drawn.dtype == np.int32


def test_permutation_depends_on_seed_and_epoch():
  draws = [
    order.permutation(100, seed=seed, epoch=epoch).tobytes()
    for seed in (0, 1, -1, 2**70)
    for epoch in (0, 1)
  ]
  assert len(set(draws)) == 8 - 2  # 2**70 is 0 modulo 2**64.


def test_permutation_is_uniform():
  # Each of 6 orders of 3 things, 6000 draws: 1000 each, deviation 29.
  counts = {}
  for epoch in range(6000):
    drawn = tuple(order.permutation(3, seed=9, epoch=epoch).tolist())
    counts[drawn] = counts.get(drawn, 0) + 1
  assert len(counts) == 6
  assert all(abs(each - 1000) < 150 for each in counts.values())


def test_permutation_cannot_be_written():
  with pytest.raises(ValueError, match="read-only"):
    order.permutation(10)[0] = 1


def test_epochs_start_at_batches_and_do_not_repeat():
  run = order.Order(num_examples=23, batch_size=5, seed=7)
  assert run.steps_per_epoch == 4
  for epoch in range(3):
    rows = np.concatenate([run.batch(4 * epoch + i) for i in range(4)])
    assert len(set(rows.tolist())) == 20
    expected = order.permutation(23, seed=7, epoch=epoch)[:20]
    np.testing.assert_array_equal(rows, expected)


def test_batch_of_the_whole_set():
  run = order.Order(num_examples=6, batch_size=6, seed=0)
  assert run.steps_per_epoch == 1
  assert sorted(run.batch(1000).tolist()) == list(range(6))


@pytest.mark.parametrize(
  ("batch_size", "message"),
  [(7, "batch_size 7 is more than the 6 images"), (0, "at least 1")],
)
def test_impossible_batches_are_refused(batch_size, message):
  with pytest.raises(UserError, match=message):
    order.Order(num_examples=6, batch_size=batch_size, seed=0)
