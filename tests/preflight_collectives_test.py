"""The collectives of HLO written by hand, and of losses on 8 devices."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax.hosts import sharding
from cassle_jax.methods import simclr
from cassle_jax.preflight import collectives, hlo
from cassle_jax.step import monitor

ROOT = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(ROOT, "collectives.hlo")) as stream:
  HLO = hlo.parse(stream.read())

PARAMETERS = {(3, 3, 64, 64), (4, 32), (64,)}


def test_every_collective_of_a_program():
  found = collectives.parse(HLO, 8)
  mean, gather, grads, scatter, started, permute = found
  assert (mean.kind, mean.bytes, mean.group) == ("all-reduce", 256, 4)
  # The loop of five turns; its own all-reduce names the line of source.
  assert mean.count == 5 and mean.source == "models/norm.py:122 _forward"
  # A frame outside the package is told by the one around it.
  assert gather.source == "methods/simclr.py:46 nt_xent"
  assert (gather.bytes, gather.group, gather.count) == (128 * 128 * 4, 8, 1)
  # Tiles of 8 x 128 round up what is held, not what is sent.
  assert [shape[:2] for shape in grads.shapes] == [
    ("f32", (3, 3, 64, 64)),
    ("f32", (64,)),
    ("bf16", (10,)),
  ]
  assert grads.bytes == 4 * (9 * 64 * 64 + 64) + 2 * 10
  # The payload of a reduce-scatter is what goes in, 4 times what comes out.
  assert (scatter.bytes, scatter.group) == (4 * 8 * 4 * 4, 4)
  # Of a started gather the second array is the result.
  assert (started.bytes, started.group) == (32 * 4 * 4, 4)
  assert (permute.kind, permute.bytes) == ("collective-permute", 20)


def test_bytes_on_the_wire_by_hand():
  mean, gather, _, scatter, _, permute = collectives.parse(HLO, 8)
  assert mean.sent == 5 * 2 * 3 / 4 * 256
  assert gather.sent == 7 / 8 * 65536
  assert scatter.sent == 3 / 4 * 512
  assert permute.sent == 20


@pytest.mark.parametrize(
  "line,size",
  [
    ("replica_groups={{0,1,2},{3,4,5}}, x", 3),
    ("replica_groups={}, x", 6),
    ("replica_groups=[2,3]<=[6], x", 3),
    ("replica_groups=[3,2]<=[2,3]T(1,0), x", 2),
    ("replica_groups=mesh['a'=2,'b'=3] {'b'}, x", 3),
    ("replica_groups=mesh['a'=2,'b'=3] {'a','b'}, x", 6),
    ("replica_groups=mesh['a'=2,'b'=3], device_ids=([3,2]T(1,0)) {'a'}, x", 2),
    ("replica_groups=mesh['a'=6] {'a':(2)3}, x", 3),
    ("source_target_pairs={{0,1}}, x", 2),
    ("source_target_pairs={{0,0},{1,1}}, x", 1),
    ("dimensions={0}", 6),
  ],
)
def test_groups_in_every_spelling(line, size):
  assert collectives.group_size(line, 6) == size


def test_causes():
  names = [
    collectives.causes(one, PARAMETERS) for one in collectives.parse(HLO, 8)
  ]
  assert names == [
    ["BatchNorm"],
    ["loss"],
    # Joined: a kernel's gradient, a norm's sums, something else of a norm.
    ["gradients", "BatchNorm", "BatchNorm"],
    ["other"],  # [8, 4] is not the size of a parameter or of its part.
    ["parameters"],
    ["other"],
  ]


def test_a_joined_collective_counts_where_most_of_it_belongs():
  found = [
    collectives.main_cause(one, PARAMETERS) for one in collectives.parse(HLO, 8)
  ]
  assert found[:3] == ["BatchNorm", "loss", "gradients"]


def compiled_on_devices(function, *arrays):
  """The collectives of a function of arrays that are split by rows."""
  mesh = sharding.make_mesh()
  split = sharding.batch_sharding(mesh)
  whole = sharding.replicated(mesh)
  arrays = [jax.device_put(array, split) for array in arrays]
  program = jax.jit(function, in_shardings=split, out_shardings=whole)
  program = program.lower(*arrays).compile()
  return collectives.parse(hlo.parse(program.as_text()), 8), program(*arrays)


def test_the_contrastive_loss_moves_projections_once_and_no_rows():
  rng = np.random.default_rng(0)
  z1, z2 = rng.normal(size=(2, 64, 16)).astype(np.float32)

  def loss(z1, z2):
    return simclr.nt_xent(z1, z2, temperature=0.2)[0]

  found, value = compiled_on_devices(loss, z1, z2)
  np.testing.assert_allclose(value, loss(z1, z2), rtol=1e-6)
  gathers = [one.bytes for one in found if one.kind == "all-gather"]
  assert gathers == [2 * 64 * 16 * 4]
  kinds = {one.kind for one in found}
  assert kinds <= {"all-gather", "all-reduce"}, found


def test_the_monitor_takes_rows_where_they_lie():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(512, 16)).astype(np.float32)

  def metrics(x):
    return monitor.collapse(x, "feature", rows=64)

  found, value = compiled_on_devices(metrics, x)
  for name, expected in metrics(jnp.asarray(x)).items():
    np.testing.assert_allclose(value[name], expected, rtol=1e-5)
  assert {one.kind for one in found} <= {"all-gather", "all-reduce"}, found
  assert max(one.bytes for one in found) <= 64 * 16 * 4
