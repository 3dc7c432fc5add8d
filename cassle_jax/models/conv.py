"""Convolutions with torch's padding, and space-to-depth."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.errors import UserError, chosen
from cassle_jax.models.mlp import fan_in_uniform

# How kernels start: He's normal over fan_out, as in torchvision's ResNets, or
# torch's own default, U(-1/sqrt(fan_in), +1/sqrt(fan_in)): Kaiming's uniform
# with a = sqrt(5), to which the code of AugSelf and CASSLE resets them.
INITS = {
  "he_normal": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
  "torch": fan_in_uniform,
}


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolves with a square kernel, padding by size // 2 on every side.

  "SAME" would pad differently at stride 2 and shift imported weights.

  Where the output has fewer pixels than the kernel, the neighbourhoods are
  gathered for one matrix product. There XLA swaps the roles of image and kernel
  in the gradient, which on CPUs made a 3x3 convolution of stride 2 from 4x4 to
  2x2 px 35 times slower. It is also as quick as any on accelerators.

  Args:
    x: [B, h, w, c].
    kernel: [size, size, c, out] of x's type; size is odd.
    stride: step of the kernel.

  Returns:
    [B, ceil(h/stride), ceil(w/stride), out] of x's type.
  """
  batch, height, width, channels = x.shape
  size, features = kernel.shape[0], kernel.shape[-1]
  pad = (size // 2, size // 2)
  rows, columns = -(-height // stride), -(-width // stride)
  if rows * columns >= size * size:
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      (pad, pad),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
  x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
  neighbours = [
    x[:, i : i + height : stride, j : j + width : stride]
    for i in range(size)
    for j in range(size)
  ]
  x = jnp.concatenate(neighbours, axis=-1).reshape(
    batch * rows * columns, size * size * channels
  )
  y = x @ kernel.reshape(-1, features)
  return y.reshape(batch, rows, columns, features)


class Conv(nn.Module):
  """A square convolution without bias, padded as `convolve` does.

  Attributes:
    features: output channels.
    size: side of the kernel, odd.
    stride: step of the kernel.
    dtype: compute type; the kernel [size, size, c, features] is float32.
    initializer: of the kernel, a name of INITS.
  """

  features: int
  size: int
  stride: int = 1
  dtype: jnp.dtype = jnp.float32
  initializer: str = "he_normal"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to [B, ceil(h/stride), ceil(w/stride), features]."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    init = chosen("conv_init", self.initializer, INITS)
    kernel = self.param("kernel", init, shape, jnp.float32)
    return convolve(
      x.astype(self.dtype), kernel.astype(self.dtype), self.stride
    )


def space_to_depth(images: jax.Array, factor: int) -> jax.Array:
  """Moves each factor x factor patch into the channels.

  Args:
    images: [B, H, W, C].
    factor: side of the patches; it must divide H and W.

  Returns:
    [B, H/factor, W/factor, factor * factor * C].
  """
  batch, height, width, channels = images.shape
  if height % factor or width % factor:
    raise UserError(
      f"images of {height}x{width} cannot be cut into {factor}x{factor}"
      f" patches: use an image size that is a multiple of {factor}."
    )
  rows, columns = height // factor, width // factor
  x = images.reshape(batch, rows, factor, columns, factor, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, rows, columns, factor * factor * channels)
