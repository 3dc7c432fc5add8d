"""The step by itself; grid_test.py checks each method and awareness."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cassle_jax import augment, awareness, methods, models, optim
from cassle_jax.hosts import sharding
from cassle_jax.step import (
  create_state,
  frozen,
  move_target,
  train_step,
  update,
)
from cassle_jax.step.state import copied
from cassle_jax.training import experiment

FIELDS = augment.omega.DEFAULT
OMEGA = augment.omega.size(FIELDS)
BATCH, SIZE = 16, 16


def parts_of(name, *, optimizer=None, **model):
  options = {"queue_size": 32} if name == "mocov2" else {}
  method = methods.build(name=name, **options)
  shrunk = method.heads._asdict() | dict(
    projector=(24, 16),
    predictor=(24, 16) if method.heads.predictor else (),
  )
  networks = models.build(
    backbone="conv2",
    gamma_depth=2,
    gamma_width=8,
    omega_size=OMEGA,
    image_size=SIZE,
    **{**shrunk, **model},
  )
  return dict(
    networks=networks,
    method=method,
    optimizer=optimizer or optax.sgd(0.1, momentum=0.9),
  )


def state_of(parts):
  return create_state(
    jax.random.key(0), **parts, image_size=SIZE, omega_size=OMEGA
  )


def views_of(seed=0, count=2, batch=BATCH):
  generator = np.random.default_rng(seed)

  def draw(*shape):
    return jnp.asarray(generator.normal(size=(batch, *shape)), jnp.float32)

  return tuple(
    augment.View(
      draw(SIZE, SIZE, 3), {f: draw(augment.omega.FIELDS[f]) for f in FIELDS}
    )
    for _ in range(count)
  )


def stepper(parts, **options):
  options = dict(key=jax.random.key(7), momentum=0.9) | options
  return jax.jit(functools.partial(update, **parts, **options))


def close(a, b, **options):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **options), a, b)


def differ(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return any(not np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("data", [8, 4])
@pytest.mark.parametrize("name", ["mocov2", "mocov3"])
def test_many_devices_equal_one(name, data):
  """Loss, gradients (by plain descent) and statistics do not see the mesh."""
  parts = parts_of(name, optimizer=optax.sgd(1.0))
  state, views = state_of(parts), views_of()
  expected, metrics = stepper(parts)(state, views)

  mesh = sharding.make_mesh(data=data, fsdp=8 // data)
  shardings = sharding.state_sharding(
    state, mesh, min_size=8, whole=("memory/queue",)
  )
  placed = jax.device_put(state, shardings)
  if name == "mocov2":
    assert placed.memory["queue"].sharding.is_fully_replicated
  kernel = placed.params["projector"]["mlp"]["linear0"]["kernel"]
  assert kernel.sharding.is_fully_replicated == (data == 8)
  spread = jax.device_put(views, sharding.batch_sharding(mesh))
  found, found_metrics = stepper(parts)(placed, spread)
  np.testing.assert_allclose(found_metrics["loss"], metrics["loss"], rtol=1e-5)
  close(found.params, expected.params, rtol=1e-4, atol=2e-6)
  close(found.batch_stats, expected.batch_stats, rtol=1e-4, atol=1e-6)
  close(found.memory, expected.memory, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mocov2", "mocov3", "byol"])
def test_keys_and_loss_come_from_the_right_target(name):
  """Of one that lags far behind: a momentum of 0 makes it catch up."""
  parts = parts_of(name)
  state, views = state_of(parts), views_of()
  away = jax.tree.map(lambda x: x + 0.3, state.params["backbone"])
  lagging = state.replace(target={**state.target, "backbone": away})
  step = jax.jit(
    lambda state, momentum: update(
      state, views, **parts, key=jax.random.key(7), momentum=momentum
    )
  )
  caught_up, caught = step(lagging, 0.0)
  left, left_behind = step(lagging, 1.0)
  there, arrived = step(state, 1.0)
  assert abs(left_behind["loss"] - arrived["loss"]) > 1e-4
  seen, other = arrived, left_behind
  if parts["method"].target_update == "after":
    seen, other = other, seen
  np.testing.assert_allclose(caught["loss"], seen["loss"], rtol=1e-6)
  assert abs(caught["loss"] - other["loss"]) > 1e-4
  if name == "mocov2":
    queues = [new.memory["queue"] for new in (caught_up, left, there)]
    np.testing.assert_allclose(queues[0], queues[2], atol=1e-6)
    assert np.abs(queues[0] - queues[1]).max() > 1e-2
  # Every layer behind the backbone takes part in the loss.
  for head in ("projector", "predictor"):
    for a, b in zip(
      jax.tree.leaves(there.params.get(head, {})),
      jax.tree.leaves(state.params.get(head, {})),
      strict=True,
    ):
      assert not np.array_equal(a, b), head


@pytest.mark.parametrize(
  "name, options, expected",
  [
    ("byol", {}, [0.996, 0.998, 1.0]),
    ("mocov3", {"momentum_schedule": "constant"}, [0.99] * 3),
    ("mocov2", {}, [0.999] * 3),
    # Two epochs of ten steps: one value an epoch.
    ("dino", {"momentum_per": "epoch"}, [0.996, 0.998, 0.998]),
  ],
)
def test_the_targets_momentum_over_a_run(name, options, expected):
  method = methods.build(name=name, **options)
  momentum = experiment.build_momentum(method, 20, steps_per_epoch=10)
  found = [float(momentum(jnp.int32(step))) for step in (0, 10, 19)]
  if not options and name == "byol":
    found[2] = float(momentum(jnp.int32(20)))
    np.testing.assert_allclose(
      float(momentum(jnp.int32(5))), 1 - 0.004 * (2 + 2**0.5) / 4, rtol=1e-6
    )
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_bad_keys_of_a_step_with_a_finite_loss_are_not_kept():
  """They would spoil the steps after it; nothing of it is applied."""
  parts = parts_of("simclr")
  parts["method"] = parts["method"]._replace(
    init_memory=lambda key, widths: {"queue": jnp.ones((4, 2))},
    update_memory=lambda memory, online, target: {
      "queue": memory["queue"].at[3, 1].set(jnp.nan)
    },
  )
  state = state_of(parts)
  new, metrics = stepper(parts)(state, views_of())
  assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
  assert metrics["finite"] == 0
  close(new, state.replace(step=state.step + 1), rtol=0)


@pytest.mark.slow
def test_jit_changes_nothing():
  parts = parts_of("mocov2")
  state, views = state_of(parts), views_of()
  expected, _ = update(
    state, views, **parts, key=jax.random.key(7), momentum=0.9
  )
  found, _ = stepper(parts)(state, views)
  close(found.params, expected.params, rtol=1e-4, atol=1e-6)


def test_move_target_by_hand():
  target = {"a": jnp.array([1.0, 2.0])}
  moved = move_target(target, {"a": jnp.array([3.0, 2.0]), "b": None}, 0.75)
  np.testing.assert_allclose(moved["a"], [1.5, 2.0])


def test_state_starts_with_the_target_equal_but_not_aliased():
  state = state_of(parts_of("mocov3"))
  online = {name: state.params[name] for name in state.target}
  close(state.target, online, rtol=0)
  assert "predictor" not in state.target
  for a, b in zip(
    jax.tree.leaves(state.target), jax.tree.leaves(online), strict=True
  ):
    assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()


def test_accumulated_gradients_are_the_mean_over_micro_batches():
  """Rows j, j + 2, ... form micro-batch j; the loss sees one at a time."""
  parts = parts_of("simclr", optimizer=optax.sgd(1.0))
  state, views = state_of(parts), views_of()
  whole, metrics = stepper(parts, accumulate=2)(state, views)
  step = stepper(parts)
  grads, losses, stats = [], [], state
  for j in range(2):
    part = jax.tree.map(lambda x, j=j: x[j::2], views)
    new, single = step(state.replace(batch_stats=stats.batch_stats), part)
    stats = new
    losses.append(single["loss"])
    grads.append(jax.tree.map(jnp.subtract, state.params, new.params))
  expected = jax.tree.map(lambda p, a, b: p - (a + b) / 2, state.params, *grads)
  close(whole.params, expected, rtol=1e-4, atol=2e-6)
  close(whole.batch_stats, stats.batch_stats, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)


def test_accumulation_enqueues_every_key_in_order():
  parts = parts_of("mocov2")
  state, views = state_of(parts), views_of()
  new, _ = stepper(parts, accumulate=2)(state, views)
  assert new.memory["pointer"] == BATCH
  rows = new.memory["queue"]
  assert not np.allclose(rows[:BATCH], state.memory["queue"][:BATCH])
  np.testing.assert_array_equal(rows[BATCH:], state.memory["queue"][BATCH:])


def test_batchnorm_groups_shuffle_the_keys():
  """With groups, a key's statistics come from other rows than its query's."""
  parts = parts_of("mocov2", bn_groups=4)
  state, views = state_of(parts), views_of()
  key = jax.random.key(1)

  def keys_of(method):
    step = functools.partial(
      update, **parts | {"method": method}, momentum=0.9, key=key
    )
    new, _ = jax.jit(step)(state, views)
    return np.asarray(new.memory["queue"])[:BATCH]

  dealt = keys_of(parts["method"])
  together = keys_of(parts["method"]._replace(shuffle_keys=False))
  # Other groups, so other keys; of the same rows, in the same order.
  assert differ(dealt, together)
  assert np.median(np.sum(dealt * together, axis=1)) > 0.5


def test_train_step_takes_views_and_momentum_from_the_step_alone():
  """One program from uint8 canvases; the key is fold_in(root, step)."""
  parts = parts_of("mocov3")
  policies = augment.build(preset="cassle", image_size=SIZE, blur=0.0)
  fields = tuple(f for f in FIELDS if f != "blur")
  state = create_state(
    jax.random.key(0),
    **parts,
    image_size=SIZE,
    omega_size=augment.omega.size(fields),
  )
  step = jax.jit(
    functools.partial(
      train_step,
      **parts,
      key=jax.random.key(3),
      policies=policies,
      fields=fields,
      momentum=lambda step: jnp.where(step == 0, 1.0, 0.0),
    )
  )
  generator = np.random.default_rng(0)
  batch = {
    "image": generator.integers(0, 256, (BATCH, 20, 20, 3), dtype=np.uint8),
    "size": np.full((BATCH, 2), 20, np.int32),
  }
  once, first = step(state, batch)
  again, second = step(state, batch)
  assert first["loss"] == second["loss"]
  later, third = step(state.replace(step=state.step + 1), batch)
  assert third["loss"] != first["loss"]
  close(once.params, again.params, rtol=0)
  close(once.target, state.target, rtol=0)
  after, _ = step(once, batch)
  close(after.target, {n: once.params[n] for n in after.target}, rtol=0)
  assert differ(after.target, once.target)
  assert step._cache_size() == 1


def test_a_step_moves_the_heads_and_the_memory_of_its_descriptor_alone():
  """The others rest: no decay, no momentum, no statistics, no new keys."""
  aware = awareness.build(name="ai")
  parts = parts_of("mocov2", descriptor_size=2, amortised_rank=4)
  parts |= {
    "awareness": aware,
    "optimizer": optim.build(
      name="adamw",
      weight_decay=0.1,
      batch_size=BATCH,
      steps_per_epoch=9,
      total_steps=9,
      copied=copied(parts["method"], aware),
    ),
  }
  step = jax.jit(
    functools.partial(
      train_step,
      **parts,
      key=jax.random.key(3),
      policies=augment.build(preset="cassle", image_size=SIZE, blur_kernel=3),
      fields=FIELDS,
    )
  )
  generator = np.random.default_rng(0)
  batch = {
    "image": generator.integers(0, 256, (BATCH, 20, 20, 3), dtype=np.uint8),
    "size": np.full((BATCH, 2), 20, np.int32),
  }

  def heads_of(state, index):
    moments = [
      leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
      if "'stacked_trained'" in jax.tree_util.keystr(path)
    ]
    assert moments
    parts = (state.params, state.batch_stats, state.target_stats)
    trees = *(part["projector"] for part in parts), state.memory, moments
    # No scalar is shared between the heads, such as a count of updates.
    assert all(jnp.ndim(x) and len(x) == 3 for x in jax.tree.leaves(trees))
    return jax.tree.map(lambda x: x[index], trees)

  state, drawn = state_of(parts), set()
  for _ in range(5):
    new, _ = step(state, batch)
    (index,) = (
      i for i in range(3) if differ(heads_of(new, i), heads_of(state, i))
    )
    for part, old in zip(
      heads_of(new, index), heads_of(state, index), strict=True
    ):
      assert differ(part, old)
    assert differ(new.params["backbone"], state.params["backbone"])
    drawn.add(index)
    state = new
  assert len(drawn) > 1


def test_a_frozen_state_is_its_networks_in_eval_mode():
  parts = parts_of("simclr")
  state = create_state(
    jax.random.key(0), image_size=SIZE, omega_size=OMEGA, **parts
  )
  encode, project = frozen(parts["networks"], state, FIELDS)
  images = jax.random.uniform(jax.random.key(1), (3, SIZE, SIZE, 3))
  features, outputs = encode(images)
  variables = {
    "params": state.params["backbone"],
    "batch_stats": state.batch_stats["backbone"],
  }
  backbone = parts["networks"].backbone
  expected, _ = backbone.apply(variables, images, train=False)
  np.testing.assert_allclose(features, expected, atol=1e-5)
  assert outputs
  omega = augment.omega.neutral((3,), FIELDS)
  still = project(features, omega)
  assert still.shape == (3, 16)
  # It is told omega.
  moved = omega | {"crop": omega["crop"] + 1}
  assert np.abs(project(features, moved) - still).max() > 1e-4
