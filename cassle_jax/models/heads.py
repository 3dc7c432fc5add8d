"""Heads beside the projector: prototypes, and heads over pairs of views."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.models.mlp import MLP, fan_in_uniform


def unit_length(x: jax.Array, axis: int) -> jax.Array:
  """Divides x by its length along an axis in float32; zeros stay zeros."""
  x = x.astype(jnp.float32)
  squares = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def unit_columns(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32):
  """Draws columns of unit length: torch's default for a Linear, normalised."""
  return unit_length(fan_in_uniform(key, shape), 0).astype(dtype)


class Prototypes(nn.Module):
  """Inner products of unit-length projections with learned directions.

  Sources: SwAV (Caron et al., arXiv 2006.09882, section 3) and DINO (Caron et
  al., arXiv 2104.14294, section 3.1), whose last layer is the weight-normed.

  The one parameter is `kernel` [k, count] float32. It starts with columns of
  unit length; without weight_norm it is the method that keeps them so.

  Attributes:
    count: number of prototypes.
    weight_norm: divide each column by its length in the forward pass. (torch's
      weight_norm with its gain fixed at 1, as in DINO.)
  """

  count: int
  weight_norm: bool = False

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Maps projections [B, k], of any length, to scores [B, count] float32.

    Where columns have unit length the scores are cosines, in [-1, 1]. The
    highest matmul precision is asked for: they are divided by temperatures as
    low as 0.04, which would multiply the error of bfloat16 or TF32 inputs.
    """
    shape = (z.shape[-1], self.count)
    kernel = self.param("kernel", unit_columns, shape, jnp.float32)
    if self.weight_norm:
      kernel = unit_length(kernel, 0)
    return jnp.matmul(
      unit_length(z, -1), kernel, precision=jax.lax.Precision.HIGHEST
    )


class PairHeads(nn.Module):
  """One MLP per field of omega that predicts how two views differ in it.

  Source: AugSelf (Lee et al., arXiv 2111.09613, section 3).

  Each head has hidden layers of Linear, BatchNorm and ReLU and a last Linear
  with a bias. Its parameters are named by its field.

  Attributes:
    outputs: (field, number of outputs) of each head, e.g. ("color", 4).
    hidden: sizes of the hidden layers.
    dtype: compute type; the outputs are float32.
  """

  outputs: tuple[tuple[str, int], ...]
  hidden: tuple[int, ...] = (512, 512)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, first: jax.Array, second: jax.Array, *, train: bool
  ) -> dict[str, jax.Array]:
    """Predicts from both orders of a pair.

    Args:
      first: [B, d] features of the first views.
      second: [B, d] features of the second views.
      train: whether BatchNorm uses and updates the batch's statistics, which
        are those of all 2B rows.

    Returns:
      {field: [2B, n] float32}: rows 2b and 2b + 1 are of [first ; second] and
      of [second ; first] of pair b, so that a pair stays on its device.
    """
    forward = jnp.concatenate([first, second], axis=-1)
    backward = jnp.concatenate([second, first], axis=-1)
    pairs = jnp.stack([forward, backward], axis=1)
    pairs = pairs.reshape(-1, pairs.shape[-1])
    return {
      field: MLP((*self.hidden, size), dtype=self.dtype, name=field)(
        pairs, train=train
      )
      for field, size in self.outputs
    }
