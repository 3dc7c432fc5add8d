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


def mean_luma(image: jax.Array, *, axis: int = -1) -> jax.Array:
  """Returns the mean grey of each image, the pivot of `adjust_contrast`.

  Args:
    image: `[..., H, W, 3]`, or `[..., 3, H, W]` with axis -3.
    axis: where the channels are.

  Returns:
    The mean over the last three axes, kept as size 1.
  """
  luma = _weighted(image, _CONTRAST_GRAY, axis)
  return jnp.mean(luma, axis=(-3, -2, -1), keepdims=True)


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
  high = jnp.max(image, axis=axis, keepdims=True)
  low = jnp.min(image, axis=axis, keepdims=True)
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
  red, green, blue = _planes(image, axis)
  high = jnp.maximum(jnp.maximum(red, green), blue)
  low = jnp.minimum(jnp.minimum(red, green), blue)
  spread = high - low
  scale = 1.0 / jnp.where(spread > 0.0, spread, 1.0)
  is_red = red == high
  is_green = green == high
  # Hue in sixths of a turn, measured from the sector of the largest channel.
  rest = jnp.where(
    is_red, green - blue, jnp.where(is_green, blue - red, red - green)
  )
  sector = jnp.where(is_red, 0.0, jnp.where(is_green, 2.0, 4.0))
  hue = rest * scale + sector + 6.0 * shift
  planes = []
  for offset in (5.0, 3.0, 1.0):
    k = (hue + offset) * (1.0 / 6.0)
    k = 6.0 * (k - jnp.floor(k))
    planes.append(high - spread * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0))
  turned = jnp.concatenate(planes, axis=axis)
  return jnp.where(shift == 0.0, image, turned)


def to_grayscale(image: jax.Array, *, axis: int = -1) -> jax.Array:
  """Returns 0.299 R + 0.587 G + 0.114 B in all three channels."""
  gray = _weighted(image, _GRAY, axis)
  return jnp.broadcast_to(gray, image.shape)


def invert_above(image: jax.Array, threshold: jax.Array) -> jax.Array:
  """Solarises: 1 - x wherever x >= threshold, x elsewhere."""
  return jnp.where(image >= threshold, 1.0 - image, image)


def normalize(image: jax.Array, mean, std, *, axis: int = -1) -> jax.Array:
  """Returns (image - mean) / std per channel; the result leaves [0, 1]."""
  shape = [1] * image.ndim
  shape[axis] = 3
  mean = jnp.asarray(mean, image.dtype).reshape(shape)
  std = jnp.asarray(std, image.dtype).reshape(shape)
  return (image - mean) / std


def jitter_dense(
  image: jax.Array,
  factors: jax.Array,
  order: jax.Array,
  *,
  saturation: str = "hsv",
  axis: int = -1,
) -> jax.Array:
  """Applies the four jitter operations in a traced order, without branches.

  Every slot is one affine step and one step in HSV, of which all but the
  chosen operation are neutral. Under vmap a switch computes all four
  operations as well, and reads the image more often.

  Args:
    image: `[H, W, 3]` in [0, 1], or `[3, H, W]` with axis -3.
    factors: `[4]` brightness, contrast, saturation, hue.
    order: `[4]` int, a permutation: 0 brightness, 1 contrast, 2 saturation,
      3 hue; applied from left to right.
    saturation: "hsv" or "blend".
    axis: where the channels are, -1 or -3.
  """
  for slot in range(4):
    op = order[slot]
    brightness = jnp.where(op == 0, factors[0], 1.0)
    contrast = jnp.where(op == 1, factors[1], 1.0)
    image = adjust_contrast(
      adjust_brightness(image, brightness), contrast, axis=axis
    )
    image = adjust_saturation(
      image, jnp.where(op == 2, factors[2], 1.0), form=saturation, axis=axis
    )
    image = adjust_hue(image, jnp.where(op == 3, factors[3], 0.0), axis=axis)
  return image


def jitter_branched(
  image: jax.Array,
  factors: jax.Array,
  order: jax.Array,
  *,
  saturation: str = "hsv",
  axis: int = -1,
) -> jax.Array:
  """Does what `jitter_dense` does and computes only the operations asked for.

  For one image at a time; arguments as for `jitter_dense`.
  """
  branches = (
    lambda x: adjust_brightness(x, factors[0]),
    lambda x: adjust_contrast(x, factors[1], axis=axis),
    lambda x: adjust_saturation(x, factors[2], form=saturation, axis=axis),
    lambda x: adjust_hue(x, factors[3], axis=axis),
  )
  for slot in range(4):
    image = lax.switch(order[slot], branches, image)
  return image


jitter = jitter_dense
