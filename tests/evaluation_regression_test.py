"""Regression of landmarks against other solvers and the published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from cassle_jax.evaluation import regression, scores


def problem(count=16, width=4, outputs=2, seed=0):
  generator = np.random.default_rng(seed)
  x = generator.normal(size=(count, width)) + 1
  y = x @ generator.normal(size=(width, outputs)) - 2
  return x, y + generator.standard_t(2, size=y.shape)


def objective(x, y, kernel, bias, weight):
  errors = np.abs(x @ kernel + bias - y).sum()
  return errors + weight * ((kernel**2).sum() + (bias**2).sum())


def absolute_errors(x, y):
  """The least sum of absolute errors: a linear program for each output."""
  count, width = x.shape
  total = 0
  for target in y.T:
    cost = np.concatenate([np.zeros(width), np.ones(count)])
    above = np.concatenate([x, -np.eye(count)], axis=1)
    below = np.concatenate([-x, -np.eye(count)], axis=1)
    found = optimize.linprog(
      cost,
      A_ub=np.concatenate([above, below]),
      b_ub=np.concatenate([target, -target]),
      bounds=[(None, None)] * width + [(0, None)] * count,
    )
    assert found.success
    total += found.fun
  return total


def penalised(x, y, weight):
  """The optimum from its dual, a quadratic in a box, for each output.

  Signs s in [-1, 1] of the errors: max -y's - ||x's||^2 / (4 weight).
  """
  total = 0
  for target in y.T:
    gram = x @ x.T / (2 * weight)
    found = optimize.minimize(
      lambda s, t=target, g=gram: (t @ s + s @ g @ s / 2, t + g @ s),
      np.zeros(len(x)),
      jac=True,
      method="L-BFGS-B",
      bounds=[(-1, 1)] * len(x),
      options={"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-10},
    )
    total -= found.fun
  return total


def test_fits_reach_the_optimum_of_other_solvers():
  x, y = problem()
  full = np.concatenate([x, np.ones((len(x), 1))], axis=1)
  weights = np.array([1e-9, 0.3, 30.0])
  with jax.enable_x64(True):
    found = regression.fit(
      jnp.asarray(x),
      jnp.asarray(y),
      jnp.asarray(weights),
      max_steps=10_000,
      tolerance=1e-9,
    )
    found = jax.tree.map(np.asarray, found)
  assert found.kernel.dtype == np.float64
  best = [absolute_errors(full, y)]
  best += [penalised(full, y, weight) for weight in weights[1:]]
  np.testing.assert_allclose(found.objective, best, rtol=1e-6)
  for index, weight in enumerate(weights):
    own = objective(x, y, found.kernel[index], found.bias[index], weight)
    np.testing.assert_allclose(own, found.objective[index], rtol=1e-12)
  assert (found.gap >= -1e-12).all() and (found.gap < 1e-6).all()


def test_gap_bounds_what_is_left():
  """After few steps it is honest; in float32 it still closes."""
  x, y = (a.astype(np.float32) for a in problem(seed=1))
  weights = np.array([1e-6, 0.1, 10.0], np.float32)
  start = np.abs(y).sum()
  early, late = (
    regression.fit(x, y, weights, max_steps=steps) for steps in (25, 5000)
  )
  left = (np.asarray(early.objective) - np.asarray(late.objective)) / start
  assert (np.asarray(early.gap) >= left - 1e-6).all() and left.max() > 1e-4
  assert (np.asarray(late.gap) <= 1e-5).all()


def test_more_features_than_pictures_and_twins_among_them():
  x, y = problem(count=10, width=30, seed=2)
  x[:, 7] = x[:, 3]
  x, y = x.astype(np.float32), y.astype(np.float32)
  found = regression.fit(x, y, jnp.asarray([1e-6, 1.0], jnp.float32))
  # Nothing stands in the way of a perfect fit.
  exact = np.asarray(regression.predict(found, x))[0]
  np.testing.assert_allclose(exact, y, atol=1e-3)
  assert (np.asarray(found.gap) <= 1e-5).all()
  np.testing.assert_allclose(found.kernel[1, 7], found.kernel[1, 3], atol=1e-5)


def test_published_scores_of_published_weights(golden):
  """Each classifier of the published sweep, with its own validation score."""
  data = golden("linear_eval_r2")
  for index, expected in enumerate(data["val"]):
    guess = data["X_val"] @ data["W_all"][index].T + data["b_all"][index]
    found = scores.squared_correlation(guess, data["Y_val"])
    np.testing.assert_allclose(found, expected, atol=1e-6)
  guess = data["X_test"] @ data["W_all"][-1].T + data["b_all"][-1]
  found = scores.squared_correlation(guess, data["Y_test"])
  np.testing.assert_allclose(found, data["test"], atol=1e-6)


def test_sweep_scores_as_the_published_one_and_fits_better(golden):
  """Its L-BFGS stalls above the optimum of most weights."""
  data = golden("linear_eval_r2")
  train, validation, test = (
    (data[f"X_{part}"], data[f"Y_{part}"]) for part in ("train", "val", "test")
  )
  weights = data["ws"].tolist()
  found = regression.sweep(
    train, validation, test, weights=weights, max_steps=1000
  )
  np.testing.assert_allclose(found.validation, data["val"], atol=5e-3)
  np.testing.assert_allclose(found.score, data["test"], atol=5e-3)
  assert found.weight == weights[int(np.argmax(found.validation))]
  assert max(found.gap) < 1e-4
  fitted = regression.fit(
    *train, jnp.asarray(weights, jnp.float32), max_steps=1000
  )
  published = data["loss_final"][:-1]
  assert (np.asarray(fitted.objective) <= published * (1 + 1e-6)).all()
  both = [np.concatenate(pair) for pair in zip(train, validation, strict=True)]
  refitted = regression.fit(
    *both, jnp.asarray([found.weight], jnp.float32), max_steps=1000
  )
  guess = np.asarray(regression.predict(refitted, test[0]))[0]
  assert found.r2 == scores.r_squared(guess, test[1])
