"""Sharpness against PIL's, and its omega."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cassle_jax import augment, errors
from cassle_jax.augment.operations.sharpness import adjust_sharpness

sample = jax.jit(augment.sample, static_argnums=1)
describe = jax.jit(augment.describe, static_argnums=3)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_pixels_equal_pils(factor):
  # PIL rounds the smoothed image to whole levels before it blends.
  pixels = np.random.default_rng(0).integers(0, 256, (11, 14, 3), np.uint8)
  image = jnp.moveaxis(jnp.asarray(pixels, jnp.float32) / 255, -1, 0)
  found = adjust_sharpness(image, factor)
  expected = ImageEnhance.Sharpness(Image.fromarray(pixels)).enhance(factor)
  difference = 255 * np.moveaxis(found, 0, -1) - np.asarray(expected)
  assert np.abs(difference).max() < 1.0 + 0.5 * abs(1 - factor)
  if factor == 1.0:
    np.testing.assert_array_equal(found, image)


def test_smoothing_by_hand():
  image = jnp.zeros((1, 3, 3)).at[0, 1, 1].set(1.0)
  np.testing.assert_allclose(
    adjust_sharpness(image, 0.0)[0, 1, 1], 5 / 13, atol=1e-6
  )
  image = jnp.zeros((1, 5, 5)).at[0, 1, 1].set(1.0)
  found = adjust_sharpness(image, 0.0)[0]
  np.testing.assert_allclose(
    found[1:3, 1:3], [[5 / 13, 1 / 13]] * 1 + [[1 / 13] * 2]
  )
  assert found[0, 0] == 0 and found[3, 3] == 0


def test_omega_tells_the_factor_of_the_interval():
  policy = augment.ViewPolicy(
    image_size=8, sharpness=0.5, sharpness_strength=0.5
  )
  sizes = jnp.full((2000, 2), 20)
  drawn = sample(jax.random.key(0), policy, sizes)
  omega = describe(drawn, jnp.zeros((2000, 3)), sizes, policy)
  applied, factor = map(np.asarray, drawn["sharpness"])
  assert abs(applied.mean() - 0.5) < 0.04
  assert factor.min() >= 0.5 and factor.max() <= 1.5 and factor.std() > 0.25
  np.testing.assert_allclose(
    omega["sharpness"][:, 0], np.where(applied, factor - 1.0, 0.0), atol=1e-6
  )


def test_bad_values_are_refused():
  with pytest.raises(errors.UserError, match="sharpness_strength must be"):
    augment.build(sharpness=1.0, sharpness_strength=-1.0)
