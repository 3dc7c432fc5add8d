"""Plain convolutional networks for CPUs: the quick start and small tests."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.models.norm import BatchNorm
from cassle_jax.models.resnet import he_normal, space_to_depth

NORMS = ("batch", "group")

# name: (channels as multiples of the width, strides, patch, default width)
VARIANTS = {
  "conv2": ((1, 2), (2, 2), 1, 8),
  "conv4": ((1, 2, 4, 8), (1, 2, 2, 2), 2, 32),
}


class Conv3x3(nn.Module):
  """A 3x3 convolution padded by 1, without bias.

  At stride 2 it gathers the neighbourhoods and takes one matrix product: XLA's
  gradient of a strided convolution on small maps is slow on CPUs (35 times
  slower from 4x4 to 2x2 px).

  Attributes:
    features: output channels.
    stride: 1 or 2.
    dtype: compute type.
  """

  features: int
  stride: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to [B, ceil(h/stride), ceil(w/stride), features]."""
    channels, stride = x.shape[-1], self.stride
    shape = (3, 3, channels, self.features)
    kernel = self.param("kernel", he_normal, shape, jnp.float32)
    kernel = kernel.astype(self.dtype)
    x = x.astype(self.dtype)
    if stride == 1:
      return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
    batch, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = [
      padded[:, i : i + height : stride, j : j + width : stride]
      for i in range(3)
      for j in range(3)
    ]
    rows, columns = neighbours[0].shape[1:3]
    x = jnp.concatenate(neighbours, axis=-1).reshape(-1, 9 * channels)
    y = x @ kernel.reshape(9 * channels, self.features)
    return y.reshape(batch, rows, columns, self.features)


class ConvNet(nn.Module):
  """3x3 convolutions, each with normalisation and ReLU, then the mean.

  The image is first cut into patches (space-to-depth): a convolution over three
  channels at full resolution is slow on CPUs. Parameters are named conv1, bn1,
  conv2, ... (gn1 for group normalisation).

  Attributes:
    widths: channels of each convolution.
    strides: stride of each convolution, 1 or 2.
    patch: side of the patches moved into the channels; 1 = none.
    norm: "batch" or "group" (groups of 16 channels or fewer).
    bn_groups: sub-batches of every BatchNorm.
    dtype: compute type; parameters and statistics are float32.
  """

  widths: tuple[int, ...]
  strides: tuple[int, ...]
  patch: int = 1
  norm: str = "batch"
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @property
  def features(self) -> int:
    """Size d of the feature vector."""
    return self.widths[-1]

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes features and the maps they come from.

    Args:
      images: [B, H, W, 3] normalised.
      train: whether BatchNorm uses and updates the batch's statistics.

    Returns:
      features [B, d] float32, and a dict with the maps "stage1", "stage2", ...
      each [B, h, w, c] of the compute type. Under jit, maps that are not used
      cost nothing.
    """
    if self.norm not in NORMS:
      raise errors.unknown("norm", self.norm, NORMS)
    x = images.astype(self.dtype)
    if self.patch > 1:
      x = space_to_depth(x, self.patch)
    intermediates = {}
    layers = zip(self.widths, self.strides, strict=True)
    for i, (width, stride) in enumerate(layers, start=1):
      x = Conv3x3(width, stride, self.dtype, name=f"conv{i}")(x)
      if self.norm == "batch":
        x = BatchNorm(groups=self.bn_groups, name=f"bn{i}")(x, train=train)
      else:
        groups = max(1, width // 16)
        x = nn.GroupNorm(groups, dtype=self.dtype, name=f"gn{i}")(x)
      x = nn.relu(x)
      intermediates[f"stage{i}"] = x
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2)), intermediates
