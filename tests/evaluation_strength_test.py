"""Strength curves: the right pictures, float64 twins, and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_network import network, pictures
from PIL import Image
from scipy import stats

from cassle_jax import augment
from cassle_jax.errors import UserError
from cassle_jax.evaluation import pairs, strength

POLICY = augment.ViewPolicy(
  image_size=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), blur_kernel=5
)


def changed(name, value, images):
  """Pixels of t_s(x), in [0, 1]."""
  still = pairs.untouched(POLICY)
  sizes = np.asarray(augment.full_sizes(images))
  return pairs.encode_views(
    jax.device_get(strength.parameters(name, value, sizes, still)),
    images,
    policy=pairs.only(strength.operation_of(name), POLICY),
    function=lambda x: x,
  ).outputs


def expected_pixels(name, value, x):
  """The operations in float64, written out once more."""
  if name == "brightness":
    return np.clip(value * x, 0, 1)
  if name == "contrast":
    mean = np.mean(x @ [0.2989, 0.587, 0.114], axis=(1, 2))
    return np.clip(value * x + (1 - value) * mean[:, None, None, None], 0, 1)
  if name == "solarize":
    return np.where(x >= value, 1 - x, x)
  if name == "rotation":
    return np.rot90(x, int(value), axes=(1, 2))
  if name in ("saturation", "hue"):
    import colorsys

    out = np.empty_like(x)
    for place in np.ndindex(x.shape[:3]):
      h, s, v = colorsys.rgb_to_hsv(*x[place])
      if name == "hue":
        h = (h + value) % 1
      else:
        s = min(1, s * value)
      out[place] = colorsys.hsv_to_rgb(h, s, v)
    return out
  if name == "blur":
    taps = np.exp(-0.5 * (np.arange(-2, 3) / value) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
      width = [(0, 0)] * 4
      width[axis] = (2, 2)
      padded = np.pad(x, width, mode="reflect")
      x = sum(
        tap * np.take(padded, np.arange(i, i + 16), axis=axis)
        for i, tap in enumerate(taps)
      )
    return x
  raise AssertionError(name)


@pytest.mark.parametrize(
  "name, value",
  [
    ("brightness", 0.4),
    ("contrast", 1.7),
    ("saturation", 0.25),
    ("saturation", 1.5),
    ("hue", -0.3),
    ("blur", 1.25),
    ("solarize", 0.4),
    ("rotation", 3.0),
  ],
)
def test_one_parameter_is_what_its_name_says(name, value):
  images = pictures(5)
  found = changed(name, value, images)
  x = images.astype(np.float64) / 255
  np.testing.assert_allclose(found, expected_pixels(name, value, x), atol=2e-5)


def test_crop_is_the_middle_of_the_picture():
  images = pictures(5)
  # A quarter of the area: the middle half of each side.
  found = changed("crop", 0.25, images)
  for image, view in zip(images, found, strict=True):
    middle = Image.fromarray(image[4:12, 4:12])
    expected = np.asarray(middle.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(view, expected / 255, atol=1.01 / 255)


@pytest.mark.parametrize("name", strength.sweeps())
def test_neutral_values_leave_the_picture_as_it_is(name):
  images = pictures(5)
  images[images == 255] = 254  # A threshold of 1 inverts pure white.
  sweep = strength.sweeps()[name]
  assert sweep.neutral in sweep.values
  assert tuple(sorted(sweep.values)) == sweep.values
  found = changed(name, sweep.neutral, images)
  np.testing.assert_allclose(found, images / 255.0, atol=2e-6)


def measured(names, count=9, **options):
  return strength.measure(
    pictures(count),
    policy=POLICY,
    encode=lambda images: network()[0](images)["backbone"],
    names=names,
    **options,
  )


def test_curves_equal_their_float64_twin():
  images = pictures(9)
  found = measured(("brightness", "rotation"), batch_size=16)
  encode = network()[0]
  reference = np.asarray(
    encode(jnp.asarray(images / 255.0, jnp.float32))["backbone"], np.float64
  )
  assert tuple(found) == ("brightness", "rotation")
  for name, curve in found.items():
    assert curve.name == name
    for s, value in enumerate(curve.values):
      x = expected_pixels(name, value, images / 255.0)
      features = np.asarray(
        encode(jnp.asarray(x, jnp.float32))["backbone"], np.float64
      )
      cosine = np.sum(features * reference, axis=1) / np.sqrt(
        np.sum(features**2, axis=1) * np.sum(reference**2, axis=1)
      )
      np.testing.assert_allclose(curve.similarity[s], cosine, atol=2e-5)
      assert curve.mean[s] == pytest.approx(cosine.mean(), abs=2e-5)
      error = np.sqrt(np.sum((cosine - cosine.mean()) ** 2) / 8 / 9)
      error *= stats.t.ppf(0.975, 8)
      assert curve.interval[s] == pytest.approx(error, abs=2e-5)
  curve = found["brightness"]
  neutral = int(np.flatnonzero(curve.values == curve.neutral)[0])
  assert curve.mean[neutral] == pytest.approx(1, abs=1e-5)
  assert curve.mean[neutral] > max(curve.mean[0], curve.mean[-1])


def test_curves_do_not_depend_on_the_batch():
  expected = measured(("hue",), batch_size=9)["hue"]
  for batch_size in (4, 32):
    found = measured(("hue",), batch_size=batch_size)["hue"]
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-5)


def test_one_image_has_no_interval():
  curve = measured(("rotation",), count=1)["rotation"]
  assert curve.similarity.shape == (len(curve.values), 1)
  assert np.all(np.isnan(curve.interval))
  with pytest.raises(UserError, match="strength curve 'hues'.*Did you mean"):
    measured(("hues",))


def test_trained_intervals_are_the_policys():
  policy = augment.ViewPolicy(
    jitter_strength=(0.4, 0.3, 0.0, 0.1), solarize=0.2, blur=0.0
  )
  found = {name: strength.trained(name, policy) for name in strength.sweeps()}
  assert found == {
    "brightness": (0.6, 1.4),
    "contrast": (0.7, 1.3),
    "saturation": None,
    "hue": (-0.1, 0.1),
    "blur": None,
    "sharpness": None,
    "crop": (0.2, 1.0),
    "affine_angle": None,
    "affine_scale": None,
    "solarize": (0.5, 0.5),
    "erasing": None,
    "rotation": None,
  }
