"""ResNets with torchvision's structure, so that its weights can be read.

Source: He et al., arXiv 1512.03385; the stride sits on the 3x3 convolution of a
bottleneck.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.models.conv import Conv, space_to_depth
from cassle_jax.models.norm import BatchNorm

STEMS = ("imagenet", "small", "space_to_depth")


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

  features: int
  stride: int
  zero_init_residual: bool
  bn_groups: int
  dtype: jnp.dtype
  expansion = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, h, w, c] to [B, h/stride, w/stride, features]."""
    bn = _norm(self, train)
    y = Conv(
      self.features, 3, stride=self.stride, dtype=self.dtype, name="conv1"
    )(x)
    y = nn.relu(bn("bn1", y))
    y = Conv(self.features, 3, dtype=self.dtype, name="conv2")(y)
    y = bn("bn2", y, zero_scale=self.zero_init_residual)
    return nn.relu(y + _shortcut(self, x, self.features, bn))


class Bottleneck(nn.Module):
  """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut."""

  features: int
  stride: int
  zero_init_residual: bool
  bn_groups: int
  dtype: jnp.dtype
  expansion = 4

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, h, w, c] to [B, h/stride, w/stride, 4 * features]."""
    bn = _norm(self, train)
    y = Conv(self.features, 1, dtype=self.dtype, name="conv1")(x)
    y = nn.relu(bn("bn1", y))
    y = Conv(
      self.features, 3, stride=self.stride, dtype=self.dtype, name="conv2"
    )(y)
    y = nn.relu(bn("bn2", y))
    out = self.features * self.expansion
    y = Conv(out, 1, dtype=self.dtype, name="conv3")(y)
    y = bn("bn3", y, zero_scale=self.zero_init_residual)
    return nn.relu(y + _shortcut(self, x, out, bn))


def _norm(block, train):
  """Returns bn(name, x): a BatchNorm with the block's settings."""

  def bn(name, x, **options):
    return BatchNorm(groups=block.bn_groups, name=name, **options)(
      x, train=train
    )

  return bn


def _shortcut(block, x, features, bn):
  """x itself, or projected where the block changes its shape."""
  if block.stride == 1 and x.shape[-1] == features:
    return x
  x = Conv(
    features, 1, stride=block.stride, dtype=block.dtype, name="downsample_conv"
  )(x)
  return bn("downsample_bn", x)


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

  Attributes:
    variant: "resnet18", "resnet34", "resnet50" or "resnet101".
    width: channels of the stem and of the first stage's blocks.
    stem: "imagenet" (7x7 of stride 2 and a max pool), "small" (3x3 at full
      resolution, for 32 to 96 px) or "space_to_depth" (patches of stem_factor
      px, then a 3x3: quicker than "small" on CPUs, at 1/stem_factor of its
      resolution).
    stem_factor: side of the patches of the space_to_depth stem.
    zero_init_residual: start the last scale of every block at 0.
    remat: recompute each block in the backward pass instead of storing it.
    bn_groups: sub-batches of every BatchNorm.
    dtype: compute type; parameters and statistics are float32.
  """

  variant: str = "resnet18"
  width: int = 64
  stem: str = "imagenet"
  stem_factor: int = 2
  zero_init_residual: bool = True
  remat: bool = False
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @property
  def features(self) -> int:
    """Size d of the feature vector."""
    block, stages = VARIANTS[self.variant]
    return self.width * 2 ** (len(stages) - 1) * block.expansion

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes features and the maps they come from.

    Args:
      images: [B, H, W, 3] normalised.
      train: whether BatchNorm uses and updates the batch's statistics.

    Returns:
      features [B, d] float32, and a dict with the maps "stem" (after its pool)
      and "stage1" to "stage4", each [B, h, w, c] of the compute type. Under
      jit, maps that are not used cost nothing.
    """
    if self.variant not in VARIANTS:
      raise errors.unknown("ResNet variant", self.variant, VARIANTS)
    block, stages = VARIANTS[self.variant]
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
          bn_groups=self.bn_groups,
          dtype=self.dtype,
          name=f"layer{i + 1}_block{j}",
        )(x, train)
      intermediates[f"stage{i + 1}"] = x
    features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return features, intermediates

  def _stem(self, x: jax.Array, train: bool) -> jax.Array:
    if self.stem == "imagenet":
      x = Conv(self.width, 7, stride=2, dtype=self.dtype, name="conv1")(x)
    elif self.stem == "small":
      x = Conv(self.width, 3, dtype=self.dtype, name="conv1")(x)
    elif self.stem == "space_to_depth":
      x = space_to_depth(x, self.stem_factor)
      x = Conv(self.width, 3, dtype=self.dtype, name="conv1")(x)
    else:
      raise errors.unknown("stem", self.stem, STEMS)
    x = nn.relu(BatchNorm(groups=self.bn_groups, name="bn1")(x, train=train))
    if self.stem == "imagenet":
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return x
