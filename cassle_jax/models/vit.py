"""Vision transformers: MoCo-v3's, and with options those of other projects.

Source: Chen, Xie & He, arXiv 2104.02057: fixed 2-D sine-cosine positions, a
random frozen patch projection, 12 heads in the small model, and the [cls] token
after the final LayerNorm as the features. The convolution stem is of Xiao et
al., arXiv 2106.14881. Learned positions are of Dosovitskiy et al., arXiv
2010.11929, LayerScale of Touvron et al., arXiv 2103.17239, registers of Darcet
et al., arXiv 2309.16588, SwiGLU as in DINOv2, arXiv 2304.07193.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.errors import UserError, chosen, unknown
from cassle_jax.models.amortised import Prompt, check_descriptor
from cassle_jax.models.attention import ATTENTIONS
from cassle_jax.models.positions import (
  POSITIONS,
  RESIZES,
  resized,
  sincos_positions,
)
from cassle_jax.models.transformer import (
  MLPS,
  Block,
  ConvStem,
  PatchEmbed,
)

# name: (token dimension, blocks, heads, convolution stem)
VARIANTS = {
  "vit_debug": (64, 2, 4, False),
  "vit_tiny": (192, 12, 3, False),
  "vit_small": (384, 12, 12, False),
  "vit_base": (768, 12, 12, False),
  "vit_large": (1024, 24, 16, False),
  "vit_giant": (1536, 40, 24, False),
  "vit_conv_debug": (64, 1, 4, True),
  "vit_conv_small": (384, 11, 12, True),
  "vit_conv_base": (768, 11, 12, True),
}

POOLS = ("cls", "mean", "both")


class VisionTransformer(nn.Module):
  """A vision transformer without its classifier.

  Parameters are named cls_token, patch_embed, block0/attn/qkv, ..., norm, and
  where they are asked for pos_embed, reg_token and block0/ls1/gamma.

  The network knows the positions of `positions_grid`^2 patches; pictures of
  another size take them interpolated, see `positions.resized`.

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
    attention_heads: heads of each block; 0 = the variant's.
    positions: "sincos" (fixed) or "learned".
    positions_grid: side of the grid of known positions, in patches; 0 = that
      of whatever image is given, so that sincos positions are never
      interpolated and learned ones fit one size alone. From a config: 0 = that
      of data.image_size.
    positions_resize: "antialias" (timm) or "bicubic" (DINO).
    registers: learned tokens behind [cls], without a position.
    layer_scale: LayerScale's factors at the start, e.g. 1e-5; 0 = none.
    mlp: "gelu", "gelu_tanh" or "swiglu".
    class_token: whether there is a [cls] token; without one pool="mean".
    pool: the features: "cls", "mean" (of the patches), or "both", [cls ; mean],
      which are twice as long; all after the final LayerNorm.
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
  attention_heads: int = 0
  positions: str = "sincos"
  positions_grid: int = 0
  positions_resize: str = "antialias"
  registers: int = 0
  layer_scale: float = 0.0
  mlp: str = "gelu"
  class_token: bool = True
  pool: str = "cls"
  descriptor_size: int = 0
  prompt_mlps: int = 256
  remat: bool = False
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @property
  def dimension(self) -> int:
    """Size of a token."""
    return self.width or chosen("ViT variant", self.variant, VARIANTS)[0]

  @property
  def features(self) -> int:
    """Size d of the feature vector."""
    return self.dimension * (2 if self.pool == "both" else 1)

  @property
  def heads(self) -> int:
    """Attention heads of each block."""
    variant = chosen("ViT variant", self.variant, VARIANTS)
    return self.attention_heads or variant[2]

  @property
  def patches_rest(self) -> bool:
    """Whether the patch projection stays at its random start."""
    return (
      self.frozen_patches
      and not chosen("ViT variant", self.variant, VARIANTS)[3]
    )

  def check(self, height: int, width: int) -> None:
    """Raises UserError where the settings do not fit images of this size."""
    patch, size, heads = self.patch_size, self.dimension, self.heads
    conv_stem = chosen("ViT variant", self.variant, VARIANTS)[3]
    for name, value, valid in (
      ("attention", self.attention, ATTENTIONS),
      ("positions", self.positions, POSITIONS),
      ("positions_resize", self.positions_resize, RESIZES),
      ("mlp", self.mlp, MLPS),
      ("pool", self.pool, POOLS),
    ):
      if value not in valid:
        raise unknown(f"model.{name}", value, valid)
    for name, value in (
      ("attention_heads", self.attention_heads),
      ("positions_grid", self.positions_grid),
      ("registers", self.registers),
      ("layer_scale", self.layer_scale),
    ):
      if not 0 <= value < math.inf:
        raise UserError(f"model.{name}={value} must be 0 or more.")
    if not self.class_token and self.pool != "mean":
      raise UserError(
        f"model.pool={self.pool!r} takes the [cls] token, and"
        " model.class_token=False leaves it out; use model.pool='mean'."
      )
    if patch < 1 or height % patch or width % patch:
      divisors = [
        p for p in (2, 4, 8, 14, 16, 32) if not height % p and not width % p
      ]
      raise UserError(
        f"patch_size={patch} does not divide an image of {height}x{width} px:"
        f" patch sizes that divide it are {divisors}; image sizes that it"
        f" divides are {max(height // patch, 1) * patch} and"
        f" {(height // patch + 1) * patch}."
      )
    if size % heads or size % 4:
      raise UserError(
        f"width={size} does not divide into {heads} attention heads and 4 parts"
        f" of a position: use a multiple of {math.lcm(4, heads)}, or another"
        " model.attention_heads."
      )
    if conv_stem and (patch < 2 or patch & (patch - 1)):
      raise UserError(
        f"patch_size={patch} does not suit a convolution stem, which halves the"
        " image several times: use 2, 4, 8, 16 or 32."
      )

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
      "block0", "block1", ..., each [B, tokens, d] of the compute type: [cls],
      the registers, the patches; an amortised network has the prompt too,
      last. Under jit, what is not used is free.
    """
    self.check(*images.shape[1:3])
    _, depth, _, conv_stem = chosen("ViT variant", self.variant, VARIANTS)
    size = self.dimension
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
    x = x.reshape(batch, rows * columns, size)

    def token(name: str, count: int) -> jax.Array:
      """[B, count, d] learned tokens."""
      init = nn.initializers.normal(1e-6)
      made = self.param(name, init, (1, count, size), jnp.float32)
      return jnp.broadcast_to(made.astype(dtype), (batch, count, size))

    if self.class_token:
      x = jnp.concatenate([token("cls_token", 1), x], axis=1)
    positions = self._positions(rows, columns)
    x = x + positions[:, not self.class_token :].astype(dtype)
    if self.registers:
      registers = token("reg_token", self.registers)
      x = jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
    if descriptor is not None:
      prompt = Prompt(size, self.prompt_mlps, self.dtype, name="prompt")
      told = jnp.broadcast_to(prompt(descriptor)[None, None], (batch, 1, size))
      x = jnp.concatenate([x, told], axis=1)

    length = x.shape[1]
    if self.attention == "cudnn" and length % 2:
      # cuDNN trains on even lengths alone: one more token, which none attends.
      x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
    intermediates = {"stem": x[:, :length]}
    block = nn.remat(Block) if self.remat else Block
    for i in range(depth):
      x = block(
        self.heads,
        self.attention,
        length,
        self.mlp,
        self.layer_scale,
        self.dtype,
        name=f"block{i}",
      )(x)
      intermediates[f"block{i}"] = x[:, :length]
    norm = nn.LayerNorm(epsilon=1e-6, name="norm")
    if self.pool == "cls":
      # Only [cls] leaves, so only [cls] is normalised.
      return norm(x[:, 0].astype(jnp.float32)), intermediates
    x = norm(x.astype(jnp.float32))
    start = self.registers + self.class_token
    mean = jnp.mean(x[:, start : start + rows * columns], axis=1)
    if self.pool == "both":
      mean = jnp.concatenate([x[:, 0], mean], axis=-1)
    return mean, intermediates

  def _positions(self, rows: int, columns: int) -> jax.Array:
    """[1, 1 + rows * columns, d] float32, [cls]'s first."""
    grid, size = self.positions_grid, self.dimension
    if self.positions == "sincos" and not grid:
      return jnp.asarray(sincos_positions(rows, columns, size))
    if self.positions == "sincos":
      known = jnp.asarray(sincos_positions(grid, grid, size))
    else:
      count = grid * grid or rows * columns
      shape = (1, self.class_token + count, size)
      init = nn.initializers.truncated_normal(0.02)
      known = self.param("pos_embed", init, shape, jnp.float32)
      if not self.class_token:
        known = jnp.pad(known, ((0, 0), (1, 0), (0, 0)))
      if not grid:
        return known
    return resized(known, grid, rows, columns, resize=self.positions_resize)
