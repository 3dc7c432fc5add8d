"""BatchNorm against a float64 twin, in groups, over devices and in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cassle_jax.errors import UserError
from cassle_jax.models import BatchNorm

SHAPE = (16, 3, 5, 4)


@pytest.fixture
def x():
  generator = np.random.default_rng(0)
  return (2 * generator.normal(size=SHAPE) + 3).astype(np.float32)


def variables(seed=1):
  draw = np.random.default_rng(seed).uniform(0.5, 1.5, (4, 4))
  scale, bias, mean, var = draw.astype(np.float32)
  return {
    "params": {"scale": scale, "bias": bias},
    "batch_stats": {"mean": mean, "var": var},
  }


def twin(x, tree, groups=1):
  """Output and new running statistics in float64."""
  parts = np.split(x.astype(np.float64), groups)
  means = [part.mean((0, 1, 2)) for part in parts]
  variances = [part.var((0, 1, 2)) for part in parts]
  outputs = [
    (part - m) / np.sqrt(v + 1e-5) * tree["params"]["scale"]
    + tree["params"]["bias"]
    for part, m, v in zip(parts, means, variances, strict=True)
  ]
  count = parts[0][..., 0].size
  old = tree["batch_stats"]
  mean = 0.9 * old["mean"] + 0.1 * np.mean(means, 0)
  unbiased = np.mean(variances, 0) * count / (count - 1)
  var = 0.9 * old["var"] + 0.1 * unbiased
  return np.concatenate(outputs), mean, var


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_training_equals_the_float64_twin(x, groups):
  tree = variables()
  norm = BatchNorm(groups=groups)
  y, new = norm.apply(tree, x, train=True, mutable=["batch_stats"])
  expected, mean, var = twin(x, tree, groups)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(new["batch_stats"]["mean"], mean, rtol=1e-6)
  np.testing.assert_allclose(new["batch_stats"]["var"], var, rtol=1e-6)


def test_evaluation_uses_the_running_statistics_and_keeps_them(x):
  tree = variables()
  y, new = BatchNorm().apply(tree, x, train=False, mutable=["batch_stats"])
  old = tree["batch_stats"]
  expected = (x - old["mean"]) / np.sqrt(old["var"] + 1e-5)
  expected = expected * tree["params"]["scale"] + tree["params"]["bias"]
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], old)


@pytest.mark.parametrize("groups", [1, 4])
def test_written_gradient_equals_the_derived_one(x, groups):
  tree = variables()
  weights = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)

  def loss(params, x):
    y, _ = BatchNorm(groups=groups).apply(
      {**tree, "params": params}, x, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(jnp.sin(y) * weights)

  def plain_loss(params, x):
    parts = x.reshape(groups, -1, 4)
    mean = jnp.mean(parts, axis=1, keepdims=True)
    var = jnp.mean((parts - mean) ** 2, axis=1, keepdims=True)
    y = (parts - mean) / jnp.sqrt(var + 1e-5)
    y = y * params["scale"][None, None] + params["bias"][None, None]
    return jnp.sum(jnp.sin(y.reshape(SHAPE)) * weights)

  found = jax.jit(jax.grad(loss, (0, 1)))(tree["params"], x)
  expected = jax.jit(jax.grad(plain_loss, (0, 1)))(tree["params"], x)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    found,
    expected,
  )


def test_groups_of_equal_content_change_nothing(x):
  tree = variables()
  doubled = np.concatenate([x, x])
  kept = {"mutable": ["batch_stats"], "train": True}
  one, _ = BatchNorm().apply(tree, doubled, **kept)
  two, _ = BatchNorm(groups=2).apply(tree, doubled, **kept)
  np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
  other, _ = BatchNorm(groups=4).apply(tree, doubled, **kept)
  assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize("groups", [1, 2])
def test_eight_devices_equal_one(x, groups):
  tree = variables()
  weights = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)

  @jax.jit
  def run(x):
    def loss(x):
      y, new = BatchNorm(groups=groups).apply(
        tree, x, train=True, mutable=["batch_stats"]
      )
      return jnp.sum(y * weights), (y, new)

    return jax.grad(loss, has_aux=True)(x)

  mesh = Mesh(np.array(jax.devices()), ("data",))
  split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
  assert len(split.sharding.device_set) == 8
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    run(split),
    run(jnp.asarray(x)),
  )


def test_bfloat16_has_float32_statistics():
  # The mean of 4096 ones in bfloat16 sums would stop at 256.
  x = jnp.concatenate([jnp.ones((2048, 1)), 3 * jnp.ones((2048, 1))])
  norm = BatchNorm(affine=False, momentum=0.0)
  tree = norm.init(jax.random.key(0), x, train=True)
  y, new = norm.apply(
    tree, x.astype(jnp.bfloat16), train=True, mutable=["batch_stats"]
  )
  assert y.dtype == jnp.bfloat16
  assert new["batch_stats"]["mean"].dtype == jnp.float32
  np.testing.assert_allclose(new["batch_stats"]["mean"], [2.0])
  np.testing.assert_allclose(new["batch_stats"]["var"], [4096 / 4095])


def test_variance_survives_a_large_mean():
  x = 4000 + np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32)
  y, _ = BatchNorm(affine=False).apply(
    {"batch_stats": {"mean": jnp.zeros(1), "var": jnp.ones(1)}},
    x,
    train=True,
    mutable=["batch_stats"],
  )
  expected = (x - x.mean(dtype=np.float64)) / x.std(dtype=np.float64)
  np.testing.assert_allclose(y, expected, atol=1e-3)


def test_initialisation_does_not_count_as_a_step():
  tree = BatchNorm(zero_scale=True).init(
    jax.random.key(0), jnp.full((1, 4), 7.0), train=True
  )
  np.testing.assert_array_equal(tree["batch_stats"]["mean"], np.zeros(4))
  np.testing.assert_array_equal(tree["params"]["scale"], np.zeros(4))
  plain = BatchNorm(affine=False)
  assert "params" not in plain.init(
    jax.random.key(0), jnp.ones((2, 4)), train=True
  )


@pytest.mark.parametrize("groups, batch", [(3, 16), (0, 16), (4, 4)])
def test_impossible_groups_are_user_errors(groups, batch):
  norm = BatchNorm(groups=groups)
  x = jnp.ones((batch, 4))
  with pytest.raises(UserError, match="group"):
    jax.eval_shape(
      lambda x: norm.apply(variables(), x, train=True, mutable=["batch_stats"]),
      x,
    )
  norm.apply(variables(), x, train=False)
