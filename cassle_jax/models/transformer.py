"""The layers of vision transformers; vit.py puts them together."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.models.attention import Attention
from cassle_jax.models.mlp import fan_in_uniform, uniform
from cassle_jax.models.norm import BatchNorm

MLPS = ("gelu", "gelu_tanh", "swiglu")


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
    return nn.Conv(
      self.features,
      (1, 1),
      dtype=self.dtype,
      kernel_init=fan_in_uniform,
      bias_init=uniform(1 / math.sqrt(x.shape[-1])),
      name="proj",
    )(x)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
  """The exact GELU, of which the backward pass is left x alone.

  Differentiated as it is written it would keep three arrays of this size, the
  largest of a block, and a step is bound by what it reads and writes.
  """
  return nn.gelu(x, approximate=False)


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
  wide = x.astype(jnp.float32)
  density = jnp.exp(-0.5 * wide**2) / math.sqrt(2 * math.pi)
  slope = jax.scipy.stats.norm.cdf(wide) + wide * density
  return ((gradient * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


class TransformerMLP(nn.Module):
  """Two Linear layers with an activation between.

  "gelu" and "gelu_tanh" (its approximation) are four times as wide inside;
  "swiglu" has silu(a) * b of one Linear [a ; b], each 8/3 as wide, rounded up
  to a multiple of 8.
  """

  kind: str
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, N, d] to [B, N, d]."""
    dense = functools.partial(
      nn.Dense,
      dtype=self.dtype,
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.zeros,
    )
    size = x.shape[-1]
    if self.kind == "swiglu":
      inside = -(-(4 * size * 2 // 3) // 8) * 8
      gate, value = jnp.split(dense(2 * inside, name="w12")(x), 2, axis=-1)
      return dense(size, name="w3")(nn.silu(gate) * value)
    x = dense(4 * size, name="fc1")(x)
    x = nn.gelu(x, approximate=True) if self.kind == "gelu_tanh" else gelu(x)
    return dense(size, name="fc2")(x)


class LayerScale(nn.Module):
  """A learned factor for each channel of a residual branch."""

  start: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, N, d] to [B, N, d]."""
    init = nn.initializers.constant(self.start)
    gamma = self.param("gamma", init, (x.shape[-1],), jnp.float32)
    return x * gamma.astype(x.dtype)[None, None]


class Block(nn.Module):
  """Attention and MLP, each behind a LayerNorm and with a residual."""

  heads: int
  attention: str
  length: int
  mlp: str
  layer_scale: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, N, d] to [B, N, d]."""
    norm = functools.partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype)

    def scaled(x: jax.Array, name: str) -> jax.Array:
      return LayerScale(self.layer_scale, name=name)(x)

    if not self.layer_scale:
      scaled = lambda x, name: x  # noqa: E731
    attention = Attention(
      self.heads, self.attention, self.length, dtype=self.dtype, name="attn"
    )
    x = x + scaled(attention(norm(name="norm1")(x)), "ls1")
    mlp = TransformerMLP(self.mlp, dtype=self.dtype, name="mlp")
    return x + scaled(mlp(norm(name="norm2")(x)), "ls2")
