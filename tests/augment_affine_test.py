"""Rotation by an angle and scaling: against scipy, exact cases, its omega."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cassle_jax import augment, errors
from cassle_jax.augment.operations.affine import rotate_and_scale

sample = jax.jit(augment.sample, static_argnums=1)
describe = jax.jit(augment.describe, static_argnums=3)


def planes(size=(9, 12)):
  return np.random.default_rng(0).random((3, *size), np.float32)


@pytest.mark.parametrize(
  "degrees,scale", [(0, 1.0), (17, 1.0), (-40, 0.7), (123, 1.6)]
)
def test_pixels_equal_scipys(degrees, scale):
  image = planes()
  found = rotate_and_scale(jnp.asarray(image), math.radians(degrees), scale)
  angle = math.radians(degrees)
  # Rows then columns; counter-clockwise where y points down.
  matrix = np.array(
    [
      [math.cos(angle), math.sin(angle)],
      [-math.sin(angle), math.cos(angle)],
    ]
  )
  middle = (np.array(image.shape[1:]) - 1) / 2
  offset = middle - matrix / scale @ middle
  expected = [
    ndimage.affine_transform(
      plane.astype(np.float64), matrix / scale, offset, order=1, mode="mirror"
    )
    for plane in image
  ]
  np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_are_those_of_rot90(turns):
  image = planes((8, 8))
  angle = turns * math.pi / 2
  found = rotate_and_scale(jnp.asarray(image), angle, 1.0)
  np.testing.assert_allclose(found, np.rot90(image, turns, (1, 2)), atol=1e-5)


def test_omega_tells_the_angle_and_the_scale():
  policy = augment.ViewPolicy(
    image_size=8, affine=0.5, affine_degrees=90.0, affine_scale=(0.5, 2.0)
  )
  sizes = jnp.full((4000, 2), 20)
  drawn = sample(jax.random.key(0), policy, sizes)
  omega = describe(drawn, jnp.zeros((4000, 3)), sizes, policy)["affine"]
  applied, angle, log_scale = map(np.asarray, drawn["affine"])
  assert abs(applied.mean() - 0.5) < 0.03
  np.testing.assert_array_equal(omega[~applied], [[0, 1, 0]] * (~applied).sum())
  np.testing.assert_allclose(
    omega[applied],
    np.stack([np.sin(angle), np.cos(angle), log_scale], 1)[applied],
    atol=1e-6,
  )
  for value, limit in ((angle, math.pi / 2), (log_scale, math.log(2))):
    assert np.abs(value).max() <= limit and np.abs(value).max() > 0.99 * limit
    assert abs(value.mean()) < 0.05 and abs(value.std() - limit / 3**0.5) < 0.05


@pytest.mark.parametrize("form", ["dense", "banded"])
def test_a_view_is_turned_after_it_was_cropped(form):
  images = np.random.default_rng(1).integers(0, 256, (4, 12, 12, 3), np.uint8)
  off = dict(flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
  plain = augment.ViewPolicy(image_size=12, crop=False, **off)
  turned = augment.ViewPolicy(image_size=12, crop=False, affine=1.0, **off)
  sizes = augment.full_sizes(images)
  drawn = sample(jax.random.key(0), turned, sizes)
  make = jax.jit(augment.make, static_argnames=("policy", "form"))
  before = make(drawn, images, sizes, policy=plain, form=form).image
  after = make(drawn, images, sizes, policy=turned, form=form).image
  expected = jax.vmap(rotate_and_scale)(
    jnp.moveaxis(before, -1, 1),
    drawn["affine"].angle,
    jnp.exp(drawn["affine"].log_scale),
  )
  np.testing.assert_allclose(after, jnp.moveaxis(expected, 1, -1), atol=2e-5)


def test_bad_values_are_refused():
  with pytest.raises(errors.UserError, match="affine_degrees must be a number"):
    augment.build(affine=1.0, affine_degrees=200.0)
  with pytest.raises(errors.UserError, match="affine_scale must be two rising"):
    augment.build(affine=1.0, affine_scale=(1.5, 0.5))
