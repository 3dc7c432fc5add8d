"""Deterministic colour operations on images in [0, 1].

Contract: an image is floating point, in [0, 1], with its three channels at
`axis`; every result is in [0, 1] again, of the same shape and type. A factor
is a scalar, or an array with the image's rank whose other axes are 1 (for a
batch `[B, H, W, 3]`: `[B, 1, 1, 1]`). Each neutral factor (brightness, contrast
and saturation 1, hue 0, solarize threshold above 1) returns the image exactly.
"""

import jax
import jax.numpy as jnp
from jax import lax

# BT.601 luma. The published contrast rounds the first weight differently.
_GRAY = (0.299, 0.587, 0.114)
_CONTRAST_GRAY = (0.2989, 0.587, 0.114)


def _planes(image: jax.Array, axis: int) -> tuple[jax.Array, ...]:
  return tuple(
    lax.slice_in_dim(image, c, c + 1, axis=axis % image.ndim) for c in range(3)
  )


def _weighted(image: jax.Array, weights, axis: int) -> jax.Array:
  red, green, blue = _planes(image, axis)
  return weights[0] * red + weights[1] * green + weights[2] * blue


def adjust_brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Returns clip(factor * image, 0, 1); factor >= 0."""
  return jnp.clip(image * factor, 0.0, 1.0)


def channel_means(image: jax.Array, *, axis: int = -1) -> jax.Array:
  """Returns the mean of each channel over y and x, which become size 1."""
  y, x = (-3, -2) if axis == -1 else (-2, -1)
  # Over y first: rows add up lane by lane, and in short sums.
  mean = jnp.mean(image, axis=y, keepdims=True)
  return jnp.mean(mean, axis=x, keepdims=True)


def mean_luma(image: jax.Array, *, axis: int = -1) -> jax.Array:
  """Returns the mean grey of each image, the pivot of `adjust_contrast`.

  Args:
    image: `[..., H, W, 3]`, or `[..., 3, H, W]` with axis -3.
    axis: where the channels are, -1 or -3.

  Returns:
    The mean over the last three axes, which become size 1.
  """
  return _weighted(channel_means(image, axis=axis), _CONTRAST_GRAY, axis)


def adjust_contrast(
  image: jax.Array, factor: jax.Array, *, axis: int = -1
) -> jax.Array:
  """Blends with the image's mean grey m: clip(f x + (1 - f) m, 0, 1).

  Args:
    image: `[..., H, W, 3]` in [0, 1].
    factor: f >= 0.
    axis: where the channels are, -1 or -3.
  """
  mean = mean_luma(image, axis=axis)
  return jnp.clip(factor * image + (1.0 - factor) * mean, 0.0, 1.0)


def adjust_saturation(
  image: jax.Array,
  factor: jax.Array,
  *,
  form: str = "hsv",
  axis: int = -1,
) -> jax.Array:
  """Scales the saturation.

  Args:
    image: `[..., H, W, 3]` in [0, 1].
    factor: >= 0.
    form: "hsv" multiplies S of HSV, clipped to 1, keeping H and V (as the
      published code does); "blend" blends with the grey image and clips (as
      torchvision does).
    axis: where the channels are, -1 or -3.
  """
  if form == "blend":
    gray = _weighted(image, _CONTRAST_GRAY, axis)
    return jnp.clip(factor * image + (1.0 - factor) * gray, 0.0, 1.0)
  # With H and V fixed, S only scales each channel's distance from V = max, so
  # the round trip through hue is not needed: V - (V - x) min(f, V / (V - min)).
  high, low = _range(image, axis)
  spread = high - low
  limit = high / jnp.where(spread > 0.0, spread, 1.0)
  scale = jnp.where(spread > 0.0, jnp.minimum(factor, limit), 1.0)
  # Written as an increment so that factor 1 returns the image bit for bit.
  return jnp.clip(image + (scale - 1.0) * (image - high), 0.0, 1.0)


def adjust_hue(
  image: jax.Array, shift: jax.Array, *, axis: int = -1
) -> jax.Array:
  """Turns the hue of HSV by `shift` turns, keeping S and V.

  Args:
    image: `[..., H, W, 3]` in [0, 1].
    shift: in turns, any sign; +-0.5 is the opposite hue.
    axis: where the channels are, -1 or -3.
  """
  return adjust_hsv(image, jnp.ones_like(shift), shift, axis=axis)


def adjust_hsv(
  image: jax.Array, factor: jax.Array, shift: jax.Array, *, axis: int = -1
) -> jax.Array:
  """Scales S by `factor`, clipped to 1, and turns H by `shift`: one round trip.

  The same as `adjust_saturation` and `adjust_hue` one after the other, in
  either order.

  Args:
    image: `[..., H, W, 3]` in [0, 1].
    factor: of the saturation, >= 0.
    shift: of the hue, in turns.
    axis: where the channels are, -1 or -3.
  """
  red, green, blue = _planes(image, axis)
  high, low = _range(image, axis)
  spread = high - low
  scale = 1.0 / jnp.where(spread > 0.0, spread, 1.0)
  # Not `red == high`: a compiler that computes the image once for each side may
  # round it in two ways. Near a tie either sector gives the same hue.
  is_red = (red >= green) & (red >= blue)
  is_green = green >= blue
  # Hue in sixths of a turn, measured from the sector of the largest channel.
  rest = jnp.where(
    is_red, green - blue, jnp.where(is_green, blue - red, red - green)
  )
  sector = jnp.where(is_red, 0.0, jnp.where(is_green, 2.0, 4.0))
  hue = rest * scale + sector + 6.0 * shift
  # All three channels by one formula: f(n) = V - V S max(0, min(k, 4 - k, 1)),
  # k = (n + H) mod 6, n = 5, 3, 1 for red, green, blue.
  turns = (hue + _per_channel((5.0, 3.0, 1.0), image, axis)) * (1.0 / 6.0)
  k = 6.0 * (turns - jnp.floor(turns))
  spread = jnp.minimum(factor * spread, high)
  result = high - spread * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)
  return jnp.where((factor == 1.0) & (shift == 0.0), image, result)


def _range(image, axis):
  """Returns the largest and the smallest channel of each pixel."""
  red, green, blue = _planes(image, axis)
  high = jnp.maximum(jnp.maximum(red, green), blue)
  low = jnp.minimum(jnp.minimum(red, green), blue)
  return high, low


def _per_channel(values, image, axis):
  """Shapes three numbers to broadcast along the channels of an image."""
  shape = [1] * image.ndim
  shape[axis] = 3
  return jnp.asarray(values, image.dtype).reshape(shape)


def to_grayscale(image: jax.Array, *, axis: int = -1) -> jax.Array:
  """Returns 0.299 R + 0.587 G + 0.114 B in all three channels."""
  gray = _weighted(image, _GRAY, axis)
  return jnp.broadcast_to(gray, image.shape)


def invert_above(image: jax.Array, threshold: jax.Array) -> jax.Array:
  """Solarises: 1 - x wherever x >= threshold, x elsewhere."""
  return jnp.where(image >= threshold, 1.0 - image, image)


def normalize(image: jax.Array, mean, std, *, axis: int = -1) -> jax.Array:
  """Returns (image - mean) / std per channel; the result leaves [0, 1]."""
  scale = [1.0 / value for value in std]
  image = image - _per_channel(mean, image, axis)
  return image * _per_channel(scale, image, axis)


def jitter(
  image: jax.Array,
  factors: jax.Array,
  order: jax.Array,
  *,
  saturation: str = "hsv",
  axis: int = -1,
) -> jax.Array:
  """Applies brightness, contrast, saturation and hue in a traced order.

  Args:
    image: `[H, W, 3]` in [0, 1], or `[3, H, W]` with axis -3.
    factors: `[4]` of brightness, contrast, saturation, hue.
    order: `[4]` int, a permutation: 0 brightness, 1 contrast, 2 saturation,
      3 hue; applied from left to right.
    saturation: "hsv" or "blend", see `adjust_saturation`.
    axis: where the channels are, -1 or -3.
  """
  if saturation == "blend":
    return _jitter_blend(image, factors, order, axis)
  # Without branches, every order is one sequence: HSV, linear, HSV, linear,
  # HSV. Brightness and contrast are the linear steps, in their order.
  # Saturation and hue commute; each goes to the HSV step before, between or
  # after the linear ones, and a step that gets neither is neutral.
  place = jnp.argsort(order)
  brightness_first = place[0] < place[1]
  first = jnp.minimum(place[0], place[1])
  last = jnp.maximum(place[0], place[1])

  def hsv_step(image, after, before):
    here = (place[2:] > after) & (place[2:] < before)
    factor = jnp.where(here[0], factors[2], 1.0)
    shift = jnp.where(here[1], factors[3], 0.0)
    return adjust_hsv(image, factor, shift, axis=axis)

  image = hsv_step(image, -1, first)
  image = _linear_step(image, factors, brightness_first, axis)
  image = hsv_step(image, first, last)
  image = _linear_step(image, factors, ~brightness_first, axis)
  return hsv_step(image, last, 4)


def _linear_step(image, factors, is_brightness, axis):
  """Applies brightness or contrast, whichever a traced bool says."""
  brightness = jnp.where(is_brightness, factors[0], 1.0)
  contrast = jnp.where(is_brightness, 1.0, factors[1])
  mean = mean_luma(image, axis=axis)
  image = brightness * contrast * image + (1.0 - contrast) * mean
  return jnp.clip(image, 0.0, 1.0)


def _jitter_blend(image, factors, order, axis):
  """Every slot is linear, then a turn of the hue, of which one is neutral."""
  for slot in range(4):
    factor, shift = [
      jnp.where(order[slot] == op, factors[op], neutral)
      for op, neutral in ((2, 1.0), (3, 0.0))
    ]
    linear = jnp.where(order[slot] < 2, factors, jnp.ones_like(factors))
    image = _linear_step(image, linear, order[slot] == 0, axis)
    image = adjust_saturation(image, factor, form="blend", axis=axis)
    image = adjust_hue(image, shift, axis=axis)
  return image
