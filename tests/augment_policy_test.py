"""Policies: the presets of the methods, overrides, refusals."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import augment, errors

MOCO = dict(
  crop_scale=(0.2, 1.0),
  flip=0.5,
  jitter=0.8,
  jitter_strength=(0.4, 0.4, 0.4, 0.1),
  grayscale=0.2,
  blur=0.5,
  solarize=0.0,
)
BYOL = MOCO | dict(crop_scale=(0.08, 1.0), jitter_strength=(0.4, 0.4, 0.2, 0.1))
SIMCLR = MOCO | dict(
  crop_scale=(0.08, 1.0), jitter_strength=(0.8, 0.8, 0.8, 0.2)
)
FIRST, SECOND = dict(blur=1.0, solarize=0.0), dict(blur=0.1, solarize=0.2)


def scaled(base, *scale):
  return base | dict(crop_scale=scale)


# Name: first global view, second global view, local crops, number of these.
LOCAL = scaled(BYOL, 0.05, 0.4) | dict(blur=0.5, solarize=0.0)
EXPECTED = {
  "cassle": (MOCO, MOCO, scaled(MOCO, 0.05, 0.4), 0),
  "byol": (BYOL | FIRST, BYOL | SECOND, LOCAL, 0),
  "mocov3_vit": (BYOL | FIRST, BYOL | SECOND, LOCAL, 0),
  "mocov3_resnet": (
    scaled(BYOL | FIRST, 0.2, 1.0),
    scaled(BYOL | SECOND, 0.2, 1.0),
    LOCAL,
    0,
  ),
  "simclr": (SIMCLR, SIMCLR, scaled(SIMCLR, 0.05, 0.4), 0),
  "swav": (
    scaled(SIMCLR, 0.14, 1.0),
    scaled(SIMCLR, 0.14, 1.0),
    scaled(SIMCLR, 0.05, 0.14),
    6,
  ),
  "dino": (
    scaled(BYOL | FIRST, 0.4, 1.0),
    scaled(BYOL | SECOND, 0.4, 1.0),
    LOCAL,
    8,
  ),
}


@pytest.mark.parametrize("local_views", [None, 0, 1])
@pytest.mark.parametrize("preset", EXPECTED)
def test_presets_are_the_methods(preset, local_views):
  *both, local, count = EXPECTED[preset]
  expected = both + [local] * (count if local_views is None else local_views)
  views = augment.build(preset=preset, local_views=local_views)
  for index, (view, values) in enumerate(zip(views, expected, strict=True)):
    for name, value in values.items():
      assert getattr(view, name) == value, name
    assert view.image_size == ((224, 224) if index < 2 else (96, 96))
    assert view.blur_kernel == (23 if index < 2 else 9)
    assert view.blur_sigma == (0.1, 2.0)
    assert view.crop_ratio == (3 / 4, 4 / 3)
    assert view.solarize_threshold == 0.5
    assert view.rotation == 0
    assert view.jitter_order == "image" and view.saturation == "hsv"


def test_every_preset_is_checked():
  assert set(augment.presets) == set(EXPECTED)


def test_every_argument_of_build_is_an_attribute_of_the_policy():
  policy = augment.ViewPolicy()
  for key in augment.recipes.keys():
    hash(getattr(policy, key))
  for record in augment.OPERATIONS.values():
    for field in dataclasses.fields(record.settings):
      assert f"\n    {field.name}: " in record.settings.__doc__, field.name


def test_an_unknown_key_is_refused_with_the_nearest_one():
  for make in (augment.build, augment.ViewPolicy):
    with pytest.raises(errors.UserError, match="augment.blur_sgima.*'blur_sig"):
      make(blur_sgima=(0.1, 2.0))


@pytest.mark.parametrize(
  "image_size,expected",
  [
    (224, 96),
    (32, 16),
    (96, 48),
    (64, 32),
    (16, 16),
    (448, 192),
    ((224, 96), (96, 48)),
  ],
)
def test_local_crops_keep_the_published_ratio(image_size, expected):
  *_, local = augment.build(preset="dino", image_size=image_size)
  assert local.image_size == (
    expected if isinstance(expected, tuple) else (expected, expected)
  )


def test_local_crops_have_their_own_number_size_and_scale():
  views = augment.build(
    preset="cassle",
    image_size=64,
    local_views=3,
    local_size=40,
    local_scale=[0.1, 0.3],
  )
  assert [view.image_size[0] for view in views] == [64, 64, 40, 40, 40]
  assert [view.crop_scale for view in views] == [(0.2, 1.0)] * 2 + [
    (0.1, 0.3)
  ] * 3
  assert [view.blur_kernel for view in views] == [7, 7, 5, 5, 5]


def test_overrides_of_local_crops():
  """One value is for all views, two for the global ones, three for each."""
  first, second, *locals_ = augment.build(
    preset="dino",
    local_views=2,
    flip=0.25,
    crop_scale=(0.3, 0.9),
    blur=(0.6, 0.7),
    grayscale=(0.1, 0.2, 0.3),
    jitter_strength=((0.1,) * 4, (0.2,) * 4, [0.3] * 4),
    crop_ratio=((0.5, 2.0), (0.6, 1.0)),
    mean=(0.5, 0.5, 0.5),
    blur_kernel=5,
  )
  local, other = locals_
  assert local == other
  assert first.flip == second.flip == local.flip == 0.25
  assert first.crop_scale == second.crop_scale == (0.3, 0.9)
  assert local.crop_scale == (0.05, 0.4)
  assert (first.blur, second.blur, local.blur) == (0.6, 0.7, 0.5)
  assert (first.grayscale, second.grayscale, local.grayscale) == (0.1, 0.2, 0.3)
  assert first.jitter_strength == (0.1,) * 4
  assert local.jitter_strength == (0.3,) * 4
  assert second.crop_ratio == (0.6, 1.0)
  assert local.crop_ratio == (3 / 4, 4 / 3)
  assert local.mean == first.mean == (0.5, 0.5, 0.5)
  assert first.blur_kernel == local.blur_kernel == 5
  assert (first.solarize, second.solarize, local.solarize) == (0, 0.2, 0)


def test_policies_are_hashable_and_equal_by_value():
  first, second = augment.build(preset="cassle", image_size=96)
  assert first == second and hash(first) == hash(second)
  assert first != augment.build(preset="cassle", image_size=64)[0]


def test_one_value_overrides_both_views_and_a_pair_each():
  first, second = augment.build(
    preset="byol",
    image_size=(96, 128),
    blur=(0.3, 0.7),
    grayscale=0.0,
    crop_scale=[0.5, 1.0],
    jitter_strength=((0.1, 0.1, 0.1, 0.1), (0.2, 0.2, 0.2, 0.2)),
    solarize_threshold=((0.1, 0.9), (0.5, 0.5)),
    crop=(True, False),
  )
  assert (first.blur, second.blur) == (0.3, 0.7)
  assert first.grayscale == second.grayscale == 0
  assert first.crop_scale == second.crop_scale == (0.5, 1.0)
  assert first.jitter_strength[0] == 0.1 and second.jitter_strength[0] == 0.2
  assert first["solarize"].interval == (0.1, 0.9)
  assert second["solarize"].interval == (0.5, 0.5)
  assert first.crop and not second.crop
  assert first.solarize == 0 and second.solarize == 0.2
  assert first.image_size == (96, 128) and first.blur_kernel == 9


def test_jitter_intervals_never_go_below_zero():
  policy = augment.ViewPolicy(jitter_strength=(0.4, 1.5, 0.0, 0.1))
  expected = ((0.6, 1.4), (0.0, 2.5), (1.0, 1.0), (-0.1, 0.1))
  np.testing.assert_allclose(policy["jitter"].intervals, expected)


def test_dtype_may_be_a_jax_type():
  assert augment.ViewPolicy(dtype=jnp.bfloat16).dtype == "bfloat16"


@pytest.mark.parametrize(
  "arguments,message",
  [
    (dict(preset="casle"), "'casle'. Did you mean 'cassle'"),
    (dict(image_size=0), "image_size must be"),
    (dict(image_size=(32, 32, 3)), "image_size must be"),
    (dict(image_size=32.0), "image_size must be"),
    (dict(image_size=11, blur_kernel=23), "too small for blur_kernel 23"),
    (dict(blur_kernel=4), "must be odd"),
    (dict(blur_kernel=-1), "blur_kernel must be"),
    (dict(flip=1.5), "flip must be a probability"),
    (dict(flip="yes"), "flip must be a probability"),
    (dict(blur=(0.5, 0.1, 0.1)), "a third value.*set augment.local_views"),
    (dict(blur=(0.5,)), "one for each global view"),
    (dict(blur=(0.5,) * 4, local_views=1), "or of three, the last for local"),
    (
      dict(crop_scale=((0.2, 1.0),) * 3, local_views=1),
      "local crops have augment.local_scale",
    ),
    (dict(local_views=-1), "local_views must be the number"),
    (dict(local_views=True), "local_views must be the number"),
    (dict(local_views=1, local_size=0), "local_size must be an integer"),
    (dict(local_views=1, local_size=9.0), "local_size must be an integer"),
    (dict(local_views=1, local_scale=(0.4, 0.05)), "local_scale must be two"),
    (dict(local_views=1, local_scale=0.4), "local_scale must be two"),
    (dict(local_views=1, local_scale=(0.0, 0.4)), "local_scale must be two"),
    (dict(local_size=16), "local_size=16 concerns local crops"),
    (dict(local_scale=(0.1, 0.2)), "concerns local crops, but there are none"),
    (dict(local_views=1, local_size=8, blur_kernel=23), "image of 8x8 is too"),
    (dict(crop_scale=0.2), "crop_scale must be"),
    (dict(crop_scale=(0.0, 1.0)), "crop_scale must be"),
    (dict(crop_scale=(1.0, 0.2)), "crop_scale must be"),
    (dict(crop_ratio=(0.5,)), "crop_ratio must be"),
    (dict(jitter_strength=(0.4, 0.4, 0.4)), "jitter_strength must be"),
    (dict(jitter_strength=(0.4, 0.4, 0.4, 0.6)), "hue at most 0.5"),
    (dict(jitter_order="random"), "jitter_order 'random'.*Valid: batch"),
    (dict(saturation="hsl"), "saturation 'hsl'. Did you mean 'hsv'"),
    (dict(dtype="float16"), "dtype 'float16'.*Valid: bfloat16, float32"),
    (dict(blur_sigma=(2.0, 0.1)), "blur_sigma must be"),
    (dict(solarize_threshold=1.5), "solarize_threshold must be"),
    (dict(solarize_threshold=(0.9, 0.1)), "solarize_threshold must be"),
    (dict(rotation=1.0, image_size=(32, 48)), "rotation must be"),
    (dict(crop=1), "crop must be True or False"),
    (dict(mean=(0.5, 0.5)), "mean must be three numbers"),
    (dict(std=(0.5, 0.5, 0.0)), "std must be three positive"),
    (dict(flip=float("nan")), "flip must be a probability"),
  ],
)
def test_bad_values_are_refused_in_one_line(arguments, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    augment.build(**arguments)
  assert "\n" not in str(caught.value)


def test_a_small_image_without_blur_is_fine():
  augment.build(image_size=11, blur_kernel=23, blur=0.0)


def test_active_fields_are_those_that_some_view_changes():
  everything = augment.build(preset="byol", rotation=0.5)
  assert augment.active_fields(everything) == (
    "blur",
    "color",
    "color_diff",
    "crop",
    "flip",
    "grayscale",
    "rotation",
    "solarize",
  )
  in_local_crops = augment.build(
    blur=(0.0, 0.0, 0.5), solarize=(0.0, 0.0, 0.1), local_views=1
  )
  assert {"blur", "solarize"} <= set(augment.active_fields(in_local_crops))
  second_only = augment.build(preset="cassle", blur=(0.0, 0.1))
  assert "blur" in augment.active_fields(second_only)
  assert "solarize" not in augment.active_fields(second_only)
  off = dict(crop=False, flip=0.0, grayscale=0.0, blur=0.0)
  assert augment.active_fields(augment.build(**off)) == (
    "color",
    "color_diff",
  )
  still = augment.build(**off, jitter_strength=(0.0, 0.0, 0.0, 0.0))
  assert augment.active_fields(still) == ()
