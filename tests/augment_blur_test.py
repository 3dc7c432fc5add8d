"""Blur: published values, a float64 twin, both forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import errors
from cassle_jax.augment.operations import blur as blur_lib

FORMS = ("dense", "banded")
blur = jax.jit(blur_lib.blur, static_argnames=("kernel", "form"))


def twin(image, sigma, kernel):
  """Reflect padding and a sum over shifted copies, in float64."""
  offset = np.arange(kernel) - kernel // 2
  weight = np.exp(-(offset**2) / (2 * sigma**2))
  weight /= weight.sum()
  image = np.asarray(image, np.float64)
  for axis in (0, 1):
    padding = [(0, 0)] * 3
    padding[axis] = (kernel // 2, kernel // 2)
    padded = np.pad(image, padding, mode="reflect")
    image = sum(
      weight[tap] * np.take(padded, tap + np.arange(image.shape[axis]), axis)
      for tap in range(kernel)
    )
  return image


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel,first", [(9, 0), (23, 2)])
def test_blur_matches_published_pixels(golden, kernel, first, form):
  data = golden("aug_blur_64")
  images = golden("aug_images")["img64"][first::2] / 255
  actual = [
    blur(jnp.asarray(image), jnp.asarray(sigma), kernel=kernel, form=form)
    for image, sigma in zip(
      images.astype(np.float32), data["sigma"][first::2], strict=True
    )
  ]
  expected = np.moveaxis(data[f"k{kernel}"], 1, -1)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_weights_match_published_kernel(golden):
  data = golden("aug_blur_64")
  actual = jax.vmap(lambda s: blur_lib.gaussian_weights(s, 23))(
    jnp.asarray(data["sigma"])
  )
  np.testing.assert_allclose(actual, data["kernel1d_k23"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
  "size,kernel", [((12, 30), 23), ((40, 17), 9), ((5, 4), 3), ((2, 2), 3)]
)
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_matches_float64_twin(size, kernel, sigma, form):
  image = np.random.default_rng(0).uniform(size=(*size, 3)).astype(np.float32)
  actual = blur(
    jnp.asarray(image), jnp.float32(sigma), kernel=kernel, form=form
  )
  expected = twin(image, sigma, kernel)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_no_sigma_changes_nothing(form):
  image = np.random.default_rng(0).uniform(size=(9, 8, 3)).astype(np.float32)
  actual = blur(jnp.asarray(image), jnp.float32(0), kernel=5, form=form)
  np.testing.assert_array_equal(actual, image)


def test_default_kernel_is_odd_and_about_a_tenth():
  sizes = {224: 23, 96: 9, 32: 3, 64: 7, 16: 3, 8: 3, 384: 39}
  for size, kernel in sizes.items():
    assert blur_lib.default_kernel((size, size)) == kernel
  assert blur_lib.default_kernel((224, 96)) == 9


@pytest.mark.parametrize("kernel", [0, 4, -3])
def test_even_kernel_is_refused(kernel):
  with pytest.raises(errors.UserError, match="odd"):
    blur_lib.blur(jnp.zeros((32, 32, 3)), jnp.float32(1), kernel=kernel)


def test_image_too_small_for_the_kernel_is_refused():
  blur_lib.check_kernel(23, (12, 12))
  with pytest.raises(errors.UserError, match="too small.*at least 12 pixels"):
    blur_lib.blur(jnp.zeros((11, 40, 3)), jnp.float32(1), kernel=23)
