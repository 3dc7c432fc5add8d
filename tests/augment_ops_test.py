"""Single operations: one contract, checked for each of them."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import augment, errors
from cassle_jax.augment import omega, planes
from cassle_jax.augment.operations import blur, crop, jitter

# Operation -> fields of omega that it decides, and arguments that always apply.
OPERATIONS = {
  "random_resized_crop": (("crop",), dict(size=24)),
  "horizontal_flip": (("flip",), dict(probability=1.0)),
  "color_jitter": (("color", "color_diff"), dict(probability=1.0)),
  "grayscale": (("grayscale",), dict(probability=1.0)),
  "gaussian_blur": (("blur",), dict(probability=1.0)),
  "solarize": (("solarize",), dict(probability=1.0)),
  "rotate": (("rotation",), {}),
}


def an_image(size=24):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.integers(0, 256, (size, size, 3), np.uint8))


def all_operations():
  return [(name, getattr(augment, name)) for name in OPERATIONS]


def test_every_public_operation_is_in_the_table():
  public = {
    name
    for name, value in vars(augment.ops).items()
    if inspect.isfunction(value)
    and value.__module__ == augment.ops.__name__
    and not name.startswith("_")
  }
  assert public == {*OPERATIONS, "single"}


@pytest.mark.parametrize("name,operation", all_operations())
def test_arguments_and_their_order(name, operation):
  parameters = list(inspect.signature(operation).parameters.values())
  assert [p.name for p in parameters[:2]] == ["key", "image"]
  for parameter in parameters[:2]:
    assert parameter.default is inspect.Parameter.empty
  for parameter in parameters[2:]:
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
    assert parameter.default is not inspect.Parameter.empty
  for parameter in parameters:
    assert parameter.name not in ("rng", "prng", "seed")
    assert f"    {parameter.name}: " in operation.__doc__


@pytest.mark.parametrize("module", [planes, crop, jitter, blur])
def test_deterministic_functions_are_documented_and_take_no_key(module):
  for name, function in vars(module).items():
    if not inspect.isfunction(function) or name.startswith("_"):
      continue
    if function.__module__ == module.__name__:
      assert function.__doc__, name
      assert "key" not in inspect.signature(function).parameters


@pytest.mark.parametrize("name,operation", all_operations())
def test_contract(name, operation):
  """Shapes, types and range; pure; jit, vmap and uint8 change nothing."""
  fields, arguments = OPERATIONS[name]
  image = an_image()

  def run(key, image):
    return operation(key, image, **arguments)

  jitted = jax.jit(run)
  result, part = jitted(jax.random.key(3), image)
  assert result.shape == (24, 24, 3) and result.dtype == jnp.float32
  assert result.min() >= 0 and result.max() <= 1
  assert tuple(part) == fields
  for field in fields:
    assert part[field].shape == (omega.FIELDS[field],)
    assert part[field].dtype == jnp.float32
    neutral = omega.neutral((), (field,))[field]
    if name != "rotate":
      assert not np.allclose(part[field], neutral)

  again = jitted(jax.random.key(3), image)
  chex.assert_trees_all_equal((result, part), again)
  plain = run(jax.random.key(3), image)
  chex.assert_trees_all_close((result, part), plain, atol=1e-5)
  floats = jitted(jax.random.key(3), image.astype(jnp.float32) / 255)
  chex.assert_trees_all_close((result, part), floats, atol=1e-5)
  keys = jax.random.split(jax.random.key(4), 16)
  results, parts = jax.jit(jax.vmap(run, (0, None)))(keys, image)
  one = jitted(keys[7], image)
  chex.assert_trees_all_close(
    jax.tree.map(lambda x: x[7], (results, parts)), one, atol=1e-5
  )
  if name not in ("horizontal_flip", "grayscale", "solarize"):
    spread = np.asarray(parts[fields[0]]).std(0).max()
    assert spread > 0, "every key gives the same draw"


@pytest.mark.parametrize("name,operation", all_operations())
def test_probability_is_respected(name, operation):
  fields, arguments = OPERATIONS[name]
  if name == "random_resized_crop":
    return
  image = an_image()
  keys = jax.random.split(jax.random.key(0), 600)

  def applied(probability):
    def one(key):
      options = {**arguments, "probability": probability}
      return operation(key, image, **options)

    results, parts = jax.jit(jax.vmap(one))(keys)
    neutral = omega.neutral((1,), fields)
    different = np.any(
      np.concatenate(
        [np.abs(parts[f] - neutral[f]) > 1e-7 for f in fields], axis=1
      ),
      axis=1,
    )
    original = image.astype(jnp.float32) * (1 / 255)
    untouched = np.all(
      np.asarray(results) == np.asarray(original)[None], axis=(1, 2, 3)
    )
    np.testing.assert_array_equal(untouched, ~different)
    return different.mean()

  assert applied(0.0) == 0
  # Of the four turns one changes nothing.
  certain = 0.75 if name == "rotate" else 1.0
  assert abs(applied(0.3) - 0.3 * certain) < 0.08
  assert abs(applied(1.0) - certain) < 0.08


def test_crop_describes_the_box_in_true_pixels():
  """A ramp shows where the box was; the canvas is half the true size."""
  y, x = np.mgrid[:60, :60] + 0.5
  ramp = np.stack([y / 60, x / 60, 0 * x], -1).astype(np.float32)
  crop = jax.jit(augment.random_resized_crop, static_argnames="size")
  image, part = crop(
    jax.random.key(1),
    jnp.asarray(ramp),
    size=40,
    true_size=jnp.asarray([120, 240]),
  )
  center_y, center_x, height, width = part["crop"]
  np.testing.assert_allclose(image[..., 0].mean(), center_y, atol=0.01)
  np.testing.assert_allclose(image[..., 1].mean(), center_x, atol=0.01)
  slope = image[30, 20, 0] - image[10, 20, 0]
  np.testing.assert_allclose(slope, height / 2, atol=0.01)
  slope = image[20, 30, 1] - image[20, 10, 1]
  np.testing.assert_allclose(slope, width / 2, atol=0.01)
  np.testing.assert_allclose(height * 120, np.round(height * 120), atol=1e-4)


def test_color_describes_factors_and_difference():
  image = an_image()
  strength = (0.8, 0.4, 0.2, 0.1)
  for key in jax.random.split(jax.random.key(0), 5):
    result, part = augment.color_jitter(
      key, image, strength=strength, probability=1.0, order="fixed"
    )
    length = np.array([1.6, 0.8, 0.4, 0.2], np.float32)
    factors = part["color"] * length + np.array([1, 1, 1, 0])
    original = image.astype(jnp.float32) / 255
    expected = jitter.jitter(original, jnp.asarray(factors), jnp.arange(4))
    np.testing.assert_allclose(result, expected, atol=1e-5)
    change = original.mean((0, 1)) - result.mean((0, 1))
    np.testing.assert_allclose(part["color_diff"], change, atol=1e-6)
    assert np.abs(part["color"]).max() <= 0.5


def test_bad_arguments_are_refused():
  key, image = jax.random.key(0), an_image()
  with pytest.raises(errors.UserError, match="square"):
    augment.rotate(key, image[:20])
  with pytest.raises(errors.UserError, match="order 'batch'"):
    augment.color_jitter(key, image, order="batch")
  with pytest.raises(errors.UserError, match="saturation 'hsl'"):
    augment.color_jitter(key, image, saturation="hsl")
  with pytest.raises(errors.UserError, match="too small"):
    augment.gaussian_blur(key, image, kernel=51)
