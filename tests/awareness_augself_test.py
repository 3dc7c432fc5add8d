"""AugSelf: published objective, float64 twins, a case computed by hand."""

import functools

import jax
import numpy as np
import pytest

from cassle_jax import augment
from cassle_jax.augment import omega
from cassle_jax.awareness import augself
from cassle_jax.errors import UserError

# The weights of the reference objective.
PUBLISHED = dict(crop=0.5, color=0.4, flip=0.3, blur=0.2, rotation=0.1)


def field_twin(field, predictions, target):
  """One head's loss in float64, number by number."""
  p, t = predictions.astype(np.float64), np.asarray(target, np.float64)
  losses = []
  for row, wanted in zip(p, t, strict=True):
    if field in ("flip", "grayscale"):
      probability = 1 / (1 + np.exp(-row[0]))
      chance = probability if wanted[0] else 1 - probability
      losses.append(-np.log(chance))
    elif field == "rotation":
      chances = np.exp(row) / np.exp(row).sum()
      losses.append(-np.log(chances[np.argmax(wanted)]))
    else:
      losses.append(np.mean((np.tanh(row) - wanted) ** 2))
  return np.mean(losses)


def target_twin(field, a, b):
  """What a head is to say of views a relative to views b."""
  if field in ("flip", "grayscale"):
    return a == b
  if field == "rotation":
    turns = (a.argmax(1) - b.argmax(1) + 4) % 4
    return np.eye(4)[turns]
  return a.astype(np.float64) - b


@pytest.fixture
def drawn():
  """Predictions of every field and two omegas, eight rows."""
  rng = np.random.default_rng(5)
  views = []
  for _ in range(2):
    view = {
      name: rng.uniform(-0.5, 0.5, (8, size)).astype(np.float32)
      for name, size in omega.FIELDS.items()
    }
    for name in ("flip", "grayscale"):
      view[name] = rng.integers(0, 2, (8, 1)).astype(np.float32)
    view["rotation"] = np.eye(4, dtype=np.float32)[rng.integers(0, 4, 8)]
    views.append(view)
  predictions = {
    name: rng.normal(size=(16, size)).astype(np.float32)
    for name, size in omega.FIELDS.items()
  }
  return predictions, *views


def both_orders(there, back):
  """Rows 2b and 2b + 1: the two orders of pair b."""
  rows = [row for pair in zip(there, back, strict=True) for row in pair]
  return np.stack(rows)


def every_field(**options):
  weights = {f"{name}_weight": 1.0 for name in omega.FIELDS}
  return augself.build(**(weights | options))


@pytest.mark.parametrize("kind", ["symmetric", "onesided"])
def test_objective_matches_the_published_one(golden, kind):
  data = golden("ss_objective")
  short = {"rotation": "rot"}
  z1, z2 = data["z1"].astype(np.float64), data["z2"].astype(np.float64)
  there = np.concatenate([z1, z2], axis=1)
  back = np.concatenate([z2, z1], axis=1)
  pairs = np.concatenate([there, back]) if kind == "symmetric" else there
  orders = (1, 2) if kind == "symmetric" else (1,)
  predictions, target = {}, {}
  for field in PUBLISHED:
    name = short.get(field, field)
    rows = pairs @ data[f"W_{name}"].T + data[f"b_{name}"]
    predictions[field] = rows.astype(np.float32)
    wanted = np.concatenate([data[f"diff{i}_{name}"] for i in orders])
    if field == "rotation":
      wanted = np.eye(4, dtype=np.float32)[wanted]
    target[field] = wanted
  objective = jax.jit(functools.partial(augself.objective, weights=PUBLISHED))
  total, metrics = objective(predictions, target)
  np.testing.assert_allclose(total, data[f"{kind}/total"], rtol=1e-6)
  for field in PUBLISHED:
    expected = data[f"{kind}/{short.get(field, field)}"]
    np.testing.assert_allclose(
      metrics[f"augself_{field}"], expected, rtol=1e-6, err_msg=field
    )


def test_published_crop_difference(golden, drawn):
  """Targets from the published descriptions are the published differences."""
  data = golden("aug_pipeline_imagenet_k23")
  fields = ("blur", "color", "color_diff", "crop", "flip")
  first, second = (
    {field: data[f"v{view}_desc_{field}"] for field in fields}
    for view in (1, 2)
  )
  predictions = drawn[0]
  values = {}
  for crop_difference in ("published", "fixed"):
    awareness = augself.build(
      blur_weight=1.0,
      flip_weight=1.0,
      color_diff_weight=1.0,
      crop_difference=crop_difference,
    )
    pair_loss = jax.jit(awareness.pair_loss)
    _, values[crop_difference] = pair_loss(predictions, first, second)
  for field in fields:
    differences = [data[f"v{pair}_diff_{field}"] for pair in ("1v2", "2v1")]
    expected = field_twin(field, predictions[field], both_orders(*differences))
    actual = values["published"][f"augself_{field}"]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, err_msg=field)
  crops = [values[kind]["augself_crop"] for kind in ("published", "fixed")]
  assert abs(crops[0] - crops[1]) > 1e-3


