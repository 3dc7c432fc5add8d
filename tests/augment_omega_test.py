"""The layout of omega: packing, neutral values, differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import augment, errors
from cassle_jax.augment import omega


def described(golden, view):
  """The published description of one view, with our field names."""
  data = golden("aug_pipeline_imagenet_k23")
  prefix = f"v{view}_desc_"
  return {
    key.removeprefix(prefix): jnp.asarray(value)
    for key, value in data.items()
    if key.startswith(prefix)
  }


def test_sizes_and_default_fields():
  assert omega.size() == 14
  assert omega.size(set(omega.DEFAULT) - {"flip"}) == 13
  assert omega.size((*omega.DEFAULT, "solarize")) == 15
  assert list(omega.FIELDS) == sorted(omega.FIELDS)
  neutral = omega.neutral((), omega.FIELDS)
  assert {name: len(x) for name, x in neutral.items()} == omega.FIELDS
  first = {"blur": 1, "color": 4, "color_diff": 3, "crop": 4, "flip": 1}
  first |= {"grayscale": 1, "rotation": 4, "solarize": 1}
  assert first.items() <= omega.FIELDS.items() and omega.size(first) == 19


@pytest.mark.parametrize("view", [1, 2])
def test_pack_matches_published_vector(golden, view):
  expected = golden("aug_pipeline_imagenet_k23")[f"omega_v{view}_sorted_all6"]
  actual = omega.pack(described(golden, view))
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_pack_is_alphabetical_whatever_the_order_given():
  values = omega.neutral((2,), omega.FIELDS)
  values["flip"] = jnp.ones((2, 1))
  expected = [[0.5, 0.5, 1, 1, 1, 1, 0, 0, 0]] * 2
  for fields in (("rotation", "crop", "flip"), ("flip", "crop", "rotation")):
    np.testing.assert_array_equal(omega.pack(values, fields), expected)


def test_neutral_is_what_the_definition_says():
  values = omega.neutral((), omega.FIELDS)
  expected = {
    "blur": [0],
    "color": [0, 0, 0, 0],
    "color_diff": [0, 0, 0],
    "crop": [0.5, 0.5, 1, 1],
    "flip": [0],
    "grayscale": [0],
    "rotation": [1, 0, 0, 0],
    "solarize": [1],
  }
  assert set(values) >= set(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(values[name], value)
    assert values[name].dtype == jnp.float32
  batch = omega.neutral((2, 3))
  assert set(batch) == set(omega.DEFAULT)
  assert batch["crop"].shape == (2, 3, 4)


@pytest.mark.parametrize("first,second", [(1, 2), (2, 1)])
def test_published_difference(golden, first, second):
  data = golden("aug_pipeline_imagenet_k23")
  actual = omega.difference(
    described(golden, first),
    described(golden, second),
    crop_difference="published",
  )
  for name in ("blur", "color", "color_diff", "crop", "flip"):
    expected = data[f"v{first}v{second}_diff_{name}"]
    np.testing.assert_allclose(actual[name], expected, rtol=0, atol=1e-6)


def test_fixed_difference_uses_each_views_own_flip(golden):
  a, b = described(golden, 1), described(golden, 2)
  actual = omega.difference(a, b)
  np.testing.assert_array_equal(actual["crop"], a["crop"] - b["crop"])
  published = omega.difference(a, b, crop_difference="published")
  differ = np.asarray(a["flip"] != b["flip"])[:, 0]
  assert differ.any() and not differ.all()
  error = np.abs(actual["crop"] - published["crop"])[:, 1]
  assert error[differ].max() > 0.01
  np.testing.assert_allclose(error[~differ], 0, atol=1e-7)


def test_difference_of_rotation_is_modulo_four():
  turns = jnp.eye(4)
  for i in range(4):
    for j in range(4):
      actual = omega.difference({"rotation": turns[i]}, {"rotation": turns[j]})
      np.testing.assert_array_equal(actual["rotation"], turns[(i - j) % 4])


def test_errors_name_the_field_and_the_fix():
  with pytest.raises(errors.UserError, match="colour.*Did you mean 'color'"):
    omega.size(("colour",))
  with pytest.raises(errors.UserError, match="twice"):
    omega.ordered(("flip", "flip"))
  with pytest.raises(errors.UserError, match=r"\('flip',\)"):
    omega.ordered("flip")
  with pytest.raises(errors.UserError, match="no field 'solarize'"):
    omega.pack(omega.neutral(), ("solarize",))
  with pytest.raises(errors.UserError, match="crop_difference"):
    omega.difference({}, {}, crop_difference="broken")
  with pytest.raises(errors.UserError, match="same fields"):
    omega.difference(omega.neutral(), {})
  crop = omega.neutral((), ("crop",))
  with pytest.raises(errors.UserError, match='needs the omega field "flip"'):
    omega.difference(crop, crop, crop_difference="published")


@pytest.mark.parametrize("wide", [False, True])
def test_fields_stay_in_their_ranges_and_come_near_them(wide):
  options = dict.fromkeys(
    ("jitter", "blur", "solarize", "sharpness", "affine", "erasing"), 0.9
  )
  options |= dict(rotation=0.9, image_size=8, blur_kernel=3)
  if wide:
    options |= dict(
      jitter_strength=(3.0, 0.5, 0.0, 0.5),
      blur_sigma=(0.5, 7.0),
      solarize_threshold=(0.1, 0.3),
      sharpness_strength=4.0,
      affine_degrees=180.0,
      affine_scale=(0.1, 1.0),
    )
  policy = augment.ViewPolicy(**options)
  sizes = jnp.full((4096, 2), 40)

  @jax.jit
  def describe(key):
    drawn = augment.sample(key, policy, sizes)
    return augment.describe(drawn, jnp.zeros((4096, 3)), sizes, policy)

  ranges = augment.field_ranges((policy,))
  for name, value in describe(jax.random.key(0)).items():
    low, high = ranges[name]
    assert low - 1e-6 <= value.min() and value.max() <= high + 1e-6, name
    if name in ("blur", "color", "sharpness", "solarize"):
      near = 0.1 * (high - low)
      assert value.min() < low + near and value.max() > high - near, name
