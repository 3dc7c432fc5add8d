"""How vision transformers make tokens of an image.

Source: Chen, Xie & He, arXiv 2104.02057 (frozen patch projection) and Xiao et
al., arXiv 2106.14881 (convolution stem).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.models.mlp import fan_in_uniform, uniform
from cassle_jax.models.norm import BatchNorm


class PatchEmbed(nn.Module):
  """A linear projection of non-overlapping patches, frozen by default."""

  features: int
  patch_size: int
  frozen: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps [B, H, W, 3] to [B, H/p, W/p, features]."""
    batch, height, width, channels = images.shape
    size = self.patch_size
    fan_in = size * size * channels
    # Xavier over the flattened patch.
    init = uniform(math.sqrt(6 / (fan_in + self.features)))
    shape = (size, size, channels, self.features)
    kernel = self.param("kernel", init, shape, jnp.float32)
    bias = self.param(
      "bias", nn.initializers.zeros, (self.features,), jnp.float32
    )
    if self.frozen:
      kernel, bias = jax.lax.stop_gradient((kernel, bias))
    rows, columns = height // size, width // size
    # One matrix product, cheaper everywhere than a convolution of stride p.
    x = images.reshape(batch, rows, size, columns, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, fan_in)
    kernel = kernel.reshape(fan_in, self.features).astype(self.dtype)
    bias = bias.astype(self.dtype)
    return x.astype(self.dtype) @ kernel + bias[None, None, None]


class ConvStem(nn.Module):
  """Convolutions of stride 2 up to the token dimension, then a 1x1.

  The token dimension is reached by doubling, so patch size p takes log2(p)
  convolutions, the first of features * 2 / p channels.
  """

  features: int
  patch_size: int
  bn_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, 3] to [B, H/p, W/p, features]."""
    x = images.astype(self.dtype)
    count = self.patch_size.bit_length() - 1
    for i in range(count):
      x = nn.Conv(
        self.features // 2 ** (count - 1 - i),
        (3, 3),
        strides=(2, 2),
        padding=1,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=fan_in_uniform,
        name=f"conv{i}",
      )(x)
      x = BatchNorm(groups=self.bn_groups, name=f"bn{i}")(x, train=train)
      x = nn.relu(x)
    limit = 1 / math.sqrt(x.shape[-1])
    return nn.Conv(
      self.features,
      (1, 1),
      dtype=self.dtype,
      kernel_init=fan_in_uniform,
      bias_init=uniform(limit),
      name="proj",
    )(x)
