"""LooC: sharing on real views, float64 loss, queues, LooC++ features."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import augment, methods
from cassle_jax.awareness import looc
from cassle_jax.errors import UserError
from cassle_jax.methods import Branch, Widths
from cassle_jax.models import ConditionedProjector

GROUPS = ("color", "rotation")
KEY = jax.random.key(0)


def unit(x):
  x = x.astype(np.float64)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def loss_twin(query, keys, queue, temperature):
  """Space by space and row by row, in float64."""
  query, keys = unit(query), [unit(key) for key in keys]
  spaces, losses = query.shape[1], []
  for i in range(spaces):
    for b in range(len(query)):
      q = query[b, i]
      positive = np.exp(q @ keys[i][b, i] / temperature)
      negatives = [np.exp(q @ row / temperature) for row in queue[i]]
      if i > 0:
        negatives += [
          np.exp(q @ keys[j][b, i] / temperature)
          for j in range(spaces)
          if j != i
        ]
      losses.append(-np.log(positive / (positive + sum(negatives))))
  return np.mean(losses)


@pytest.fixture
def draws():
  generator = np.random.default_rng(11)
  return lambda *shape: generator.normal(size=shape).astype(np.float32)


def adapted(groups=GROUPS, **options):
  method = methods.build(name="mocov2", **options)
  return looc.build(groups=groups).adapt(method)


@pytest.mark.parametrize("groups", [("flip",), ("color", "crop", "blur")])
def test_loss_equals_its_float64_twin(draws, groups):
  spaces = len(groups) + 1
  query = draws(5, spaces, 4)
  keys = [draws(5, spaces, 4) for _ in range(spaces)]
  queue = unit(draws(spaces, 6, 4)).astype(np.float32)
  loss, metrics = jax.jit(adapted(groups, temperature=0.3).loss)(
    KEY,
    Branch(projections=(query,)),
    Branch(projections=tuple(keys)),
    {"queue": queue},
  )
  np.testing.assert_allclose(
    loss, loss_twin(query, keys, queue, 0.3), rtol=2e-6
  )
  names = {"contrast_accuracy", "looc_all", *(f"looc_{g}" for g in groups)}
  assert set(metrics) == names


def test_loss_by_hand():
  """One image, one group, T 1; cosines are 0 or 1.

  Space 0: the positive at 1 against a queue at 0; k_1, at 1, does not count.
  Space 1: the positive at 1 against k_0 at 0 and a queue at 1.
  """
  x, y = [2.0, 0.0], [0.0, 3.0]
  query = np.array([[x, x]])
  fresh, shared = np.array([[x, y]]), np.array([[x, x]])
  queue = np.array([[[0.0, 1.0]], [[1.0, 0.0]]])
  loss, metrics = jax.jit(adapted(("color",), temperature=1.0).loss)(
    KEY,
    Branch(projections=(query,)),
    Branch(projections=(fresh, shared)),
    {"queue": queue},
  )
  first, second = np.log1p(np.exp(-1)), np.log(2 + np.exp(-1))
  np.testing.assert_allclose(loss, (first + second) / 2, rtol=1e-6)
  assert metrics["looc_all"] == 1


def test_each_space_keeps_its_own_queue(draws):
  method = adapted(("color",), queue_size=4)
  init = jax.jit(lambda key: method.init_memory(key, Widths(3)))
  memory = init(jax.random.key(0))
  start = np.asarray(memory["queue"])
  assert start.shape == (2, 4, 3)
  np.testing.assert_allclose(np.linalg.norm(start, axis=-1), 1, rtol=1e-6)
  assert np.abs(start[0] - start[1]).max() > 0.1
  query, fresh, shared = (draws(2, 2, 3) for _ in range(3))
  memory = jax.jit(method.update_memory)(
    memory,
    Branch(projections=(query,)),
    Branch(projections=(fresh, shared)),
  )
  assert memory["pointer"].shape == () and memory["pointer"] == 2
  new = np.asarray(memory["queue"])
  np.testing.assert_array_equal(new[:, 2:], start[:, 2:])
  # k_0 through projector 0, k_1 through projector 1.
  np.testing.assert_allclose(new[0, :2], unit(fresh[:, 0]), rtol=1e-5)
  np.testing.assert_allclose(new[1, :2], unit(shared[:, 1]), rtol=1e-5)


def test_options_of_the_method_remain(draws):
  method = adapted(("color",), queue_size=2, queue_source="query")
  query, fresh, shared = (draws(2, 2, 3) for _ in range(3))
  memory = jax.jit(method.update_memory)(
    {"queue": np.zeros((2, 2, 3), np.float32), "pointer": np.int32(0)},
    Branch(projections=(query,)),
    Branch(projections=(fresh, shared)),
  )
  expected = unit(query).transpose(1, 0, 2)
  np.testing.assert_allclose(memory["queue"], expected, rtol=1e-5)
  assert method.momentum == 0.999 and method.target_update == "before"
  assert method.shuffle_keys and method.spaces == 2
  assert method.online_views == (0,) and method.target_views == (1, 2)
  with pytest.raises(UserError, match="queue_size=2 .*batch_size=4"):
    method.check(4)


def canvases(batch=16):
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (batch, 12, 12, 3), np.uint8)
  sizes = rng.integers(20, 60, (batch, 2), np.int32)
  return jnp.asarray(images), jnp.asarray(sizes)


def differs(a, b):
  """Share of images whose field differs between two views."""
  return np.mean(np.any(np.abs(np.asarray(a) - np.asarray(b)) > 1e-6, axis=1))


def test_keys_share_their_group_alone_with_the_query():
  policies = augment.build(
    image_size=8, grayscale=0.5, blur=0.0, rotation=1.0, blur_kernel=3
  )
  images, sizes = canvases()

  @jax.jit
  def omegas(key):
    views = looc.build(groups=GROUPS).views(key, images, sizes, policies)
    # Without what is measured in pixels, XLA leaves the pixels out.
    return [dict(view.omega, color_diff=0) for view in views]

  query, *keys = omegas(jax.random.key(2))
  assert len(keys) == 3
  owned = [set(), {"color", "grayscale"}, {"rotation"}]
  for key, own in zip(keys, owned, strict=True):
    for field in ("color", "crop", "flip", "grayscale", "rotation"):
      share = differs(query[field], key[field])
      assert share == 0 if field in own else share > 0.2, (own, field)
  for a, b in [(0, 1), (0, 2), (1, 2)]:
    assert differs(keys[a]["crop"], keys[b]["crop"]) > 0.9


def test_shared_settings_come_from_the_querys_policy():
  """The keys' own policy never turns grey and jitters half as far."""
  policies = augment.build(
    image_size=8,
    crop=False,
    flip=0.0,
    blur=0.0,
    jitter=1.0,
    jitter_strength=((0.4, 0.4, 0.4, 0.1), (0.2, 0.2, 0.2, 0.05)),
    jitter_order="fixed",
    grayscale=(0.5, 0.0),
  )
  images, sizes = canvases()

  @jax.jit
  def both(key):
    views = looc.views(key, images, sizes, policies, groups=("color",))
    return views, augment.views(key, images, sizes, policies)

  (query, fresh, shared), usual = both(jax.random.key(2))
  # Nothing else is on: sharing the colours is sharing the whole view.
  chex.assert_trees_all_close(query, shared, atol=5e-6)
  assert np.any(query.omega["grayscale"])
  assert not np.any(fresh.omega["grayscale"])
  assert differs(query.image.reshape(16, -1), fresh.image.reshape(16, -1)) > 0.9
  # Query and first key are what the base method would have seen.
  chex.assert_trees_all_close((query, fresh), usual, atol=5e-6)


