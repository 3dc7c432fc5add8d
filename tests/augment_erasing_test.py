"""Random erasing: pixels by hand, draws and omega."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import augment, errors
from cassle_jax.augment.operations.erasing import erase


def test_pixels_whose_centres_lie_in_the_box():
  image = jnp.ones((3, 4, 8))
  box = jnp.asarray([0.5, 0.25, 0.5, 0.25])  # Rows 1 and 2, columns 1 and 2.
  found = np.asarray(erase(image, box, (0.1, 0.2, 0.3)))
  expected = np.ones((3, 4, 8), np.float32)
  expected[:, 1:3, 1:3] = np.float32([0.1, 0.2, 0.3])[:, None, None]
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_array_equal(erase(image, jnp.zeros(4), (0, 0, 0)), image)


def test_the_box_becomes_zero_where_omega_says():
  images = np.random.default_rng(0).integers(1, 255, (64, 16, 16, 3), np.uint8)
  policy = augment.ViewPolicy(image_size=16, erasing=0.5)
  views = jax.jit(augment.views, static_argnums=3)
  sizes = augment.full_sizes(images)
  (view,) = views(jax.random.key(0), images, sizes, (policy,))
  zero = np.all(np.abs(view.image) < 1e-6, axis=-1)
  y, x, tall, wide = np.asarray(view.omega["erasing"]).T
  applied = tall > 0
  assert 15 < applied.sum() < 49
  np.testing.assert_array_equal(
    view.omega["erasing"][~applied], [[0.5, 0.5, 0, 0]] * (~applied).sum()
  )
  place = (np.arange(16) + 0.5) / 16
  inside = (np.abs(place - y[:, None]) < tall[:, None] / 2)[:, :, None] & (
    np.abs(place - x[:, None]) < wide[:, None] / 2
  )[:, None, :]
  np.testing.assert_array_equal(zero, inside)


def test_boxes_have_the_settings_areas_and_lie_inside():
  policy = augment.ViewPolicy(
    image_size=8, erasing=1.0, erasing_scale=(0.1, 0.3), erasing_ratio=(0.5, 2)
  )
  sample = jax.jit(augment.sample, static_argnums=1)
  drawn = sample(jax.random.key(0), policy, jnp.full((4000, 2), 20))
  y, x, tall, wide = np.asarray(drawn["erasing"].box).T
  area, ratio = tall * wide, np.log(wide / tall)
  assert area.min() > 0.0999 and area.max() < 0.3001
  assert abs(area.mean() - 0.2) < 0.005
  assert abs(ratio.mean()) < 0.02 and np.abs(ratio).max() < np.log(2) + 1e-4
  for center, side in ((y, tall), (x, wide)):
    assert (center - side / 2).min() > -1e-6
    assert (center + side / 2).max() < 1 + 1e-6
    assert abs(center.mean() - 0.5) < 0.01


def test_one_image_is_painted_with_the_mean_that_is_given():
  image = np.full((16, 16, 3), 51, np.uint8)
  options = dict(operation="erasing", probability=1.0)
  for mean in ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3)):
    found, _ = augment.single(
      jax.random.key(0),
      image,
      **options,
      **({} if mean[0] == 0.5 else {"mean": mean}),
    )
    colors = np.unique(np.round(np.reshape(found, (-1, 3)), 6), axis=0)
    expected = np.unique(np.float32([mean, (0.2, 0.2, 0.2)]), axis=0)
    np.testing.assert_allclose(colors, expected, atol=1e-6)


def test_bad_values_are_refused():
  with pytest.raises(errors.UserError, match="erasing_scale must be two"):
    augment.build(erasing=1.0, erasing_scale=(0.0, 0.3))
