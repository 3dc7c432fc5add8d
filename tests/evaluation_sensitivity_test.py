"""Pairs, and InfoNCE at every block, against float64 and published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_network import network, pair, pictures

from cassle_jax import augment
from cassle_jax.errors import UserError
from cassle_jax.evaluation import pairs, sensitivity
from cassle_jax.hosts import sharding

POLICY = augment.ViewPolicy(image_size=16, dtype="bfloat16", solarize=0.2)


def twin(first, second, temperature):
  """InfoNCE times 2T and both cosines, in float64."""
  a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
  a = a / np.linalg.norm(a, axis=1, keepdims=True)
  b = b / np.linalg.norm(b, axis=1, keepdims=True)
  losses, positive, negative = [], [], []
  for i in range(len(a)):
    cosines = [a[i] @ row for row in b]
    exponentials = [np.exp(c / temperature) for c in cosines]
    losses.append(-np.log(exponentials[i] / sum(exponentials)))
    positive.append(cosines[i])
    negative += cosines[:i] + cosines[i + 1 :]
  return (
    2 * temperature * np.mean(losses),
    np.mean(positive),
    np.mean(negative),
  )


@pytest.mark.parametrize("case", ["a", "b"])
def test_scores_equal_the_published_ones(golden, case):
  arrays = golden("feature_invariance")
  first, second = arrays[f"{case}/f1"], arrays[f"{case}/f2"]
  for temperature in (0.2, 0.5):
    found = sensitivity.scores(
      first, second, temperature=temperature, negatives="published"
    )
    expected = arrays[f"{case}/infonce_T{temperature}"]
    np.testing.assert_allclose(found.info_nce, expected, rtol=1e-5)
    np.testing.assert_allclose(
      found.positive, arrays[f"{case}/cos_pos"], rtol=1e-5
    )
    np.testing.assert_allclose(
      found.negative, arrays[f"{case}/cos_neg"], atol=1e-6
    )


def test_scores_equal_their_float64_twin(golden):
  arrays = golden("feature_invariance")
  first, second = arrays["b/f1"], arrays["b/f2"]
  found = sensitivity.scores(first, second)
  np.testing.assert_allclose(found, twin(first, second, 0.2), atol=1e-6)


def test_scores_of_a_case_by_hand():
  # Orthogonal images: positives 1, negatives 0, CE = log(1 + e^(-1/T)).
  found = sensitivity.scores(jnp.eye(2), 3 * jnp.eye(2), temperature=0.5)
  expected = (np.log(1 + np.exp(-2.0)), 1.0, 0.0)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  with pytest.raises(UserError, match="negatives 'some'"):
    sensitivity.scores(jnp.eye(2), jnp.eye(2), negatives="some")


@pytest.mark.parametrize("operation", augment.OPERATIONS)
def test_a_pair_differs_by_one_operation_alone(operation):
  images = pictures(12)
  key = jax.random.key(3)
  x, t = pair(key, images, operation=operation, policy=POLICY)
  assert x.image.dtype == t.image.dtype == jnp.float32
  expected = (images / 255 - np.array(POLICY.mean)) / np.array(POLICY.std)
  np.testing.assert_allclose(x.image, expected, atol=2e-5)
  neutral = augment.omega.neutral((12,), augment.omega.FIELDS)
  for field, value in neutral.items():
    np.testing.assert_array_equal(x.omega[field], value)
  changed = {
    field
    for field, value in neutral.items()
    if not np.array_equal(t.omega[field], value)
  }
  record = augment.OPERATIONS[operation]
  assert changed == {field.name for field in record.fields}
  same = np.all(np.isclose(x.image, t.image, atol=2e-5), axis=(1, 2, 3))
  if operation == "rotation":  # Turns by nothing at times.
    turned = np.asarray(t.omega["rotation"])[:, 0] == 0
    assert turned.any() and np.array_equal(same, ~turned)
  elif operation == "blur":  # A small sigma shows nothing.
    strong = np.asarray(t.omega["blur"])[:, 0] > 0.5
    assert strong.any() and not same[strong].any()
  else:
    assert not same.any()
  again = pair(key, images, operation=operation, policy=POLICY)[1]
  np.testing.assert_array_equal(again.image, t.image)
  if operation not in ("flip", "grayscale", "solarize"):
    other = pair(jax.random.key(4), images, operation=operation, policy=POLICY)[
      1
    ]
    assert not np.array_equal(other.image, t.image)


def test_operations_keep_the_policys_intervals():
  policy = augment.ViewPolicy(
    image_size=16, blur=0.0, blur_sigma=(0.5, 0.6), crop_scale=(0.9, 1.0)
  )
  key, images = jax.random.key(0), pictures(20)
  _, t = pair(key, images, operation="blur", policy=policy)
  sigma = np.asarray(t.omega["blur"])
  assert np.all((sigma >= 0.5) & (sigma <= 0.6))
  _, t = pair(key, images, operation="crop", policy=policy)
  area = np.prod(np.asarray(t.omega["crop"])[:, 2:], axis=1)
  assert area.min() > 0.8
  with pytest.raises(UserError, match="Did you mean 'jitter'"):
    pairs.only("jiter", policy)
  with pytest.raises(UserError, match="'color' is .* operation is 'jitter'"):
    pairs.only("color", policy)


def measured(count=25, operations=("crop", "jitter", "flip"), **options):
  blocks, project = network()
  options = dict(blocks=blocks, project=project) | options
  return sensitivity.measure(
    jax.random.key(5),
    pictures(count),
    policy=POLICY,
    operations=operations,
    batch=8,
    **options,
  )


def test_measure_equals_the_twin_on_whole_batches():
  blocks, project = network()
  found = measured(batch_size=16)
  assert found.operations == ("crop", "jitter", "flip")
  assert found.blocks == ("stage1", "stage2", "backbone", "projector")
  assert found.info_nce.shape == found.negative.shape == (3, 4, 3)
  images = pictures(25)[:24]
  for o, operation in enumerate(found.operations):
    views = pair(jax.random.key(5), images, operation=operation, policy=POLICY)
    vectors = [dict(blocks(view.image)) for view in views]
    for part, view in zip(vectors, views, strict=True):
      part["projector"] = project(part["backbone"], view.omega)
    for k, block in enumerate(found.blocks):
      for n in range(3):
        rows = slice(8 * n, 8 * n + 8)
        expected = twin(vectors[0][block][rows], vectors[1][block][rows], 0.2)
        np.testing.assert_allclose(
          [found.info_nce[o, k, n], found.positive[o, k, n]],
          expected[:2],
          atol=2e-5,
        )
        np.testing.assert_allclose(
          found.negative[o, k, n], expected[2], atol=2e-5
        )
  # A flip leaves the mean over positions nearly as it is; a crop does not.
  assert found.positive[0, 2].mean() < found.positive[2, 2].mean()


def test_measure_does_not_depend_on_batch_devices_or_other_operations():
  expected = measured(batch_size=16)
  blocks, _ = network()
  mesh = sharding.make_mesh(data=8)

  def spread(images):
    return blocks(jax.device_put(images, sharding.batch_sharding(mesh)))

  for options in (
    dict(batch_size=7),
    dict(batch_size=64),
    dict(batch_size=24, blocks=spread),
    dict(batch_size=16, operations=("flip", "crop")),
  ):
    found = measured(**options)
    for field in ("info_nce", "positive", "negative"):
      for o, operation in enumerate(found.operations):
        place = expected.operations.index(operation)
        np.testing.assert_allclose(
          getattr(found, field)[o], getattr(expected, field)[place], atol=1e-5
        )


def test_without_a_projector_and_with_too_few_images():
  found = measured(project=None, operations=("flip",))
  assert found.blocks == ("stage1", "stage2", "backbone")
  with pytest.raises(UserError, match="batch=8 images or more.*got 7"):
    measured(count=7)


def test_blocks_are_sorted_by_depth_and_pooled():
  maps = {
    f"block{i}": jnp.full((2, 3, 5), i, jnp.bfloat16) for i in range(11)
  } | {"stem": jnp.arange(12.0).reshape(2, 2, 1, 3)}
  vectors = sensitivity.pooled(jnp.ones((2, 4)), maps)
  names = [*(f"block{i}" for i in range(11)), "backbone"]
  assert sorted(vectors, key=sensitivity._depth) == ["stem", *names]
  np.testing.assert_array_equal(vectors["stem"][0], [1.5, 2.5, 3.5])
  np.testing.assert_array_equal(vectors["block10"], np.full((2, 5), 10.0))
  np.testing.assert_array_equal(vectors["backbone"], np.ones((2, 4)))
