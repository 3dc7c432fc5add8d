"""Vision transformers in the flavour of MoCo-v3.

Source: Chen, Xie & He, arXiv 2104.02057: fixed 2-D sine-cosine positions, a
random frozen patch projection, 12 heads in the small model, and the [cls] token
after the final LayerNorm as the features. The convolution stem is of Xiao et
al., arXiv 2106.14881.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.errors import UserError, chosen, unknown
from cassle_jax.models.amortised import Prompt, check_descriptor
from cassle_jax.models.attention import ATTENTIONS, Attention
from cassle_jax.models.mlp import fan_in_uniform, uniform
from cassle_jax.models.norm import BatchNorm

# name: (token dimension, blocks, heads, convolution stem)
VARIANTS = {
  "vit_debug": (64, 2, 4, False),
  "vit_tiny": (192, 12, 3, False),
  "vit_small": (384, 12, 12, False),
  "vit_base": (768, 12, 12, False),
  "vit_conv_debug": (64, 1, 4, True),
  "vit_conv_small": (384, 11, 12, True),
  "vit_conv_base": (768, 11, 12, True),
}


def sincos_positions(rows: int, columns: int, size: int) -> np.ndarray:
  """Makes fixed 2-D positions for a [cls] token and a grid of patches.

  The first half of the numbers encodes the row, the second the column, each as
  the sines and then the cosines of size/4 frequencies. (The reference builds
  its grid transposed; on square grids the result is this one.)

  Args:
    rows: height of the grid.
    columns: width of the grid.
    size: numbers per token, a multiple of 4.

  Returns:
    [1, 1 + rows * columns, size] float32; the [cls] token's are 0.

  Raises:
    UserError: when size is not a multiple of 4.
  """
  if size % 4:
    raise UserError(
      f"a ViT of width {size} has no 2-D sine-cosine positions: the width must"
      " be a multiple of 4."
    )
  quarter = size // 4
  frequencies = 1.0 / 10000 ** (np.arange(quarter) / quarter)
  row, column = np.divmod(np.arange(rows * columns), columns)
  row_angles = row[:, None] * frequencies[None]
  column_angles = column[:, None] * frequencies[None]
  grid = np.concatenate(
    [
      np.sin(row_angles),
      np.cos(row_angles),
      np.sin(column_angles),
      np.cos(column_angles),
    ],
    axis=1,
  )
  cls = np.zeros((1, size))
  return np.concatenate([cls, grid])[None].astype(np.float32)


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
  """Two Linear layers with a GELU between, four times as wide inside."""

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
    x = gelu(dense(4 * size, name="fc1")(x))
    return dense(size, name="fc2")(x)


class Block(nn.Module):
  """Attention and MLP, each behind a LayerNorm and with a residual."""

  heads: int
  attention: str
  length: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, N, d] to [B, N, d]."""
    norm = functools.partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype)
    attention = Attention(
      self.heads, self.attention, self.length, dtype=self.dtype, name="attn"
    )
    x = x + attention(norm(name="norm1")(x))
    mlp = TransformerMLP(dtype=self.dtype, name="mlp")
    return x + mlp(norm(name="norm2")(x))


