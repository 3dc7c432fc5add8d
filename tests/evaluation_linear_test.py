"""The protocol of linear evaluation: one choice, one refit, one test."""

import numpy as np
import pytest

from cassle_jax.errors import UserError
from cassle_jax.evaluation import linear, logistic


def blobs(count, seed, spread=0.5, classes=4, width=6):
  centres = np.random.default_rng(0).normal(size=(classes, width))
  generator = np.random.default_rng(seed)
  labels = generator.integers(0, classes, count).astype(np.int32)
  noise = generator.normal(size=(count, width)) * spread
  return (centres[labels] + noise).astype(np.float32), labels


def test_probe_chooses_on_the_validation_split_and_tests_once():
  train, test = blobs(400, 4), blobs(200, 5)
  result = linear.probe(*train, *test)
  assert result.score > 0.8
  assert len(result.validation) == len(linear.QUICK_WEIGHTS)
  best = linear.QUICK_WEIGHTS[int(np.argmax(result.validation))]
  assert result.weight == best
  shuffled = linear.probe(train[0], np.roll(train[1], 7), *test)
  assert shuffled.score < 0.5


def test_sweep_refits_on_both_parts_and_takes_the_first_of_the_best():
  train, validation, test = blobs(320, 6), blobs(80, 7), blobs(200, 8)
  weights = (0.5, 0.5, 1e5)
  result = linear.sweep(train, validation, test, weights=weights)
  assert result.weight == 0.5
  assert result.validation[0] == result.validation[1] > result.validation[2]
  both = [np.concatenate(pair) for pair in zip(train, validation, strict=True)]
  fitted = logistic.fit(*both, [0.5], num_classes=4)
  guess = np.asarray(logistic.predict(fitted, test[0]))[0]
  assert result.score == np.mean(guess == test[1])
  assert result.refit["objective"] == float(fitted.objective[0])
  assert [len(column) for column in result.fits.values()] == [3, 3, 3, 3]
  assert all(result.fits["converged"]) and result.refit["converged"]
  with pytest.raises(UserError, match="'top5'.*mean_per_class"):
    linear.sweep(train, validation, test, metric="top5")


def test_sweep_finds_the_true_optima_of_the_published_sweep(golden):
  """Which the published sweep itself, warm-started, misses at low weights."""
  arrays = golden("linear_eval_top1")
  parts = [
    (arrays[f"X_{part}"], arrays[f"Y_{part}"])
    for part in ("train", "val", "test")
  ]
  result = linear.sweep(*parts, weights=arrays["ws"].tolist())
  objective = np.array(result.fits["objective"])
  np.testing.assert_allclose(objective, arrays["loss_exact_f64"], rtol=1e-5)
  assert (arrays["loss_final"][:4] > 1.004 * objective[:4]).all()
  np.testing.assert_allclose(
    result.validation, arrays["val_exact_f64"], atol=1e-6
  )
  assert result.weight == arrays["ws"][arrays["best_index"]]
  np.testing.assert_allclose(result.score, arrays["test_exact_f64"], atol=1e-6)
  assert all(result.fits["converged"]) and result.refit["converged"]
