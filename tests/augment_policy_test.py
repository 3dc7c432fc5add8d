"""Policies: the presets of the methods, overrides, refusals."""

import dataclasses
import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import errors
from cassle_jax.augment import policy as policy_lib

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
FIRST, SECOND = dict(blur=1.0, solarize=0.0), dict(blur=0.1, solarize=0.2)
EXPECTED = {
  "cassle": (MOCO, MOCO),
  "byol": (BYOL | FIRST, BYOL | SECOND),
  "mocov3_vit": (BYOL | FIRST, BYOL | SECOND),
  "mocov3_resnet": (
    BYOL | FIRST | dict(crop_scale=(0.2, 1.0)),
    BYOL | SECOND | dict(crop_scale=(0.2, 1.0)),
  ),
  "simclr": (
    MOCO | dict(crop_scale=(0.08, 1.0), jitter_strength=(0.8, 0.8, 0.8, 0.2)),
  )
  * 2,
}


@pytest.mark.parametrize("preset", EXPECTED)
def test_presets_are_the_methods(preset):
  for view, expected in zip(
    policy_lib.build(preset=preset), EXPECTED[preset], strict=True
  ):
    for name, value in expected.items():
      assert getattr(view, name) == value, name
    assert view.image_size == (224, 224)
    assert view.blur_kernel == 23
    assert view.blur_sigma == (0.1, 2.0)
    assert view.crop_ratio == (3 / 4, 4 / 3)
    assert view.solarize_threshold == 0.5
    assert view.rotation == 0
    assert view.jitter_order == "image" and view.saturation == "hsv"


def test_every_preset_is_checked():
  assert set(policy_lib.presets) == set(EXPECTED)


def test_every_argument_of_build_is_an_attribute_of_the_policy():
  arguments = set(inspect.signature(policy_lib.build).parameters) - {"preset"}
  attributes = {f.name for f in dataclasses.fields(policy_lib.ViewPolicy)}
  assert arguments == attributes
  for name in attributes:
    assert f"\n    {name}:" in policy_lib.ViewPolicy.__doc__, name


def test_policies_are_hashable_and_equal_by_value():
  first, second = policy_lib.build(preset="cassle", image_size=96)
  assert first == second and hash(first) == hash(second)
  assert first != policy_lib.build(preset="cassle", image_size=64)[0]


def test_one_value_overrides_both_views_and_a_pair_each():
  first, second = policy_lib.build(
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
  assert first.solarize_interval == (0.1, 0.9)
  assert second.solarize_interval == (0.5, 0.5)
  assert first.crop and not second.crop
  assert first.solarize == 0 and second.solarize == 0.2
  assert first.image_size == (96, 128) and first.blur_kernel == 9


def test_jitter_intervals_never_go_below_zero():
  policy = policy_lib.ViewPolicy(jitter_strength=(0.4, 1.5, 0.0, 0.1))
  expected = ((0.6, 1.4), (0.0, 2.5), (1.0, 1.0), (-0.1, 0.1))
  np.testing.assert_allclose(policy.jitter_intervals, expected)


def test_dtype_may_be_a_jax_type():
  assert policy_lib.ViewPolicy(dtype=jnp.bfloat16).dtype == "bfloat16"


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
    (dict(blur=(0.5, 0.1, 0.1)), "one for each view"),
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
    policy_lib.build(**arguments)
  assert "\n" not in str(caught.value)


def test_a_small_image_without_blur_is_fine():
  policy_lib.build(image_size=11, blur_kernel=23, blur=0.0)


def test_active_fields_are_those_that_some_view_changes():
  everything = policy_lib.build(preset="byol", rotation=0.5)
  assert policy_lib.active_fields(everything) == (
    "blur",
    "color",
    "color_diff",
    "crop",
    "flip",
    "grayscale",
    "rotation",
    "solarize",
  )
  second_only = policy_lib.build(preset="cassle", blur=(0.0, 0.1))
  assert "blur" in policy_lib.active_fields(second_only)
  assert "solarize" not in policy_lib.active_fields(second_only)
  off = dict(crop=False, flip=0.0, grayscale=0.0, blur=0.0)
  assert policy_lib.active_fields(policy_lib.build(**off)) == (
    "color",
    "color_diff",
  )
  still = policy_lib.build(**off, jitter_strength=(0.0, 0.0, 0.0, 0.0))
  assert policy_lib.active_fields(still) == ()