def test_plus_plus_equals_the_projectors_one_by_one(draws):
  projector = ConditionedProjector((6, 3), conditioning="none")
  features, omega = draws(4, 5), draws(4, 2)
  init = functools.partial(projector.init, train=False)
  stacked = jax.jit(jax.vmap(init, (0, None, None)))(
    jax.random.split(jax.random.key(0), 3), features, omega
  )
  # Every space has statistics of its own.
  stacked = jax.tree.map(np.asarray, stacked)
  stacked["batch_stats"] = jax.tree.map(
    lambda x: x + 0.3 * np.arange(3, dtype=np.float32)[:, None],
    stacked["batch_stats"],
  )
  actual = jax.jit(functools.partial(looc.plus_plus, projector))(
    stacked, features, omega
  )
  assert actual.shape == (4, 18) and actual.dtype == jnp.float32
  expected = []
  for space in range(3):
    variables = jax.tree.map(lambda x, space=space: x[space], stacked)
    params = variables["params"]["mlp"]
    stats = variables["batch_stats"]["mlp"]["bn0"]
    x = features.astype(np.float64) @ params["linear0"]["kernel"]
    x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    x = x * params["bn0"]["scale"] + params["bn0"]["bias"]
    expected.append(np.maximum(x, 0))
  np.testing.assert_allclose(actual, np.concatenate(expected, 1), atol=1e-5)
  flat = ConditionedProjector((3,), conditioning="none")
  layer = {"kernel": np.zeros((2, 5, 3)), "bias": np.zeros((2, 3))}
  variables = {"params": {"mlp": {"linear0": layer}}}
  with pytest.raises(UserError, match="hidden layers.*projector=0,128"):
    looc.plus_plus(flat, variables, features, omega)


def test_mistakes_are_refused_with_the_fix():
  with pytest.raises(UserError, match="groups=color,rotation"):
    looc.build(groups=())
  with pytest.raises(UserError, match="'colour'.*Did you mean 'color'"):
    looc.build(groups=("colour",))
  with pytest.raises(UserError, match="twice"):
    looc.build(groups=("flip", "flip"))
  for name in ("simclr", "mocov3", "byol"):
    with pytest.raises(UserError, match=f"not go with {name}: .* has none"):
      looc.build().adapt(methods.build(name=name))


def test_groups_whose_operation_is_off_are_refused():
  policies = augment.build(image_size=32)
  looc.check_groups(("color", "crop", "flip", "blur"), policies)
  check = looc.build().check
  with pytest.raises(UserError, match="'rotation'.*augment.rotation=1.0"):
    check(policies)
  check(augment.build(image_size=32, rotation=0.75))
  grey = dict(image_size=32, jitter=0.0)
  looc.check_groups(("color",), augment.build(**grey))
  with pytest.raises(UserError, match="'color'.*jitter=0.8"):
    looc.check_groups(("color",), augment.build(**grey, grayscale=0.0))
  # On in the keys alone, it cannot be shared.
  with pytest.raises(UserError, match="'solarize'.*solarize=0.2"):
    looc.check_groups(
      ("solarize",), augment.build(preset="byol", image_size=32)
    )
  with pytest.raises(UserError, match="4 views"):
    check(2 * policies)
