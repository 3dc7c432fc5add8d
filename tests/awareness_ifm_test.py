"""IFM: float64 twins through each contrastive method, a case by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import methods
from cassle_jax.awareness import ifm
from cassle_jax.errors import UserError
from cassle_jax.methods import Branch, contrast

KEY = jax.random.key(0)


def unit(x):
  x = x.astype(np.float64)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def twin(rows, positives, barred, temperature, epsilon, alpha):
  """Row by row in float64; `barred` holds (row, column) pairs."""
  losses = []
  for i, (row, positive) in enumerate(zip(rows, positives, strict=True)):
    both = []
    for shift in (0.0, epsilon):
      up = np.exp((row[positive] - shift) / temperature)
      down = sum(
        np.exp((row[j] + shift) / temperature)
        for j in range(len(row))
        if j != positive and (i, j) not in barred
      )
      both.append(-np.log(up / (up + down)))
    losses.append((both[0] + alpha * both[1]) / (1 + alpha))
  return np.mean(losses)


@pytest.fixture
def draws():
  generator = np.random.default_rng(7)
  return lambda *shape: generator.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("epsilon, alpha", [(0.1, 1.0), (0.3, 2.5)])
@pytest.mark.parametrize("name", ["simclr", "mocov2", "mocov3", "nnclr"])
def test_loss_equals_its_float64_twin(draws, name, epsilon, alpha):
  method = methods.build(name=name, temperature=0.4)
  method = ifm.build(epsilon=epsilon, alpha=alpha).adapt(method)
  loss_of = jax.jit(method.loss)
  a, b, c, d = (draws(5, 4) for _ in range(4))
  values = functools.partial(
    twin, temperature=0.4, epsilon=epsilon, alpha=alpha
  )
  if name == "simclr":
    loss, _ = loss_of(KEY, Branch(projections=(a, b)), Branch(), {})
    z = unit(np.concatenate([a, b]))
    barred = {(i, i) for i in range(10)}
    expected = values(z @ z.T, [(i + 5) % 10 for i in range(10)], barred)
  elif name == "mocov2":
    queue = unit(draws(6, 4)).astype(np.float32)
    loss, _ = loss_of(
      KEY, Branch(projections=(a,)), Branch(projections=(b,)), {"queue": queue}
    )
    q, k = unit(a), unit(b)
    rows = np.concatenate([(q * k).sum(1, keepdims=True), q @ queue.T], axis=1)
    expected = values(rows, [0] * 5, set())
  elif name == "nnclr":
    # Each projection is its own nearest neighbour in this queue.
    queue = unit(np.concatenate([c, d])).astype(np.float32)
    online = Branch(projections=(c, d), predictions=(a, b))
    loss, _ = loss_of(KEY, online, Branch(), {"queue": queue})
    one = values(unit(c) @ unit(b).T, range(5), set())
    two = values(unit(d) @ unit(a).T, range(5), set())
    expected = (one + two) / 2
  else:
    loss, _ = loss_of(
      KEY, Branch(predictions=(a, b)), Branch(projections=(c, d)), {}
    )
    one = values(unit(a) @ unit(d).T, range(5), set())
    two = values(unit(b) @ unit(c).T, range(5), set())
    expected = 2 * 0.4 * (one + two)
  np.testing.assert_allclose(loss, expected, rtol=2e-6)


def test_criterion_by_hand():
  """Positives at 1, negatives at 0; shifted by 1/4 they are 3/4 and 1/4."""
  criterion = jax.jit(functools.partial(ifm.criterion, epsilon=0.25, alpha=3.0))
  loss, accuracy = criterion(np.eye(2), np.arange(2), 0.5)
  plain, harder = np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0))
  np.testing.assert_allclose(loss, (plain + 3 * harder) / 4, rtol=1e-6)
  assert accuracy == 1


def test_accuracy_is_that_of_the_similarities_as_they_are():
  close = np.array([[0.5, 0.4], [0.4, 0.5]])
  criterion = jax.jit(functools.partial(ifm.criterion, epsilon=0.2))
  _, accuracy = criterion(close, np.arange(2), 0.2)
  assert accuracy == 1


@pytest.mark.parametrize("off", [dict(epsilon=0.0), dict(alpha=0.0)])
def test_without_a_shift_it_is_the_usual_loss(draws, off):
  cosines, labels = draws(4, 6), np.array([1, 5, 0, 2])
  usual = jax.jit(contrast.softmax_loss)(cosines, labels, 0.2)
  criterion = jax.jit(functools.partial(ifm.criterion, **off))
  shifted = criterion(cosines, labels, 0.2)
  np.testing.assert_allclose(shifted, usual, rtol=1e-6)


def test_barred_columns_stay_barred_with_a_finite_gradient(draws):
  cosines, labels = draws(4, 4), np.array([1, 2, 3, 0])
  barred = np.eye(4, dtype=bool)

  @jax.jit
  @jax.value_and_grad
  def loss(x):
    x = jnp.where(barred, -jnp.inf, x)
    return ifm.criterion(x, labels, 0.2)[0]

  value, grad = loss(cosines)
  assert np.isfinite(value) and np.isfinite(grad).all()
  assert not np.any(np.diag(grad))
  moved = cosines + 5 * np.eye(4, dtype=np.float32)
  np.testing.assert_array_equal(loss(moved)[0], value)


def test_refuses_methods_without_negatives_and_negative_options():
  for name in ("byol", "simsiam", "barlow_twins", "vicreg"):
    method = methods.build(name=name)
    with pytest.raises(UserError, match=f"not go with {name}: .* no negatives"):
      ifm.build().adapt(method)
  with pytest.raises(UserError, match="epsilon=-0.1.*0.1"):
    ifm.build(epsilon=-0.1)
  with pytest.raises(UserError, match="alpha=nan"):
    ifm.build(alpha=float("nan"))
