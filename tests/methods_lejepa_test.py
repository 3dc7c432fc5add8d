"""LeJEPA against its float64 numpy twin, by hand, and over many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cassle_jax import methods
from cassle_jax.errors import UserError
from cassle_jax.methods import Branch, contrast, lejepa

KEY = jax.random.key(5)


def sigreg_twin(z, directions, knots=17):
  """Direction by direction and knot by knot, in float64."""
  step, total = 3 / (knots - 1), 0.0
  for direction in np.float64(directions):
    x = np.float64(z) @ direction
    for index in range(knots):
      t = index * step
      weight = (1 if index in (0, knots - 1) else 2) * step * np.exp(-t * t / 2)
      real = np.mean(np.cos(t * x)) - np.exp(-t * t / 2)
      total += weight * (real**2 + np.mean(np.sin(t * x)) ** 2)
  return len(z) * total / len(directions)


def invariance_twin(views, global_views):
  views = np.float64(views)
  center = sum(views[:global_views]) / global_views
  return np.mean([(center - view) ** 2 for view in views])


def directions_of(key, count, width):
  """The directions that a step draws, as the loss documents them."""
  return contrast.normalize(jax.random.normal(key, (count, width)))


@pytest.fixture
def draws():
  generator = np.random.default_rng(3)
  return lambda *shape: generator.normal(size=shape).astype(np.float32)


def loss_of(views, key=KEY, **options):
  method = methods.build(name="lejepa", **options)
  return method.loss(key, Branch(projections=tuple(views)), Branch(), {})


@pytest.mark.parametrize("knots", [2, 17])
def test_sigreg_equals_its_float64_twin(draws, knots):
  z, directions = 2 * draws(6, 5) + 1, directions_of(KEY, 7, 5)
  found = lejepa.sigreg(z, directions, knots=knots)
  expected = sigreg_twin(z, directions, knots)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sigreg_by_hand():
  """Knots at 0 and 3, one direction.

  All rows at 0: cosines of 1 against exp(-4.5), no sines. One row at pi / 6: a
  cosine of 0 and a sine of 1 at t = 3.
  """
  normal, direction = np.exp(-4.5), jnp.array([[1.0, 0.0]])
  found = lejepa.sigreg(jnp.zeros((4, 2)), direction, knots=2)
  np.testing.assert_allclose(
    found, 4 * 3 * normal * (1 - normal) ** 2, rtol=1e-5
  )
  row = jnp.array([[np.pi / 6, 7.0]])
  found = lejepa.sigreg(row, direction, knots=2)
  np.testing.assert_allclose(found, 3 * normal * (normal**2 + 1), rtol=1e-5)


def test_sigreg_is_least_for_a_standard_normal(draws):
  z, directions = draws(512, 4), directions_of(KEY, 64, 4)

  def value(z):
    return float(lejepa.sigreg(z, directions, knots=17))

  normal = value(z)
  # Of N draws the statistic is of order 1, whatever N; collapse grows with N.
  assert normal < 3
  for other in (0 * z, 0.5 * z, 2 * z, z + 1, np.sign(z), z[:, [0, 0, 0, 0]]):
    assert value(other) > 5 * normal


@pytest.mark.parametrize("global_views, count", [(2, 2), (2, 4), (4, 4)])
def test_loss_equals_its_float64_twin(draws, global_views, count):
  views = [draws(6, 5) for _ in range(count)]
  loss, metrics = loss_of(
    views, sigreg_weight=0.3, directions=9, global_views=global_views
  )
  directions = directions_of(KEY, 9, 5)
  spread = np.mean([sigreg_twin(view, directions) for view in views])
  invariance = invariance_twin(views, global_views)
  np.testing.assert_allclose(metrics["sigreg"], spread, rtol=1e-5)
  np.testing.assert_allclose(metrics["invariance"], invariance, rtol=1e-5)
  np.testing.assert_allclose(loss, 0.7 * invariance + 0.3 * spread, rtol=1e-5)


def test_loss_by_hand():
  """Two views at +-1: each is 1 from the centre; with all weight on that."""
  ones = jnp.ones((3, 2))
  loss, metrics = loss_of((ones, -ones), sigreg_weight=0.0)
  np.testing.assert_allclose(loss, 1, rtol=1e-6)
  # A third view, of weight nowhere in the centre, at 2.
  loss, _ = loss_of((ones, -ones, 2 * ones), sigreg_weight=0.0)
  np.testing.assert_allclose(loss, (1 + 1 + 4) / 3, rtol=1e-6)
  # One number a row: +-1 are the only directions, the sine's sign is squared.
  z = jnp.array([[0.5], [-2.0]])
  loss, _ = loss_of((z, z), sigreg_weight=1.0, directions=3)
  np.testing.assert_allclose(loss, sigreg_twin(z, [[1.0]]), rtol=1e-5)


def test_directions_are_a_function_of_the_key(draws):
  views = draws(2, 8, 6)
  first, again = (loss_of(views, directions=4)[0] for _ in range(2))
  other = loss_of(views, jax.random.key(6), directions=4)[0]
  assert first == again and first != other


def test_gradients_of_all_views_match_finite_differences(draws):
  views = draws(3, 4, 3)
  directions, step = directions_of(KEY, 8, 3), 1e-6
  grads = jax.grad(
    lambda views: loss_of(views, directions=8, sigreg_weight=0.4)[0]
  )(views)

  def twin(views):
    spread = np.mean([sigreg_twin(view, directions) for view in views])
    return 0.6 * invariance_twin(views, 2) + 0.4 * spread

  for index in [(0, 0, 0), (1, 3, 2), (2, 1, 1)]:
    up, down = views.astype(np.float64), views.astype(np.float64)
    up[index] += step
    down[index] -= step
    slope = (twin(up) - twin(down)) / (2 * step)
    np.testing.assert_allclose(grads[index], slope, rtol=1e-3, atol=1e-5)


def test_the_statistic_is_that_of_the_global_batch(draws):
  """A batch spread over 8 devices gives the loss and gradients of one."""
  views = draws(3, 16, 6)
  run = jax.jit(jax.value_and_grad(lambda views: loss_of(views)[0]))
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  one = run(views)
  spread = NamedSharding(mesh, PartitionSpec(None, "data"))
  many = run(jax.device_put(views, spread))
  for a, b in zip(one, many, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_float32_whatever_the_input(draws):
  views = jnp.asarray(draws(2, 8, 6), jnp.bfloat16)
  loss, metrics = loss_of(views)
  for value in (loss, *metrics.values()):
    assert value.dtype == jnp.float32 and np.isfinite(value)


def test_the_method_takes_all_views_and_has_no_target():
  method = methods.build(name="lejepa")
  assert method.online_views is None and method.joint_views
  assert method.target_views == () and method.global_views == 2
  assert method.heads.projector == (2048, 2048, 128)
  assert method.heads.projector_norm == "none" and not method.heads.predictor


@pytest.mark.parametrize(
  "options, words",
  [
    ({"sigreg_weight": 1.5}, "sigreg_weight=1.5 must be between 0 and 1"),
    ({"knots": 1}, "knots=1 must be at least 2"),
    ({"directions": 0}, "directions=0 must be at least 1"),
    ({"temperature": 1.0}, "method.temperature is not used by lejepa"),
  ],
)
def test_options_that_make_no_sense_are_refused(options, words):
  with pytest.raises(UserError, match=words):
    methods.build(name="lejepa", **options)
