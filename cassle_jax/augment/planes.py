"""What colour operations share: an image's channels, their sums and means.

An image has its three channels at `axis`, -1 for `[..., H, W, 3]` or -3 for
`[..., 3, H, W]`: planes fill a processor's vector lanes.
"""

import jax
import jax.numpy as jnp
from jax import lax


def split(image: jax.Array, axis: int) -> tuple[jax.Array, ...]:
  """Returns the red, green and blue channel, each with size 1 at `axis`."""
  return tuple(
    lax.slice_in_dim(image, c, c + 1, axis=axis % image.ndim) for c in range(3)
  )


def weighted(image: jax.Array, weights, axis: int) -> jax.Array:
  """Returns the weighted sum of the channels, which become size 1."""
  red, green, blue = split(image, axis)
  return weights[0] * red + weights[1] * green + weights[2] * blue


def channel_means(image: jax.Array, *, axis: int = -1) -> jax.Array:
  """Returns the mean of each channel over y and x, which become size 1."""
  y, x = (-3, -2) if axis == -1 else (-2, -1)
  # Over y first: rows add up lane by lane, and in short sums.
  mean = jnp.mean(image, axis=y, keepdims=True)
  return jnp.mean(mean, axis=x, keepdims=True)


def per_channel(values, image: jax.Array, axis: int) -> jax.Array:
  """Shapes three numbers to broadcast along the channels of an image."""
  shape = [1] * image.ndim
  shape[axis] = 3
  return jnp.asarray(values, image.dtype).reshape(shape)


def normalize(image: jax.Array, mean, std, *, axis: int = -1) -> jax.Array:
  """Returns (image - mean) / std per channel; the result leaves [0, 1]."""
  scale = [1.0 / value for value in std]
  image = image - per_channel(mean, image, axis)
  return image * per_channel(scale, image, axis)
