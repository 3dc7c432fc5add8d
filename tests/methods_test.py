"""Losses against float64 numpy twins and cases computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import methods
from cassle_jax.errors import UserError
from cassle_jax.methods import (
  Branch,
  barlow_twins,
  byol,
  contrast,
  mocov2,
  mocov3,
  nnclr,
  simclr,
  simsiam,
  vicreg,
)
from cassle_jax.step import monitor

KEY = jax.random.key(0)


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


def cosine_twin(a, b):
  """Mean cosine of rows, in float64."""
  return np.mean(
    np.sum(unit(a.astype(np.float64)) * unit(b.astype(np.float64)), axis=1)
  )


def barlow_twin(z1, z2, weight):
  z1, z2 = z1.astype(np.float64), z2.astype(np.float64)
  total = 0.0
  for i in range(z1.shape[1]):
    for j in range(z2.shape[1]):
      c = np.mean(z1[:, i] * z2[:, j])
      total += (1 - c) ** 2 if i == j else weight * c**2
  return total


def vicreg_twin(z1, z2, weights=(25, 25, 1)):
  z1, z2 = z1.astype(np.float64), z2.astype(np.float64)
  hinges, covariances = [], []
  for z in (z1, z2):
    matrix = np.cov(z, rowvar=False)
    hinge = np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4))
    hinges.append(hinge.mean())
    beside = matrix[~np.eye(len(matrix), dtype=bool)]
    covariances.append((beside**2).sum() / len(matrix))
  terms = ((z1 - z2) ** 2).mean(), np.mean(hinges), np.sum(covariances)
  return np.dot(weights, terms)


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
    KEY, Branch(predictions=(q1, q2)), Branch(projections=(k1, k2)), {}
  )
  expected = pairs_twin(q1, k2, 0.3) + pairs_twin(q2, k1, 0.3)
  np.testing.assert_allclose(loss, expected, rtol=2e-6)


def nnclr_twin(z, p, queue, temperature):
  """Row by row: find the neighbour, then contrast it with all predictions."""
  p, losses = unit(p.astype(np.float64)), []
  for i, row in enumerate(unit(z.astype(np.float64))):
    cosines = [row @ other for other in queue.astype(np.float64)]
    neighbour = queue[int(np.argmax(cosines))].astype(np.float64)
    scores = np.exp([neighbour @ other / temperature for other in p])
    losses.append(-np.log(scores[i] / scores.sum()))
  return np.mean(losses)


def test_nnclr_equals_its_float64_twin_and_crosses_the_views(draws):
  z1, z2, p1, p2 = (draws(6, 5) for _ in range(4))
  queue = unit(draws(40, 5))
  method = methods.build(name="nnclr")
  loss, metrics = method.loss(
    KEY,
    Branch(projections=(z1, z2), predictions=(p1, p2)),
    Branch(),
    {"queue": queue},
  )
  one, two = nnclr_twin(z1, p2, queue, 0.1), nnclr_twin(z2, p1, queue, 0.1)
  np.testing.assert_allclose(loss, (one + two) / 2, rtol=5e-6)
  best = [np.max(unit(z) @ queue.T, axis=1) for z in (z1, z2)]
  np.testing.assert_allclose(
    metrics["neighbour_cosine"], np.mean(best), rtol=1e-5
  )


def test_nnclr_by_hand():
  """Neighbours of two pictures on the axes, predictions of the other view.

  View 1 lies near +x and +y, view 2 near -x and -y. Both views' predictions
  are the axes, so view 1's neighbours meet their own at 1 and the other at 0,
  view 2's their own at -1 and the other at 0.
  """
  queue = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
  z1 = jnp.array([[5.0, 1.0], [1.0, 2.0]])
  loss, metrics = methods.build(name="nnclr", temperature=1.0).loss(
    KEY,
    Branch(projections=(z1, -z1), predictions=(2 * jnp.eye(2),) * 2),
    Branch(),
    {"queue": queue},
  )
  terms = np.log1p(np.exp(-1)), np.log1p(np.exp(1))
  np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-6)
  assert metrics["contrast_accuracy"] == 0.5
  found, cosines = nnclr.nearest(z1, queue)
  np.testing.assert_array_equal(found, queue[:2])
  np.testing.assert_allclose(cosines, [5 / 26**0.5, 2 / 5**0.5], rtol=1e-6)


def test_nnclr_trains_through_the_predictions_and_keeps_view_1(draws):
  z1, z2, p1, p2 = (draws(2, 4) for _ in range(4))
  method = methods.build(name="nnclr", queue_size=6)
  memory = method.init_memory(KEY, methods.Widths(4))

  def loss(predictions, projections):
    online = Branch(projections=projections, predictions=predictions)
    return method.loss(KEY, online, Branch(), memory)[0]

  moving, still = jax.grad(loss, argnums=(0, 1))((p1, p2), (z1, z2))
  assert all(np.all(g != 0) for g in moving)
  assert not np.any(still)
  new = method.update_memory(memory, Branch(projections=(z1, z2)), Branch())
  np.testing.assert_allclose(new["queue"][:2], unit(z1), rtol=1e-5)
  np.testing.assert_array_equal(new["queue"][2:], memory["queue"][2:])
  assert new["pointer"] == 2
  with pytest.raises(UserError, match="queue_size=6 .*batch_size=4.*=4"):
    method.check(4)


def test_byol_equals_its_float64_twin_and_crosses_the_views(draws):
  p1, p2, z1, z2 = (draws(6, 5) for _ in range(4))
  method = methods.build(name="byol")
  loss, metrics = method.loss(
    KEY, Branch(predictions=(p1, p2)), Branch(projections=(z1, z2)), {}
  )
  cosines = cosine_twin(p1, z2), cosine_twin(p2, z1)
  np.testing.assert_allclose(loss, 4 - 2 * np.sum(cosines), rtol=2e-6)
  np.testing.assert_allclose(metrics["cosine"], np.mean(cosines), rtol=1e-5)


def test_byol_regression_by_hand():
  """One row parallel (0), one orthogonal (2): 1; lengths do not matter."""
  p = jnp.array([[3.0, 0.0], [1.0, 0.0]])
  z = jnp.array([[0.5, 0.0], [0.0, 2.0]])
  np.testing.assert_allclose(byol.regression(p, z), 1, rtol=1e-6)
  np.testing.assert_allclose(byol.regression(p, -p), 4, rtol=1e-6)


def test_byol_heads():
  heads = methods.build(name="byol").heads
  assert heads.projector == heads.predictor == (4096, 256)
  assert heads.projector_bias is heads.predictor_bias is False
  assert heads.projector_norm == heads.predictor_norm == "none"


def test_simsiam_equals_its_float64_twin_and_crosses_the_views(draws):
  p1, p2, z1, z2 = (draws(6, 5) for _ in range(4))
  method = methods.build(name="simsiam")
  assert method.target_views == ()
  loss, _ = method.loss(
    KEY, Branch(predictions=(p1, p2), projections=(z1, z2)), Branch(), {}
  )
  expected = -(cosine_twin(p1, z2) + cosine_twin(p2, z1)) / 2
  np.testing.assert_allclose(loss, expected, rtol=5e-6)


def test_simsiam_cosine_by_hand():
  p = jnp.array([[3.0, 0.0], [1.0, 0.0]])
  z = jnp.array([[0.5, 0.0], [0.0, 2.0]])
  np.testing.assert_allclose(simsiam.cosine(p, z), 0.5, rtol=1e-6)


def test_simsiam_holds_the_projections_still(draws):
  p1, p2, z1, z2 = (draws(3, 4) for _ in range(4))

  def loss(predictions, projections):
    online = Branch(predictions=predictions, projections=projections)
    return simsiam.loss(KEY, online, Branch(), {})[0]

  moving, still = jax.grad(loss, argnums=(0, 1))((p1, p2), (z1, z2))
  assert all(np.all(g != 0) for g in moving)
  assert not np.any(still)


def test_barlow_twins_equals_its_float64_twin(draws):
  z1, z2 = draws(6, 5), draws(6, 5)
  method = methods.build(name="barlow_twins", redundancy_weight=0.3)
  loss, _ = method.loss(KEY, Branch(projections=(z1, z2)), Branch(), {})
  np.testing.assert_allclose(loss, barlow_twin(z1, z2, 0.3), rtol=5e-6)
  loss, _ = methods.build(name="barlow_twins").loss(
    KEY, Branch(projections=(z1, z2)), Branch(), {}
  )
  np.testing.assert_allclose(loss, barlow_twin(z1, z2, 0.0051), rtol=5e-6)


def test_barlow_twins_by_hand():
  """Two coordinates that are one: C is all ones, so only the rest costs."""
  z = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
  np.testing.assert_allclose(barlow_twins.correlation_terms(z, z), (0, 2))
  # The second view's coordinates swap signs: C = [[1, -1], [1, -1]].
  flipped = z * jnp.array([[1.0, -1.0]])
  np.testing.assert_allclose(barlow_twins.correlation_terms(z, flipped), (4, 2))
  # Uncorrelated and equal over four rows: nothing is left.
  square = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
  np.testing.assert_allclose(
    barlow_twins.correlation_terms(square, square), (0, 0)
  )


def test_vicreg_equals_its_float64_twin(draws):
  z1, z2 = 0.7 * draws(6, 5) + 3, draws(6, 5)
  method = methods.build(name="vicreg")
  loss, metrics = method.loss(KEY, Branch(projections=(z1, z2)), Branch(), {})
  np.testing.assert_allclose(loss, vicreg_twin(z1, z2), rtol=5e-6)
  assert all(value > 0 for value in metrics.values())
  method = methods.build(
    name="vicreg",
    invariance_weight=1.0,
    variance_weight=2.0,
    covariance_weight=3.0,
  )
  loss, _ = method.loss(KEY, Branch(projections=(z1, z2)), Branch(), {})
  np.testing.assert_allclose(loss, vicreg_twin(z1, z2, (1, 2, 3)), rtol=5e-6)


def test_vicreg_by_hand():
  """Two rows at +-1/2 in both coordinates, and a view of constants.

  The first view's covariance is all 1/2, the second's all 0.
  """
  z1 = jnp.array([[0.5, 0.5], [-0.5, -0.5]])
  z2 = jnp.zeros((2, 2))
  invariance, variance, covariance = vicreg.terms(z1, z2)
  np.testing.assert_allclose(invariance, 0.25, rtol=1e-6)
  hinges = 1 - np.sqrt(0.5 + 1e-4), 1 - np.sqrt(1e-4)
  np.testing.assert_allclose(variance, np.mean(hinges), rtol=1e-6)
  np.testing.assert_allclose(covariance, (2 * 0.25) / 2, rtol=1e-6)


def test_vicreg_gradient_survives_a_collapsed_view():
  z = jnp.ones((4, 3))
  grad = jax.grad(lambda x: sum(vicreg.terms(x, z)))(z)
  assert np.isfinite(grad).all()


def test_losses_are_float32_whatever_the_input(draws):
  z = jnp.asarray(draws(4, 8), jnp.bfloat16)
  for value in (
    simclr.nt_xent(z, z, temperature=0.2)[0],
    mocov2.info_nce(z, z, jnp.eye(8), temperature=0.2)[0],
    mocov3.contrast_pairs(z, z, temperature=0.2)[0],
    methods.build(name="nnclr").loss(
      KEY,
      Branch(projections=(z, z), predictions=(z, z)),
      Branch(),
      {"queue": jnp.eye(8)},
    )[0],
    byol.regression(z, z),
    simsiam.cosine(z, z),
    *barlow_twins.correlation_terms(z, z),
    *vicreg.terms(z, z),
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


@pytest.mark.parametrize(
  "name, twin",
  [
    ("barlow_twins", lambda a, b: barlow_twin(a, b, 0.0051)),
    ("vicreg", vicreg_twin),
  ],
)
def test_gradients_of_both_views_match_finite_differences(draws, name, twin):
  views = 0.5 * draws(4, 3), draws(4, 3)
  method = methods.build(name=name)
  grads = jax.grad(
    lambda views: method.loss(KEY, Branch(projections=views), Branch(), {})[0]
  )(views)
  step = 1e-6
  for view, index in [(0, (0, 0)), (0, (3, 2)), (1, (1, 1)), (1, (2, 0))]:
    up = [z.astype(np.float64) for z in views]
    down = [z.astype(np.float64) for z in views]
    up[view][index] += step
    down[view][index] -= step
    slope = (twin(*up) - twin(*down)) / (2 * step)
    np.testing.assert_allclose(grads[view][index], slope, rtol=1e-3)


def test_queue_is_overwritten_in_order_and_wraps(draws):
  method = methods.build(name="mocov2", queue_size=6)
  memory = method.init_memory(jax.random.key(0), methods.Widths(4))
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
    method.init_memory(jax.random.key(0), methods.Widths(4)),
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
  with pytest.raises(UserError, match="method.momentum is not used by simsiam"):
    methods.build(name="simsiam", momentum=0.9)
  with pytest.raises(UserError, match="target_update"):
    methods.build(name="mocov2", target_update="never")


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


@pytest.mark.parametrize(
  "name", [x for x in methods.METHODS if methods.build(name=x).contrastive]
)
def test_candidates_are_what_the_accuracy_counts(draws, name):
  """SimCLR's 2B - 1 were taken for B, and a run that learned for chance."""
  options = {"queue_size": 6} if name in ("mocov2", "nnclr") else {}
  method = methods.build(name=name, **options)
  counted = set()

  def criterion(similarities, labels, temperature):
    counted.update(np.sum(similarities > -np.inf, axis=1).tolist())
    return contrast.softmax_loss(similarities, labels, temperature)

  branch = Branch(
    projections=(draws(3, 4), draws(3, 4)),
    predictions=(draws(3, 4), draws(3, 4)),
  )
  memory = {"queue": unit(draws(6, 4))}
  method.loss(KEY, branch, branch, memory, criterion=criterion)
  assert counted == {method.contrastive.candidates(3)}
