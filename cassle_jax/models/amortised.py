"""Layers that depend on an invariance descriptor: convolutions and a prompt.

A descriptor is one vector in [0, 1]^k for a whole batch. It says which
augmentations the features are to be invariant to, so that one network serves
every choice and a downstream task learns its own.

Source: Chavhan et al., arXiv 2302.12712 (amortised invariance learning).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.errors import UserError
from cassle_jax.models.conv import convolve
from cassle_jax.models.mlp import linear, uniform

EMBEDDING_SIZE = 16


def check_descriptor(
  descriptor: jax.Array | None, size: int, *, initializing: bool
) -> jax.Array | None:
  """Checks the descriptor that a backbone is given against its settings.

  Args:
    descriptor: [k], or None.
    size: k, or 0 for an ordinary backbone.
    initializing: whether parameters are being made. Their variances are chosen
      for a descriptor of ones, which then replaces the one that is given.

  Raises:
    UserError: a descriptor too much, missing or of the wrong shape.
  """
  if size == 0:
    if descriptor is not None:
      raise UserError(
        "a descriptor was given to an ordinary backbone, which has no use for"
        " one: leave it out, or build with descriptor_size >= 1."
      )
    return None
  if descriptor is None:
    raise UserError(
      f"an amortised backbone (descriptor_size={size}) was given no descriptor:"
      f" pass one of {size} numbers in [0, 1]."
    )
  if descriptor.shape != (size,):
    raise UserError(
      f"a descriptor of shape {tuple(descriptor.shape)} does not fit"
      f" descriptor_size={size}: pass one vector of {size} numbers."
    )
  descriptor = descriptor.astype(jnp.float32)
  return jnp.ones_like(descriptor) if initializing else descriptor


class Embedding(nn.Module):
  """A Linear without bias from the descriptor, one for each block."""

  @nn.compact
  def __call__(self, descriptor: jax.Array) -> jax.Array:
    """Maps [k] to [16] float32."""
    layer = linear(
      EMBEDDING_SIZE, descriptor.shape[-1], use_bias=False, name="linear"
    )
    return layer(descriptor)


class AmortisedConv(nn.Module):
  """A convolution whose kernel is emitted from a block's embedding.

  kernel = reshape(Linear(ReLU(Linear(embedding)))), the Linear layers of sizes
  16 -> rank -> size * size * in * out, with biases. As the embedding belongs to
  the whole batch, the kernel is emitted once a forward pass, in float32.

  The source leaves the initialisation open. Here kernel and bias of the last
  Linear are drawn with one variance, such that the emitted kernel has that of
  `Conv` for the embedding of the initialisation, whatever the first Linear is.

  Parameters: linear0 {kernel [16, rank], bias [rank]} and linear1 {kernel
  [rank, size, size, in, out], bias [size, size, in, out]}: so shaped, a rule
  for vectors (no weight decay, no adaptation) leaves the weights' bias alone.
  Attributes are those of `Conv`, and `rank`, the width of the hidden layer.
  """

  features: int
  size: int
  stride: int = 1
  rank: int = 32
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to [B, ceil(h/stride), ceil(w/stride), features].

    Args:
      x: the images or maps.
      embedding: [16] float32, from `Embedding`.
    """
    hidden = nn.relu(
      linear(self.rank, EMBEDDING_SIZE, name="linear0")(embedding)
    )
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = EmittedWeights(shape, name="linear1")(hidden)
    return convolve(
      x.astype(self.dtype), kernel.astype(self.dtype), self.stride
    )


class EmittedWeights(nn.Module):
  """The last Linear of `AmortisedConv`: [rank] -> `shape`, float32."""

  shape: tuple[int, ...]

  @nn.compact
  def __call__(self, hidden: jax.Array) -> jax.Array:
    """Emits the weights; initialises itself for this hidden layer."""
    size, _, _, features = self.shape
    # He's variance over fan_out = size * size * features, as Conv has it.
    variance = 2 / (size * size * features * (1 + jnp.sum(hidden**2)))

    def draw(key, shape, dtype=jnp.float32):
      return jnp.sqrt(variance) * jax.random.normal(key, shape, dtype)

    kernel = self.param("kernel", draw, (len(hidden), *self.shape))
    bias = self.param("bias", draw, self.shape)
    return jnp.einsum("r,rhwio->hwio", hidden, kernel) + bias


class Prompt(nn.Module):
  """One token from the descriptor: the mean of many small MLPs.

  Each MLP is Linear(k -> features), ReLU, Linear(features -> features). Their
  parameters are stacked on a leading axis: kernel0 [count, k, features], bias0
  [count, features], kernel1 [count, features, features], bias1.

  Attributes:
    features: size of a token.
    count: number of MLPs, 256 in the source.
    dtype: type of the output; parameters and arithmetic are float32.
  """

  features: int
  count: int = 256
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, descriptor: jax.Array) -> jax.Array:
    """Maps [k] to [features]."""
    count, size, given = self.count, self.features, descriptor.shape[-1]
    # torch's default for a Linear, of each MLP by itself.
    outer = uniform(1 / math.sqrt(given))
    inner = uniform(1 / math.sqrt(size))
    kernel0 = self.param("kernel0", outer, (count, given, size))
    bias0 = self.param("bias0", outer, (count, size))
    kernel1 = self.param("kernel1", inner, (count, size, size))
    bias1 = self.param("bias1", inner, (count, size))
    hidden = nn.relu(jnp.einsum("k,mkd->md", descriptor, kernel0) + bias0)
    total = jnp.einsum("md,mde->e", hidden, kernel1) + jnp.sum(bias1, axis=0)
    return (total / count).astype(self.dtype)
