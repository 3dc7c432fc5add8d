"""Logistic regressions against scikit-learn and a float64 Newton's method."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax.errors import UserError
from cassle_jax.evaluation import linear, logistic
from cassle_jax.hosts import sharding


def problem(count, width, classes, *, noisy, seed=0):
  """Rectified features with a falling spectrum, and labels.

  Noisy: every row occurs twice, and a third of the copies have another label,
  so nothing separates the classes.
  """
  generator = np.random.default_rng(seed)
  centres = generator.normal(size=(classes, width))
  mixing = generator.normal(size=(width, width)) / np.sqrt(width)
  mixing *= 4 / np.sqrt(1 + np.arange(width))[:, None]

  def draw(count, share):
    labels = generator.integers(0, classes, count)
    rows = share * centres[labels] + generator.normal(size=(count, width))
    return np.maximum(rows @ mixing + 0.3, 0).astype(np.float32), labels

  share = 0.3 if noisy else 0.6
  features, labels = draw(count // 2 if noisy else count, share)
  if noisy:
    other = generator.integers(0, classes, len(labels))
    kept = generator.random(len(labels)) < 2 / 3
    features = np.concatenate([features, features])
    labels = np.concatenate([labels, np.where(kept, labels, other)])
  return (features, labels), draw(count, share)


def objective(features, labels, kernel, bias, weight):
  """In float64, with all digits where it is almost zero."""
  kernel, bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
  logits = features.astype(np.float64) @ kernel + bias
  rows = np.arange(len(labels))
  logits -= logits[rows, labels][:, None]
  logits[rows, labels] = -np.inf
  top = np.maximum(logits.max(axis=1), 0)
  others = np.exp(logits - top[:, None]).sum(axis=1)
  loss = np.where(top > 0, top + np.log(np.exp(-top) + others), 0)
  loss += np.where(top > 0, 0, np.log1p(others))
  return loss.sum() + weight * ((kernel**2).sum() + (bias**2).sum())


def with_constant(features):
  ones = np.ones((len(features), 1))
  return np.concatenate([features.astype(np.float64), ones], axis=1)


def newton(features, labels, weight, classes, start=None):
  """[d + 1, C] optimum; the whole Hessian, halved steps."""
  x, targets = with_constant(features), np.eye(classes)[labels]
  size = x.shape[1] * classes
  theta = np.zeros((x.shape[1], classes)) if start is None else start

  def value(theta):
    return objective(features, labels, theta[:-1], theta[-1], weight)

  for _ in range(200):
    logits = x @ theta
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    slope = (x.T @ (odds - targets) + 2 * weight * theta).ravel()
    spread = odds[:, :, None] * (np.eye(classes) - odds[:, None])
    hessian = np.einsum("ni,nab,nj->iajb", x, spread, x, optimize=True)
    hessian = hessian.reshape(size, size) + 2 * weight * np.eye(size)
    step = np.linalg.solve(hessian, slope)
    share = 1.0
    while value(theta - share * step.reshape(theta.shape)) > value(theta):
      share /= 2
      if share < 1e-6:
        return theta
    theta = theta - share * step.reshape(theta.shape)
    if slope @ step < 1e-12 * value(theta):
      return theta
  raise AssertionError("the reference did not converge")


def sklearn_fits(features, labels, weights, tolerance=1e-12):
  """[d + 1, C] of each weight, from strong to weak, by scikit-learn.

  Its tolerance is of the mean gradient, which is small where hardly a row is
  wrong.
  """
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression

  found, model = {}, None
  for weight in sorted(weights, reverse=True):
    # A constant column stands for the bias, which is penalised too.
    options = dict(C=1 / (2 * weight), fit_intercept=False, warm_start=True)
    if model is None:
      model = LogisticRegression(tol=tolerance, max_iter=20_000, **options)
    model.set_params(**options)
    with warnings.catch_warnings():
      # Its line search gives up at the last digits.
      warnings.simplefilter("ignore", ConvergenceWarning)
      model.fit(with_constant(features), labels)
    found[weight] = model.coef_.T
  return [found[weight] for weight in weights]


@functools.cache
def small(noisy):
  return problem(240, 10, 4, noisy=noisy)


@pytest.mark.parametrize("noisy", [False, True])
def test_fits_reach_the_optimum_from_weak_weights_to_strong_ones(noisy):
  (features, labels), test = small(noisy)
  weights = linear.WEIGHTS[::4]
  fitted = logistic.fit(features, labels, weights, num_classes=4)
  guesses = np.asarray(logistic.predict(fitted, test[0]))
  peers = sklearn_fits(features, labels, weights)
  start = None
  for index in reversed(range(len(weights))):
    weight = weights[index]
    start = newton(features, labels, weight, 4, start)
    best = objective(features, labels, start[:-1], start[-1], weight)
    kernel, bias = fitted.kernel[index], fitted.bias[index]
    found = objective(features, labels, kernel, bias, weight)
    np.testing.assert_allclose(found, best, rtol=1e-5)
    np.testing.assert_allclose(fitted.objective[index], best, rtol=2e-5)
    peer = peers[index]
    other = objective(features, labels, peer[:-1], peer[-1], weight)
    assert found <= other * (1 + 1e-4)
    guess = np.argmax(with_constant(test[0]) @ start, axis=1)
    score, expected = (np.mean(g == test[1]) for g in (guesses[index], guess))
    assert abs(score - expected) <= 1 / len(guess)
  assert np.asarray(fitted.converged).all()


@pytest.mark.slow
@pytest.mark.parametrize("noisy", [False, True])
def test_fits_agree_with_sklearn_on_a_problem_of_ordinary_size(noisy):
  """2,000 x 512, 20 classes, each of the 45 weights.

  Where copies disagree, scikit-learn gets to the optimum of strong weights
  alone, so the others are held against the fits in float64.
  """
  (features, labels), test = problem(2000, 512, 20, noisy=noisy)
  weights = linear.WEIGHTS
  fitted = logistic.fit(features, labels, weights, num_classes=20)
  exact = logistic.fit(
    features, labels, weights, num_classes=20, dtype="float64", tolerance=1e-13
  )
  guesses, expected = (
    np.asarray(logistic.predict(f, test[0])) for f in (fitted, exact)
  )
  reached = [w for w in weights if w >= 0.1 or not noisy]
  peers = sklearn_fits(features, labels, reached, 1e-9 if noisy else 1e-12)
  peers = dict(zip(reached, peers, strict=True))
  for index, weight in enumerate(weights):
    found, best = (
      objective(features, labels, f.kernel[index], f.bias[index], weight)
      for f in (fitted, exact)
    )
    score, other_score = (
      np.mean(g[index] == test[1]) for g in (guesses, expected)
    )
    other = best
    if weight in peers:
      peer = peers[weight]
      other = objective(features, labels, peer[:-1], peer[-1], weight)
      guess = np.argmax(with_constant(test[0]) @ peer, axis=1)
      other_score = np.mean(guess == test[1])
    print(
      f"{weight:9.2g} objective {other:.6g} ours {found / other - 1:+.1e}"
      f" float64 {best / other - 1:+.1e} accuracy {other_score:.4f}"
      f" ours {score - other_score:+.4f}",
      flush=True,
    )
    np.testing.assert_allclose(found, other, rtol=1e-4)
    np.testing.assert_allclose(found, best, rtol=1e-5)
    # Under weak weights and where copies disagree the optimum is almost flat:
    # two fits in float64 whose objectives differ by 2e-7 differ by 0.003.
    flat = noisy and weight < 0.1
    assert abs(score - other_score) <= (0.01 if flat else 1e-3) + 1e-9
  assert np.asarray(fitted.converged).all()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_badly_scaled_features_are_no_obstacle(scale):
  features, labels = small(True)[0]
  spread = np.geomspace(1, scale, features.shape[1], dtype=np.float32)
  features = features * spread[None] + np.float32(scale)
  weights = (1e-3, 1.0, 1e3)
  fitted = logistic.fit(features, labels, weights, num_classes=4)
  start = None
  for index in (2, 1, 0):
    start = newton(features, labels, weights[index], 4, start)
    best = objective(features, labels, start[:-1], start[-1], weights[index])
    found = objective(
      features, labels, fitted.kernel[index], fitted.bias[index], weights[index]
    )
    np.testing.assert_allclose(found, best, rtol=1e-4)


def test_a_fit_does_not_depend_on_the_other_weights():
  """Of the ladder (0.1) and between its rungs (0.3, 2e5)."""
  data = small(False)[0]
  weights = (0.3, 0.1, 2e5, 1e-4)
  together = logistic.fit(*data, weights, num_classes=4)
  for index, weight in enumerate(weights):
    alone = logistic.fit(*data, [weight], num_classes=4)
    for one, all_of_them in zip(alone, together, strict=True):
      np.testing.assert_array_equal(one[0], all_of_them[index])


def test_chunks_and_devices_change_nothing():
  """Seven chunks of rows, the last one not full; eight devices."""
  features, labels = small(True)[0]
  weights = (1e-4, 0.1, 10.0)
  whole = logistic.fit(features, labels, weights, num_classes=4)
  chunks = logistic.fit(features, labels, weights, num_classes=4, chunk=2000)
  mesh = sharding.make_mesh(data=8)
  spread = sharding.batch_sharding(mesh)
  assert len(features) % 8 == 0
  sharded = logistic.fit(
    *(jax.device_put(x, spread) for x in (features, labels)),
    weights,
    num_classes=4,
  )
  expected = np.asarray(logistic.predict(whole, features))
  for other in (chunks, sharded):
    np.testing.assert_allclose(other.objective, whole.objective, rtol=2e-6)
    np.testing.assert_allclose(other.kernel, whole.kernel, rtol=0.02, atol=0.02)
    predicted = np.asarray(logistic.predict(other, features))
    np.testing.assert_array_equal(predicted, expected)


def test_memory_stays_below_what_is_said():
  """Beside the features: see `logistic.fit`."""
  shape, kind = jax.ShapeDtypeStruct, jnp.float32
  rows, width, classes, chunk = 4000, 64, 100, 1 << 18
  per_row = 4 * (width + classes)
  count = -(-rows * per_row // chunk)
  data, labels = shape((rows, width), kind), shape((rows,), jnp.int32)
  prepare = logistic._prepare.lower(data, labels, rows=-(-rows // count))
  data = prepare.out_info
  assert data.inputs.shape[0] == count > 5
  kernel, scalar = shape((classes, width + 1), kind), shape((), kind)
  descend = logistic._descend.lower(
    data, kernel, logistic._memory(jnp.zeros(kernel.shape)), scalar, scalar, 9
  )
  bound = 4 * (3 * rows * classes + 40 * kernel.size + 3 * (width + 1) ** 2)
  bound += 2 * chunk
  for lowered in (prepare, descend):
    taken = lowered.compile().memory_analysis().temp_size_in_bytes
    assert taken < bound, (taken, bound)


def test_a_limit_of_steps_is_reported():
  data = small(True)[0]
  fitted = logistic.fit(*data, [0.1, 1e5], num_classes=4, max_steps=1)
  assert fitted.steps.tolist() == [1, 1]
  assert fitted.converged.tolist() == [False, True]
  assert fitted.gradient_norm[0] > 0
  fitted = logistic.fit(*data, [1e-3], num_classes=4, dtype="float64")
  assert fitted.kernel.dtype == np.float64 and fitted.converged[0]


@pytest.mark.parametrize(
  "changes,words",
  [
    ({"dtype": "float16"}, "dtype 'float16'.*float64"),
    ({"weights": (1.0, 0.0)}, r"weights=\[1.0, 0.0\].*above 0"),
    ({"weights": ()}, "weights=.*one or more"),
    ({"weights": (float("nan"),)}, "weights=.*above 0"),
  ],
)
def test_bad_values_are_refused(changes, words):
  options = {"weights": (1.0,), "num_classes": 4} | changes
  with pytest.raises(UserError, match=words):
    logistic.fit(*small(True)[0], **options)
