"""ResNets with torchvision's structure, so that its weights can be read.

Source: He et al., arXiv 1512.03385; the stride sits on the 3x3 convolution of a
bottleneck. Amortised ones follow Chavhan et al., arXiv 2302.12712.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.models.amortised import (
  AmortisedConv,
  Embedding,
  check_descriptor,
)
from cassle_jax.models.conv import Conv, space_to_depth
from cassle_jax.models.norm import BatchNorm

STEMS = ("imagenet", "small", "space_to_depth")


class Block(nn.Module):
  """What both kinds of block have; the settings are those of `ResNet`."""

  features: int
  stride: int
  zero_init_residual: bool
  bn_groups: int
  dtype: jnp.dtype
  amortised_rank: int = 0
  conv_init: str = "he_normal"
  expansion = 1

  def embedding(self, descriptor: jax.Array | None) -> jax.Array | None:
    """What `conv` emits kernels from; None in an ordinary network."""
    if descriptor is None:
      return None
    return Embedding(name="embedding")(descriptor)

  def conv(self, name, x, embedding, features, size, stride=1):
    """An ordinary convolution or, with an embedding, an emitted one."""
    if embedding is None:
      layer = Conv(
        features, size, stride, self.dtype, self.conv_init, name=name
      )
      return layer(x)
    rank = self.amortised_rank
    layer = AmortisedConv(features, size, stride, rank, self.dtype, name=name)
    return layer(x, embedding)

  def bn(self, name, x, train, **options):
    """A BatchNorm with the block's settings."""
    layer = BatchNorm(groups=self.bn_groups, name=name, **options)
    return layer(x, train=train)

  def shortcut(self, x, embedding, train):
    """x itself, or projected where the block changes its shape."""
    features = self.features * self.expansion
    if self.stride == 1 and x.shape[-1] == features:
      return x
    x = self.conv("downsample_conv", x, embedding, features, 1, self.stride)
    return self.bn("downsample_bn", x, train)


class BasicBlock(Block):
  """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, descriptor: jax.Array | None = None
  ) -> jax.Array:
    """Maps [B, h, w, c] to [B, h/stride, w/stride, features]."""
    told = self.embedding(descriptor)
    y = self.conv("conv1", x, told, self.features, 3, self.stride)
    y = nn.relu(self.bn("bn1", y, train))
    y = self.conv("conv2", y, told, self.features, 3)
    y = self.bn("bn2", y, train, zero_scale=self.zero_init_residual)
    return nn.relu(y + self.shortcut(x, told, train))


class Bottleneck(Block):
  """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut."""

  expansion = 4

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, descriptor: jax.Array | None = None
  ) -> jax.Array:
    """Maps [B, h, w, c] to [B, h/stride, w/stride, 4 * features]."""
    told = self.embedding(descriptor)
    y = self.conv("conv1", x, told, self.features, 1)
    y = nn.relu(self.bn("bn1", y, train))
    y = self.conv("conv2", y, told, self.features, 3, self.stride)
    y = nn.relu(self.bn("bn2", y, train))
    y = self.conv("conv3", y, told, self.features * self.expansion, 1)
    y = self.bn("bn3", y, train, zero_scale=self.zero_init_residual)
    return nn.relu(y + self.shortcut(x, told, train))


# name: (block, blocks per stage)
VARIANTS = {
  "resnet18": (BasicBlock, (2, 2, 2, 2)),
  "resnet34": (BasicBlock, (3, 4, 6, 3)),
  "resnet50": (Bottleneck, (3, 4, 6, 3)),
  "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
  """A residual network without its classifier.

  Parameters are named conv1, bn1, layer1_block0/conv1, ..., with
  downsample_conv and downsample_bn on projected shortcuts.

  With descriptor_size > 0 the network is amortised: each block has an embedding
  of the descriptor, from which the kernels of all its convolutions are emitted.
  Stem and BatchNorm are ordinary.

  Attributes:
    variant: "resnet18", "resnet34", "resnet50" or "resnet101".
    width: channels of the stem and of the first stage's blocks.
    stem: "imagenet" (7x7 of stride 2 and a max pool), "small" (3x3 at full
      resolution, for 32 to 96 px) or "space_to_depth" (patches of stem_factor
      px, then a 3x3: quicker than "small" on CPUs, at 1/stem_factor of its
      resolution).
    stem_factor: side of the patches of the space_to_depth stem.
    zero_init_residual: start the last scale of every block at 0.
    conv_init: how ordinary convolutions start, "he_normal" or "torch", see
      conv.INITS.
    descriptor_size: length k of the invariance descriptor; 0 = ordinary.
    amortised_rank: see `AmortisedConv`.
    remat: recompute each block in the backward pass instead of storing it; its
      emitted kernels too.
    bn_groups: sub-batches of every BatchNorm.
    dtype: compute type; parameters and statistics are float32.
  """

  variant: str = "resnet18"
  width: int = 64
  stem: str = "imagenet"
  stem_factor: int = 2
  zero_init_residual: bool = True
  conv_init: str = "he_normal"
  descriptor_size: int = 0
  amortised_rank: int = 32
  remat: bool = False
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @property
  def features(self) -> int:
    """Size d of the feature vector."""
    block, stages = errors.chosen("ResNet variant", self.variant, VARIANTS)
    return self.width * 2 ** (len(stages) - 1) * block.expansion

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, descriptor: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes features, as `Backbone` says, and the maps they come from.

    Args:
      images: [B, H, W, 3] normalised.
      train: whether BatchNorm uses and updates the batch's statistics.
      descriptor: [k] in [0, 1] of an amortised network, else None.

    Returns:
      features [B, d] float32, and the maps "stem" (after its pool) and "stage1"
      to "stage4", each [B, h, w, c] of the compute type. Under jit, what is not
      used is free.
    """
    descriptor = check_descriptor(
      descriptor, self.descriptor_size, initializing=self.is_initializing()
    )
    block, stages = errors.chosen("ResNet variant", self.variant, VARIANTS)
    if self.remat:
      block = nn.remat(block, static_argnums=(2,))
    x = self._stem(images.astype(self.dtype), train)
    intermediates = {"stem": x}
    for i, count in enumerate(stages):
      for j in range(count):
        x = block(
          features=self.width * 2**i,
          stride=2 if i > 0 and j == 0 else 1,
          zero_init_residual=self.zero_init_residual,
          conv_init=self.conv_init,
          bn_groups=self.bn_groups,
          dtype=self.dtype,
          amortised_rank=self.amortised_rank,
          name=f"layer{i + 1}_block{j}",
        )(x, train, descriptor)
      intermediates[f"stage{i + 1}"] = x
    features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return features, intermediates

  def _stem(self, x: jax.Array, train: bool) -> jax.Array:
    if self.stem not in STEMS:
      raise errors.unknown("stem", self.stem, STEMS)
    if self.stem == "space_to_depth":
      x = space_to_depth(x, self.stem_factor)
    size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
    x = Conv(
      self.width, size, stride, self.dtype, self.conv_init, name="conv1"
    )(x)
    x = nn.relu(BatchNorm(groups=self.bn_groups, name="bn1")(x, train=train))
    if self.stem == "imagenet":
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return x
