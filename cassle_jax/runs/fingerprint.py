"""Fingerprints of arrays: 32 bits that change when any bit of one changes.

They are computed where the array lives, and do not depend on how it is
sharded: a training state has one set of fingerprints on 8 devices or on 1.
"""

from typing import Any

import jax
import jax.numpy as jnp


def fingerprint(tree: Any) -> dict[str, int]:
  """Path -> a 32-bit fingerprint of each array's bits.

  Every element's bits are mixed with its position and the results added modulo
  2^32, so that NaNs need not equal themselves.

  Args:
    tree: arrays of 8, 16 or 32 bits an element, or booleans.
  """
  leaves, _ = flatten(tree)
  # One program per shape, not one for the tree: hundreds of leaves share a
  # few shapes, and compiling all of them at once takes several times longer.
  marks = {path: _fingerprint(one_copy(x)) for path, x in leaves.items()}
  return {path: int(mark) for path, mark in jax.device_get(marks).items()}


def flatten(tree: Any) -> tuple[dict[str, Any], Any]:
  """Returns path -> leaf, and the tree's structure."""
  pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    if hasattr(leaf, "dtype")
    else jnp.asarray(leaf)
    for path, leaf in pairs
  }
  if len(leaves) != len(pairs):
    raise ValueError("two leaves of the state have the same path")
  return leaves, treedef


def one_copy(leaf: Any) -> Any:
  """The copy of a replicated array on the first device of a lone process.

  Of an array on several devices Orbax saves a slice from each, and compiles a
  program for every shape to cut them; here that took longer than the saving.
  """
  many = isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1
  if many and leaf.is_fully_replicated and jax.process_count() == 1:
    return leaf.addressable_data(0)
  return leaf


@jax.jit
def _fingerprint(array: jax.Array) -> jax.Array:
  # The flat position times an odd number: distinct for distinct positions.
  factor = 0x9E3779B1
  mark = jnp.full(array.shape, 1, jnp.uint32)
  for axis in reversed(range(array.ndim)):
    along = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    mark += along * jnp.uint32(factor)
    factor = factor * array.shape[axis] % 2**32
  return jnp.sum(_mix(_bits(array) ^ mark), dtype=jnp.uint32)


def _bits(array: jax.Array) -> jax.Array:
  if array.dtype == jnp.bool_:
    return array.astype(jnp.uint32)
  size = array.dtype.itemsize
  if size not in (1, 2, 4):
    raise TypeError(f"no fingerprint for arrays of type {array.dtype}")
  unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[size]
  return jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)


def _mix(h: jax.Array) -> jax.Array:
  """The finaliser of MurmurHash3: every input bit reaches every output bit."""
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)
