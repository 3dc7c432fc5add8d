"""Colour operations: published values, colorsys and numpy in float64."""

import colorsys
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax.augment import planes
from cassle_jax.augment.operations import jitter as color
from cassle_jax.augment.operations.grayscale import to_grayscale
from cassle_jax.augment.operations.solarize import invert_above

OPERATIONS = {
  "brightness": color.adjust_brightness,
  "contrast": color.adjust_contrast,
  "saturation": color.adjust_saturation,
  "hue": color.adjust_hue,
}
GRAY = np.array([0.2989, 0.587, 0.114])


def float_images(golden):
  return jnp.asarray(golden("aug_images")["img64"] / 255, jnp.float32)


def channels_last(array):
  return np.moveaxis(array, -3, -1)


def some_pixels(key=0, shape=(6, 7, 3)):
  """Colours of all kinds, greys, black and white among them."""
  image = np.random.default_rng(key).uniform(size=shape)
  image[0, 0] = 0.0
  image[0, 1] = 1.0
  image[0, 2] = 0.3
  image[0, 3] = [1.0, 0.0, 0.0]
  image[0, 4] = [0.2, 0.7, 0.7]
  return image.astype(np.float32)


def twin(op, image, factor):
  """One jitter operation in float64, pixel by pixel where it is HSV."""
  image = np.asarray(image, np.float64)
  if op == "brightness":
    return np.clip(factor * image, 0, 1)
  if op == "contrast":
    mean = (image @ GRAY).mean()
    return np.clip(factor * image + (1 - factor) * mean, 0, 1)
  out = np.empty_like(image)
  for index in np.ndindex(image.shape[:2]):
    h, s, v = colorsys.rgb_to_hsv(*image[index])
    if op == "saturation":
      s = min(s * factor, 1.0)
    else:
      h = (h + factor) % 1.0
    out[index] = colorsys.hsv_to_rgb(h, s, v)
  return out


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_match_published_pixels(golden, name):
  data = golden("aug_color_64")
  expected = channels_last(data[name])
  images = float_images(golden)[: len(expected)]
  factors = jnp.asarray(data[name + "_factor"])
  actual = jax.vmap(OPERATIONS[name])(images, factors)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_half_turns_of_hue_match_published_pixels(golden):
  data = golden("aug_color_64")
  actual = jax.vmap(color.adjust_hue)(
    float_images(golden)[:2], jnp.asarray(data["hue_wide_factor"])
  )
  expected = channels_last(data["hue_wide"])
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("factor", [0.0, 0.3, 0.9, 1.7])
def test_operations_match_float64_twin(name, factor):
  factor = factor / 4 - 0.2 if name == "hue" else factor
  image = some_pixels()
  actual = jax.jit(OPERATIONS[name])(jnp.asarray(image), jnp.float32(factor))
  expected = twin(name, image, factor)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)


def test_blend_saturation_is_torchvisions():
  image = some_pixels()
  gray = (image @ GRAY)[..., None]
  for factor in (0.0, 0.4, 1.6):
    actual = color.adjust_saturation(
      jnp.asarray(image), jnp.float32(factor), form="blend"
    )
    expected = np.clip(factor * image + (1 - factor) * gray, 0, 1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_neutral_factors_return_the_image_bit_for_bit():
  image = jnp.asarray(some_pixels())
  one, zero = jnp.float32(1), jnp.float32(0)
  for actual in (
    color.adjust_brightness(image, one),
    color.adjust_contrast(image, one),
    color.adjust_saturation(image, one),
    color.adjust_saturation(image, one, form="blend"),
    color.adjust_hue(image, zero),
    color.adjust_hsv(image, one, zero),
    invert_above(image, jnp.float32(1.5)),
  ):
    np.testing.assert_array_equal(actual, image)


def test_planar_layout_gives_the_same():
  image = jnp.asarray(some_pixels())
  planar = jnp.moveaxis(image, -1, 0)
  factor = jnp.float32(1.3)
  for operation in (
    color.adjust_contrast,
    color.adjust_saturation,
    color.adjust_hue,
  ):
    chex.assert_trees_all_close(
      jnp.moveaxis(operation(planar, factor, axis=-3), 0, -1),
      operation(image, factor),
      atol=1e-6,
    )


def test_jitter_matches_published_pixels_in_all_orders(golden):
  data = golden("aug_jitter_orders")
  images = float_images(golden)[:4, 16:48, 16:48]
  names = ("brightness", "contrast", "saturation", "hue")
  factors = jnp.asarray(np.stack([data[n + "_factor"] for n in names], 1))

  def one_order(order):
    return jax.vmap(color.jitter, (0, 0, None))(images, factors, order)

  actual = jax.jit(jax.vmap(one_order))(jnp.asarray(data["orders"]))
  assert actual.shape[0] == 24
  expected = channels_last(data["out"])
  np.testing.assert_allclose(actual[:, :, ::2], expected, rtol=0, atol=1e-5)
  change = images.mean((1, 2))[None] - actual.mean((2, 3))
  np.testing.assert_allclose(change, data["x_means_diff"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("saturation", ["hsv", "blend"])
def test_jitter_is_its_operations_one_after_the_other(saturation):
  image = jnp.asarray(some_pixels())
  factors = jnp.asarray([1.5, 0.6, 1.9, -0.15])
  jitter = jax.jit(
    lambda o: color.jitter(image, factors, o, saturation=saturation)
  )
  for order in itertools.permutations(range(4)):
    expected = image
    for op in order:
      name = list(OPERATIONS)[op]
      extra = {"form": saturation} if name == "saturation" else {}
      expected = OPERATIONS[name](expected, factors[op], **extra)
    actual = jitter(jnp.asarray(order))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6)


def test_grayscale_and_solarize_match_published_pixels(golden):
  data = golden("aug_misc_64")
  images = float_images(golden)
  gray = to_grayscale(images)
  for channel in range(3):
    expected = data["grayscale_1ch"][:, 0]
    np.testing.assert_allclose(
      gray[: len(expected), ..., channel], expected, rtol=0, atol=1e-6
    )
  thresholds = jnp.asarray(data["solarize_thresholds"])
  actual = jax.vmap(invert_above)(images, thresholds)
  expected = channels_last(data["solarize"])
  np.testing.assert_allclose(actual[:, ::4], expected, rtol=0, atol=1e-6)


def test_solarize_inverts_from_the_threshold_on():
  image = jnp.full((1, 2, 3), jnp.array([0.25, 0.5, 0.75])[None, None, :])
  actual = invert_above(image, jnp.float32(0.5))[0, 0]
  np.testing.assert_array_equal(actual, [0.25, 0.5, 0.25])


def test_normalize_matches_published_pixels(golden):
  data = golden("aug_misc_64")
  actual = planes.normalize(
    float_images(golden)[:2],
    data["mean_imagenet"].tolist(),
    data["std_imagenet"].tolist(),
  )
  expected = channels_last(data["normalize_imagenet"])
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_channel_means_of_both_layouts():
  image = some_pixels()
  expected = image.astype(np.float64).mean((0, 1))
  last = planes.channel_means(jnp.asarray(image))
  first = planes.channel_means(jnp.moveaxis(jnp.asarray(image), -1, 0), axis=-3)
  np.testing.assert_allclose(last.reshape(3), expected, rtol=1e-6)
  np.testing.assert_allclose(first.reshape(3), expected, rtol=1e-6)