def test_pair_loss_equals_its_float64_twin(drawn):
  predictions, first, second = drawn
  pair_loss = jax.jit(every_field().pair_loss)
  total, metrics = pair_loss(predictions, first, second)
  expected = {}
  for field in omega.FIELDS:
    a, b = first[field], second[field]
    target = [target_twin(field, a, b), target_twin(field, b, a)]
    expected[field] = field_twin(
      field, predictions[field], both_orders(*target)
    )
    np.testing.assert_allclose(
      metrics[f"augself_{field}"], expected[field], rtol=2e-6, err_msg=field
    )
  np.testing.assert_allclose(total, sum(expected.values()), rtol=2e-6)


def test_pair_loss_by_hand():
  """Two images: one jittered in the first view only, one alike in both.

  Every prediction is 0: tanh(0) misses the one brightness by 1/2 in either
  order, 2 (1/2)^2 over 16 numbers; a coin's toss costs log 2; so does, in
  nats, a head that has two of four turns at 0 and bars the others.
  """
  rotation = np.eye(4)[:2]
  second = {
    "color": np.zeros((2, 4)),
    "flip": np.ones((2, 1)),
    "rotation": rotation[::-1],
  }
  color = np.array([[0.5, 0, 0, 0], [0, 0, 0, 0]])
  first = second | {"color": color, "rotation": rotation}
  predictions = {
    "color": np.zeros((4, 4)),
    "flip": np.zeros((4, 1)),
    "rotation": np.array([[-1e9, 0, -1e9, 0]] * 4),
  }
  awareness = augself.build(
    crop_weight=0.0, color_weight=2.0, flip_weight=3.0, rotation_weight=5.0
  )
  total, metrics = jax.jit(awareness.pair_loss)(predictions, first, second)
  # First minus second is -1 = 3 for the first image, 1 for the second.
  np.testing.assert_allclose(metrics["augself_rotation"], np.log(2), rtol=1e-6)
  np.testing.assert_allclose(metrics["augself_color"], 0.5 / 16, rtol=1e-6)
  np.testing.assert_allclose(metrics["augself_flip"], np.log(2), rtol=1e-6)
  np.testing.assert_allclose(total, 2 * 0.5 / 16 + 8 * np.log(2), rtol=1e-6)


def test_a_head_that_is_right_costs_nothing_and_its_opposite_does(drawn):
  """Swapping the rows of the two orders is a mistake that must show."""
  _, first, second = drawn
  first = first | {"rotation": np.eye(4)[[1] * 8]}
  second = second | {"rotation": np.eye(4)[[0] * 8]}
  targets = jax.jit(augself.targets)
  there = jax.tree.map(np.asarray, targets(first, second))
  back = jax.tree.map(np.asarray, targets(second, first))
  right, wrong = {}, {}
  for field in omega.FIELDS:
    rows = there[field], back[field]
    if field in ("flip", "grayscale", "rotation"):
      logits = [40 * row - 20 for row in rows]
    else:
      logits = [np.arctanh(np.clip(row, -0.999999, 0.999999)) for row in rows]
    right[field] = both_orders(*logits)
    wrong[field] = both_orders(*logits[::-1])
  pair_loss = jax.jit(every_field().pair_loss)
  _, good = pair_loss(right, first, second)
  _, bad = pair_loss(wrong, first, second)
  for field in omega.FIELDS:
    assert good[f"augself_{field}"] < 1e-6, field
    # Agreement does not depend on the order.
    symmetric = field in ("flip", "grayscale")
    assert (bad[f"augself_{field}"] > 0.01) != symmetric, field


def test_gradient_survives_confident_mistakes(drawn):
  _, first, second = drawn
  predictions = {
    name: np.full((16, size), 1e4, np.float32)
    for name, size in omega.FIELDS.items()
  }
  pair_loss = every_field().pair_loss
  gradient = jax.jit(jax.grad(lambda p: pair_loss(p, first, second)[0]))
  grads = gradient(predictions)
  assert all(np.isfinite(grad).all() for grad in grads.values())


def test_heads_follow_the_weights():
  awareness = augself.build()
  assert awareness.pair_outputs == (("color", 4), ("crop", 4))
  assert awareness.pair_hidden == (512, 512)
  assert not awareness.conditioned
  awareness = augself.build(
    crop_weight=-1.0, color_weight=0.0, rotation_weight=0.1, hidden=(8,)
  )
  assert awareness.pair_outputs == (("rotation", 4),)
  assert awareness.pair_hidden == (8,)
  sizes = dict(every_field().pair_outputs)
  assert sizes == omega.FIELDS


def test_mistakes_are_refused_with_the_fix():
  with pytest.raises(UserError, match="crop_weight=0.5.*name=vanilla"):
    augself.build(crop_weight=0.0, color_weight=-1.0)
  with pytest.raises(UserError, match="'fix'.*Did you mean 'fixed'"):
    augself.build(crop_difference="fix")
  policies = augment.build(image_size=32)
  augself.build(flip_weight=1.0, blur_weight=1.0).check(policies)
  with pytest.raises(UserError, match="rotation_weight=0 or"):
    augself.build(rotation_weight=1.0).check(policies)
