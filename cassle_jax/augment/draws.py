"""From uniform numbers in [0, 1) to what an operation needs to know."""

import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

_ORDERS = np.asarray(list(itertools.permutations(range(4))), np.int32)


def of_name(key: jax.Array, name: str) -> jax.Array:
  """Returns a key of a name's own, whatever other names there are."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def happens(draw: jax.Array, probability: float) -> jax.Array:
  """Returns True with the given probability."""
  return draw < probability


def between(draw: jax.Array, low, high) -> jax.Array:
  """Maps to [low, high], uniform."""
  return low + (high - low) * draw


def integer(draw: jax.Array, count: jax.Array | int) -> jax.Array:
  """Maps to {0, ..., count - 1}, uniform; int32."""
  count = jnp.asarray(count, jnp.int32)
  value = jnp.floor(draw * count.astype(jnp.float32)).astype(jnp.int32)
  return jnp.minimum(value, count - 1)


def order_of_four(draw: jax.Array) -> jax.Array:
  """Maps to a permutation of 0..3, uniform; `[4]` int32."""
  return jnp.asarray(_ORDERS)[integer(draw, len(_ORDERS))]
