"""Plain convolutional networks for CPUs: the quick start and small tests."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.errors import UserError
from cassle_jax.models.amortised import (
  AmortisedConv,
  Embedding,
  check_descriptor,
)
from cassle_jax.models.conv import Conv, space_to_depth
from cassle_jax.models.norm import BatchNorm

NORMS = ("batch", "group")

# name: (channels as multiples of the width, strides, patch, default width)
VARIANTS = {
  "conv2": ((1, 2), (2, 2), 1, 8),
  "conv3": ((1, 2, 4), (1, 2, 2), 2, 36),
  "conv4": ((1, 2, 4, 8), (1, 2, 2, 2), 2, 32),
}


class ConvNet(nn.Module):
  """3x3 convolutions, each with normalisation and ReLU, then the mean.

  The image is first cut into patches (space-to-depth): a convolution over three
  channels at full resolution is slow on CPUs. Parameters are named conv1, bn1,
  conv2, ... (gn1 for group normalisation).

  With descriptor_size > 0 the network is amortised: every convolution but the
  first has its kernel emitted from one embedding of the descriptor.

  Attributes:
    widths: channels of each convolution.
    strides: stride of each convolution, 1 or 2.
    patch: side of the patches moved into the channels; 1 = none.
    norm: "batch" or "group": channels // 16 groups, at least one, which must
      divide the channels (see `check_groups`).
    conv_init, descriptor_size, amortised_rank, bn_groups, dtype: as of
      `ResNet`.
  """

  widths: tuple[int, ...]
  strides: tuple[int, ...]
  patch: int = 1
  norm: str = "batch"
  conv_init: str = "he_normal"
  descriptor_size: int = 0
  amortised_rank: int = 32
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @property
  def features(self) -> int:
    """Size d of the feature vector."""
    return self.widths[-1]

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
      features [B, d] float32, and the maps "stage1", "stage2", ..., each
      [B, h, w, c] of the compute type. Under jit, what is not used is free.
    """
    if self.norm not in NORMS:
      raise errors.unknown("norm", self.norm, NORMS)
    descriptor = check_descriptor(
      descriptor, self.descriptor_size, initializing=self.is_initializing()
    )
    if descriptor is not None:
      embedding = Embedding(name="embedding")(descriptor)
    x = images.astype(self.dtype)
    if self.patch > 1:
      x = space_to_depth(x, self.patch)
    intermediates = {}
    layers = zip(self.widths, self.strides, strict=True)
    for i, (width, stride) in enumerate(layers, start=1):
      if descriptor is None or i == 1:
        x = Conv(width, 3, stride, self.dtype, self.conv_init, name=f"conv{i}")(
          x
        )
      else:
        x = AmortisedConv(
          width, 3, stride, self.amortised_rank, self.dtype, name=f"conv{i}"
        )(x, embedding)
      if self.norm == "batch":
        x = BatchNorm(groups=self.bn_groups, name=f"bn{i}")(x, train=train)
      else:
        groups = _group_count(width)
        x = nn.GroupNorm(groups, dtype=self.dtype, name=f"gn{i}")(x)
      x = nn.relu(x)
      intermediates[f"stage{i}"] = x
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2)), intermediates


def check_groups(width: int, multiples: tuple[int, ...]) -> None:
  """Checks that group norm fits layers of these multiples of the width.

  Raises:
    UserError: a layer's channels do not split into groups of equal size.
  """

  def fits(width: int) -> bool:
    channels = [m * width for m in multiples]
    return all(count % _group_count(count) == 0 for count in channels)

  if fits(width):
    return
  # Multiples of 16 fit, and so does 1: there is one within 8.
  near = min(filter(fits, range(1, width + 9)), key=lambda w: abs(w - width))
  raise UserError(
    f"model.width={width} does not fit model.norm='group': channels // 16"
    f" groups must divide the channels of each layer; use model.width={near} or"
    " model.norm='batch'."
  )


def _group_count(channels: int) -> int:
  return max(1, channels // 16)
