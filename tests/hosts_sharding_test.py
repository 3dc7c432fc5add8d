"""Meshes of the 8 fake devices, and where leaves land on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from cassle_jax import optim
from cassle_jax.errors import UserError
from cassle_jax.hosts import sharding


@pytest.mark.parametrize(
  "options, shape",
  [
    ({}, (8, 1)),
    ({"fsdp": 2}, (4, 2)),
    ({"data": 2, "fsdp": 4}, (2, 4)),
    ({"data": 1}, (1, 1)),
  ],
)
def test_mesh(options, shape):
  mesh = sharding.make_mesh(**options)
  assert tuple(mesh.shape.items()) == (("data", shape[0]), ("fsdp", shape[1]))
  assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)


def test_mesh_of_given_devices():
  devices = jax.devices()[4:6]
  assert set(sharding.make_mesh(devices=devices).devices.flat) == set(devices)


@pytest.mark.parametrize(
  "options, words",
  [
    ({"fsdp": 3}, "fsdp=3 does not divide the 8 devices; valid: 1 or 2"),
    ({"data": 16}, "needs 16 devices and there are 8"),
    ({"data": -1}, "data=-1 must be at least 0"),
    ({"fsdp": 0}, "fsdp=0 must be at least 1"),
  ],
)
def test_mesh_errors(options, words):
  with pytest.raises(UserError, match=words):
    sharding.make_mesh(**options)


def test_state_is_split_by_shape():
  mesh = sharding.make_mesh(fsdp=2)
  tree = {
    "wide": jax.ShapeDtypeStruct((3, 8, 6), jnp.float32),
    "square": jax.ShapeDtypeStruct((8, 8), jnp.float32),
    "odd": jax.ShapeDtypeStruct((7, 9, 3), jnp.float32),
    "small": jax.ShapeDtypeStruct((4,), jnp.float32),
    "scalar": jax.ShapeDtypeStruct((), jnp.int32),
    "memory": {"queue": jax.ShapeDtypeStruct((64, 8), jnp.float32)},
    "params": {"queue": jax.ShapeDtypeStruct((64, 8), jnp.float32)},
  }
  found = sharding.state_sharding(
    tree, mesh, min_size=16, whole=("memory/queue",)
  )
  specs = jax.tree.map(lambda s: s.spec, found)
  assert specs == {
    "wide": PartitionSpec(None, "fsdp"),
    "square": PartitionSpec(None, "fsdp"),
    "odd": PartitionSpec(),
    "small": PartitionSpec(),
    "scalar": PartitionSpec(),
    "memory": {"queue": PartitionSpec()},
    "params": {"queue": PartitionSpec("fsdp")},
  }


def test_without_fsdp_everything_is_whole():
  mesh = sharding.make_mesh()
  tree = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)}
  found = sharding.state_sharding(tree, mesh, min_size=1)
  assert found["w"].is_fully_replicated


def test_optimiser_state_is_split_like_its_parameters():
  mesh = sharding.make_mesh(fsdp=4)
  params = {"w": jnp.zeros((16, 32)), "b": jnp.zeros(32)}
  optimizer = optim.build(
    name="adamw", batch_size=8, steps_per_epoch=1, total_steps=1
  )
  shapes = jax.eval_shape(optimizer.init, params)
  found = sharding.state_sharding(shapes, mesh, min_size=64)
  parts = [s.spec for s in jax.tree.leaves(found)]
  assert parts.count(PartitionSpec(None, "fsdp")) == 2  # mu and nu of w
  state = jax.jit(optimizer.init, out_shardings=found)(params)
  kernels = [x for x in jax.tree.leaves(state) if x.shape == (16, 32)]
  assert all(x.addressable_shards[0].data.shape == (16, 8) for x in kernels)


def test_batch_is_split_over_both_axes():
  mesh = sharding.make_mesh(fsdp=2)
  rows = np.arange(16 * 3, dtype=np.uint8).reshape(16, 3)
  batch = sharding.put_batch({"image": rows, "index": np.arange(16)}, mesh)
  assert batch["image"].dtype == jnp.uint8
  np.testing.assert_array_equal(batch["image"], rows)
  shards = batch["image"].addressable_shards
  assert {s.device for s in shards} == set(jax.devices())
  assert all(s.data.shape == (2, 3) for s in shards)


def test_a_split_program_is_compiled_once_and_agrees():
  mesh = sharding.make_mesh(fsdp=2)
  shapes = {"w": jax.ShapeDtypeStruct((8, 16), jnp.float32)}
  placed = sharding.state_sharding(shapes, mesh, min_size=1)
  w = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
  x = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)

  def step(params, batch):
    z = batch @ params["w"]
    # Products of split arrays are what Explicit axes would refuse.
    return {"w": params["w"] * jnp.float32(0.5)}, jnp.sum((z @ z.T) ** 2)

  compiled = jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(placed, sharding.replicated(mesh)),
  )
  params = jax.device_put({"w": w}, placed)
  for power in range(3):
    params, loss = compiled(params, sharding.put_batch(x, mesh))
    z = x @ (w * 0.5**power)
    np.testing.assert_allclose(loss, np.sum((z @ z.T) ** 2), rtol=1e-5)
  assert compiled._cache_size() == 1
  assert params["w"].sharding.is_equivalent_to(placed["w"], 2)


@pytest.mark.parametrize(
  "size, words", [(12, "use 8 or 16"), (3, "use 8"), (0, "batch_size=0")]
)
def test_batches_that_do_not_divide(size, words):
  mesh = sharding.make_mesh(fsdp=2)
  sharding.check_batch(16, mesh)
  with pytest.raises(UserError, match=words):
    sharding.check_batch(size, mesh)
