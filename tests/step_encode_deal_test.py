"""How a batch is dealt out to BatchNorm groups, and what devices exchange."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax.hosts import sharding
from cassle_jax.preflight import collectives, hlo
from cassle_jax.step import encode


def test_rows_are_dealt_as_cards_and_collected():
  rows = jnp.arange(12)
  dealt = encode.deal(rows, 3)
  np.testing.assert_array_equal(dealt, [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11])
  np.testing.assert_array_equal(encode.collect(dealt, 3), rows)
  assert encode.deal(rows, 1) is rows and encode.collect(rows, 1) is rows


@pytest.mark.parametrize("batch,groups", [(64, 8), (64, 4), (48, 4), (16, 8)])
def test_groups_of_keys_are_spread_over_the_groups_of_queries(batch, groups):
  x = jnp.arange(batch * 2).reshape(batch, 2)
  dealt = encode.deal(x, groups)
  np.testing.assert_array_equal(encode.collect(dealt, groups), x)
  size = batch // groups
  of_queries = np.asarray(dealt[:, 0]) // 2 // size
  for group in of_queries.reshape(groups, size):
    counts = np.bincount(group, minlength=groups)
    assert counts.max() - counts.min() <= 1


def test_devices_exchange_their_own_rows_and_no_more():
  mesh = sharding.make_mesh()
  rows = sharding.batch_sharding(mesh)
  images = np.random.default_rng(0).normal(size=(64, 6, 6, 3))
  images = jax.device_put(jnp.asarray(images, jnp.float32), rows)
  groups = 8

  def normalise(x, rows=None):
    x = encode.deal(x, groups, rows)
    parts = x.reshape(groups, -1, *x.shape[1:])
    parts -= jnp.mean(parts, axis=(1, 2, 3), keepdims=True)
    return encode.collect(parts.reshape(x.shape), groups, rows)

  program = jax.jit(lambda x: normalise(x, rows), out_shardings=rows)
  program = program.lower(images).compile()
  alone = normalise(jax.device_put(images, jax.devices()[0]))
  np.testing.assert_allclose(program(images), alone, atol=1e-6)
  # By hand: row b is normalised with those of the same remainder.
  together = np.asarray(images)[3::groups]
  expected = together - together.mean((0, 1, 2), keepdims=True)
  np.testing.assert_allclose(alone[3::groups], expected, atol=1e-6)
  own = images.nbytes // 8
  found = collectives.parse(hlo.parse(program.as_text()), 8)
  assert found and all(one.bytes <= own for one in found), found
