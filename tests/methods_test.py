"""Losses against float64 numpy twins and cases computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import methods, monitor
from cassle_jax.errors import UserError
from cassle_jax.methods import Branch, contrast, mocov2, mocov3, simclr


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cross_entropy_twin(logits, labels):
  """Mean of log sum exp minus the labelled logit, in float64."""
  top = logits.max(axis=1, keepdims=True)
  total = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
  return np.mean(total - logits[np.arange(len(labels)), labels])


def nt_xent_twin(z1, z2, temperature):
  z = unit(np.concatenate([z1, z2]).astype(np.float64))
  losses = []
  for i in range(len(z)):
    j = (i + len(z1)) % len(z)
    others = [k for k in range(len(z)) if k != i]
    scores = np.exp([z[i] @ z[k] / temperature for k in others])
    losses.append(-np.log(np.exp(z[i] @ z[j] / temperature) / scores.sum()))
  return np.mean(losses)


def info_nce_twin(q, k, queue, temperature):
  q, k = unit(q.astype(np.float64)), unit(k.astype(np.float64))
  positive = (q * k).sum(axis=1, keepdims=True)
  logits = np.concatenate([positive, q @ queue.astype(np.float64).T], axis=1)
  return cross_entropy_twin(logits / temperature, np.zeros(len(q), int))


def pairs_twin(q, k, temperature):
  logits = unit(q.astype(np.float64)) @ unit(k.astype(np.float64)).T
  loss = cross_entropy_twin(logits / temperature, np.arange(len(q)))
  return 2 * temperature * loss


@pytest.fixture
def draws():
  generator = np.random.default_rng(3)

  def draw(*shape):
    return generator.normal(size=shape).astype(np.float32)

  return draw


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_equals_its_float64_twin(draws, temperature):
  z1, z2 = draws(6, 5), draws(6, 5)
  loss, _ = simclr.nt_xent(z1, z2, temperature=temperature)
  np.testing.assert_allclose(loss, nt_xent_twin(z1, z2, temperature), rtol=2e-6)


def test_nt_xent_by_hand():
  """Two images on the two axes: one positive at 1, two negatives at 0."""
  z = jnp.eye(2)
  loss, accuracy = simclr.nt_xent(z, z, temperature=1.0)
  np.testing.assert_allclose(loss, np.log(np.e + 2) - 1, rtol=1e-6)
  assert accuracy == 1


def test_info_nce_equals_its_float64_twin(draws):
  q, k, queue = draws(6, 5), draws(6, 5), unit(draws(12, 5))
  loss, _ = mocov2.info_nce(q, k, queue, temperature=0.2)
  np.testing.assert_allclose(loss, info_nce_twin(q, k, queue, 0.2), rtol=2e-6)


def test_info_nce_by_hand():
  """A positive at 1 and one negative at 0: log(1 + 1/e)."""
  q = jnp.array([[2.0, 0.0]])
  queue = jnp.array([[0.0, 1.0]])
  loss, accuracy = mocov2.info_nce(q, q, queue, temperature=1.0)
  np.testing.assert_allclose(loss, np.log1p(np.exp(-1)), rtol=1e-6)
  assert accuracy == 1


def test_contrast_pairs_equals_its_float64_twin(draws):
  q, k = draws(7, 4), draws(7, 4)
  loss, _ = mocov3.contrast_pairs(q, k, temperature=0.2)
  np.testing.assert_allclose(loss, pairs_twin(q, k, 0.2), rtol=2e-6)


def test_contrast_pairs_by_hand():
  loss, _ = mocov3.contrast_pairs(jnp.eye(2), jnp.eye(2), temperature=1.0)
  np.testing.assert_allclose(loss, 2 * np.log1p(np.exp(-1)), rtol=1e-6)


def test_mocov3_loss_crosses_the_views(draws):
  q1, q2, k1, k2 = (draws(4, 3) for _ in range(4))
  method = methods.build(name="mocov3", temperature=0.3)
  loss, _ = method.loss(
    Branch(predictions=(q1, q2)), Branch(projections=(k1, k2)), {}
  )
  expected = pairs_twin(q1, k2, 0.3) + pairs_twin(q2, k1, 0.3)
  np.testing.assert_allclose(loss, expected, rtol=2e-6)


def test_losses_are_float32_whatever_the_input(draws):
  z = jnp.asarray(draws(4, 8), jnp.bfloat16)
  for value in (
    simclr.nt_xent(z, z, temperature=0.2)[0],
    mocov2.info_nce(z, z, jnp.eye(8), temperature=0.2)[0],
    mocov3.contrast_pairs(z, z, temperature=0.2)[0],
  ):
    assert value.dtype == jnp.float32


def test_normalize_survives_zeros():
  value, grad = jax.value_and_grad(lambda x: contrast.normalize(x).sum())(
    jnp.zeros((2, 3))
  )
  assert value == 0 and np.isfinite(grad).all()


def test_gradients_match_finite_differences(draws):
  z1, z2 = draws(3, 4), draws(3, 4)
  grad = jax.grad(lambda z: simclr.nt_xent(z, z2, temperature=0.5)[0])(z1)
  step = 1e-6
  for index in [(0, 0), (1, 2), (2, 3)]:
    up, down = z1.astype(np.float64), z1.astype(np.float64)
    up[index] += step
    down[index] -= step
    slope = nt_xent_twin(up, z2, 0.5) - nt_xent_twin(down, z2, 0.5)
    np.testing.assert_allclose(grad[index], slope / (2 * step), rtol=1e-3)


def test_queue_is_overwritten_in_order_and_wraps(draws):
  method = methods.build(name="mocov2", queue_size=6)
  memory = method.init_memory(jax.random.key(0), 4)
  np.testing.assert_allclose(
    np.linalg.norm(memory["queue"], axis=1), 1, rtol=1e-6
  )
  start = np.asarray(memory["queue"])
  written = []
  for step in range(4):
    keys, queries = draws(2, 4), draws(2, 4)
    written.append(unit(keys))
    memory = method.update_memory(
      memory, Branch(projections=(queries,)), Branch(projections=(keys,))
    )
    assert memory["pointer"] == (2 * step + 2) % 6
    if step == 0:
      np.testing.assert_allclose(memory["queue"][2:], start[2:])
  expected = np.concatenate([written[3], written[1], written[2]])
  np.testing.assert_allclose(memory["queue"], expected, rtol=1e-5)


def test_queue_source_query_enqueues_the_queries(draws):
  method = methods.build(name="mocov2", queue_size=2, queue_source="query")
  keys, queries = draws(2, 4), draws(2, 4)
  memory = method.update_memory(
    method.init_memory(jax.random.key(0), 4),
    Branch(projections=(queries,)),
    Branch(projections=(keys,)),
  )
  np.testing.assert_allclose(memory["queue"], unit(queries), rtol=1e-5)


def test_errors_name_the_value_and_the_valid_ones():
  with pytest.raises(UserError, match="'simclrr'.*'simclr'.*mocov3"):
    methods.build(name="simclrr")
  with pytest.raises(UserError, match="queue_size=100 .*batch_size=32.*=96"):
    methods.build(name="mocov2", queue_size=100).check(32)
  with pytest.raises(UserError, match="'keys'.*Did you mean 'key'"):
    methods.build(name="mocov2", queue_source="keys")
  with pytest.raises(
    UserError, match="method.queue_size is not used by simclr"
  ):
    methods.build(name="simclr", queue_size=3)
  with pytest.raises(UserError, match="target_update"):
    methods.build(name="mocov3", target_update="never")


def test_effective_rank_by_hand():
  line = np.outer(np.arange(5.0), [1, 2, 3])
  np.testing.assert_allclose(monitor.effective_rank(line), 1, rtol=1e-5)
  cross = np.concatenate([np.eye(3), -np.eye(3)])
  np.testing.assert_allclose(monitor.effective_rank(cross), 3, rtol=1e-5)
  assert monitor.effective_rank(np.ones((4, 3))) == 0


def test_collapse_monitor_tells_collapsed_from_isotropic(draws):
  spread = monitor.collapse(draws(512, 16), "feature")
  np.testing.assert_allclose(spread["feature_std"], 1, atol=0.05)
  assert spread["feature_rank"] > 12
  collapsed = monitor.collapse(jnp.ones((8, 16)), "feature")
  assert collapsed["feature_std"] < 1e-3 and collapsed["feature_rank"] == 0