class VisionTransformer(nn.Module):
  """A vision transformer without its classifier.

  Parameters are named cls_token, patch_embed, block0/attn/qkv, ..., norm.

  With descriptor_size > 0 the network is amortised: a `prompt` token made from
  the descriptor follows the patch tokens, without a position.

  Attributes:
    variant: a name of VARIANTS.
    width: token dimension; 0 = the variant's.
    patch_size: side of a patch in px; with a convolution stem a power of 2.
    frozen_patches: leave the patch projection at its random start (it gets no
      gradient); a convolution stem is always trained.
    attention: "cudnn" (fused; GPUs, types of 16 bits only), or "xla", which
      "auto" is here; `choose_attention` knows better.
    descriptor_size: length k of the invariance descriptor; 0 = ordinary.
    prompt_mlps: number of MLPs that the prompt is the mean of.
    remat: recompute each block in the backward pass instead of storing it.
    bn_groups: sub-batches of the convolution stem's BatchNorm.
    dtype: compute type; parameters are float32.
  """

  variant: str = "vit_small"
  width: int = 0
  patch_size: int = 16
  frozen_patches: bool = True
  attention: str = "auto"
  descriptor_size: int = 0
  prompt_mlps: int = 256
  remat: bool = False
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @property
  def features(self) -> int:
    """Size d of the feature vector."""
    return self.width or chosen("ViT variant", self.variant, VARIANTS)[0]

  @property
  def patches_rest(self) -> bool:
    """Whether the patch projection stays at its random start."""
    return (
      self.frozen_patches
      and not chosen("ViT variant", self.variant, VARIANTS)[3]
    )

  def check(self, height: int, width: int) -> None:
    """Raises UserError where the settings do not fit images of this size."""
    patch, size = self.patch_size, self.features
    _, _, heads, conv_stem = chosen("ViT variant", self.variant, VARIANTS)
    if patch < 1 or height % patch or width % patch:
      divisors = [p for p in (2, 4, 8, 14, 16, 32) if height % p == 0]
      raise UserError(
        f"patch_size={patch} does not divide an image of {height}x{width} px:"
        f" patch sizes that divide it are {divisors}."
      )
    if size % heads or size % 4:
      raise UserError(
        f"width={size} does not divide into {heads} attention heads and 4 parts"
        f" of a position: use a multiple of {math.lcm(4, heads)}."
      )
    if conv_stem and (patch < 2 or patch & (patch - 1)):
      raise UserError(
        f"patch_size={patch} does not suit a convolution stem, which halves the"
        " image several times: use 2, 4, 8, 16 or 32."
      )
    if self.attention not in ATTENTIONS:
      raise unknown("model.attention", self.attention, ATTENTIONS)

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, descriptor: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes features, as `Backbone` says, and the tokens they come from.

    Args:
      images: [B, H, W, 3] normalised; H and W are multiples of the patch size.
      train: whether a convolution stem's BatchNorm uses the batch's statistics.
      descriptor: [k] in [0, 1] of an amortised network, else None.

    Returns:
      features [B, d] float32, and the tokens "stem" (positions added) and
      "block0", "block1", ..., each [B, 1 + patches, d] of the compute type,
      [cls] first; an amortised network has the prompt too, last. Under jit,
      what is not used is free.
    """
    self.check(*images.shape[1:3])
    _, depth, heads, conv_stem = chosen("ViT variant", self.variant, VARIANTS)
    size = self.features
    descriptor = check_descriptor(
      descriptor, self.descriptor_size, initializing=self.is_initializing()
    )
    patch, dtype, name = self.patch_size, self.dtype, "patch_embed"
    if conv_stem:
      stem = ConvStem(size, patch, self.bn_groups, dtype, name=name)
      x = stem(images, train)
    else:
      stem = PatchEmbed(size, patch, self.frozen_patches, dtype, name=name)
      x = stem(images)
    batch, rows, columns, _ = x.shape
    cls_token = self.param(
      "cls_token", nn.initializers.normal(1e-6), (1, 1, size), jnp.float32
    )
    cls_tokens = jnp.broadcast_to(cls_token, (batch, 1, size))
    x = x.reshape(batch, rows * columns, size)
    x = jnp.concatenate([cls_tokens.astype(self.dtype), x], axis=1)
    x = x + jnp.asarray(sincos_positions(rows, columns, size), self.dtype)
    if descriptor is not None:
      prompt = Prompt(size, self.prompt_mlps, self.dtype, name="prompt")
      token = prompt(descriptor)[None, None]
      token = jnp.broadcast_to(token, (batch, 1, size))
      x = jnp.concatenate([x, token], axis=1)

    length = x.shape[1]
    if self.attention == "cudnn" and length % 2:
      # cuDNN trains on even lengths alone: one more token, which none attends.
      x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
    intermediates = {"stem": x[:, :length]}
    block = nn.remat(Block) if self.remat else Block
    for i in range(depth):
      name = f"block{i}"
      x = block(heads, self.attention, length, self.dtype, name=name)(x)
      intermediates[name] = x[:, :length]
    # Only [cls] leaves, so only [cls] is normalised.
    features = nn.LayerNorm(epsilon=1e-6, name="norm")(
      x[:, 0].astype(jnp.float32)
    )
    return features, intermediates
