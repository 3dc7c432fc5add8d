"""Fingerprints: one number whatever the sharding, another for any change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cassle_jax.hosts import sharding
from cassle_jax.runs.fingerprint import fingerprint


def twin(array):
  """The same sum in numpy, over the flat array."""

  def mix(h):
    h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)

  unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32}[array.itemsize]
  bits = np.ravel(array).view(unsigned).tolist()
  return (
    sum(mix(b ^ (1 + i * 0x9E3779B1) % 2**32) for i, b in enumerate(bits))
    % 2**32
  )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_it_is_the_sum_that_numpy_makes(dtype):
  values = np.random.default_rng(0).integers(0, 200, size=(3, 4, 5))
  array = jnp.asarray(values, dtype)
  assert fingerprint({"a": {"b": array}}) == {"a/b": twin(np.asarray(array))}


def test_scalars_booleans_and_empty_arrays():
  found = fingerprint(
    {"s": jnp.int32(7), "t": jnp.asarray([True, False]), "e": jnp.zeros((0, 3))}
  )
  assert found["e"] == 0
  assert found["s"] == twin(np.int32(7))
  assert found["t"] == twin(np.asarray([1, 0], np.uint32))


def test_every_change_shows():
  x = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
  mark = fingerprint([x])["0"]
  bits = x.view(np.uint32)
  for bit in (0, 15, 31):
    changed = bits.copy()
    changed[3, 5] ^= np.uint32(1 << bit)
    assert fingerprint([changed.view(np.float32)])["0"] != mark
  swapped = x.copy()
  swapped[0, 0], swapped[5, 7] = x[5, 7], x[0, 0]
  assert fingerprint([swapped])["0"] != mark
  assert fingerprint([x.copy()])["0"] == mark


def test_signed_zeros_and_nans_have_bits_of_their_own():
  marks = [
    fingerprint([np.float32(value)])["0"] for value in (0.0, -0.0, np.nan)
  ]
  assert len(set(marks)) == 3
  assert fingerprint([np.float32(np.nan)])["0"] == marks[2]


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_it_does_not_depend_on_the_sharding(fsdp):
  x = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
  mesh = sharding.make_mesh(fsdp=fsdp)
  for spec in (
    PartitionSpec(),
    PartitionSpec("data"),
    PartitionSpec("fsdp"),
    PartitionSpec(None, "fsdp"),
  ):
    placed = jax.device_put(x, NamedSharding(mesh, spec))
    assert fingerprint([placed])["0"] == twin(x)
