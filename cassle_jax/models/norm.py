"""Batch normalisation as torch computes it, over the batch or over parts of it.

Under jit with the batch sharded over devices the means below are global means:
XLA inserts the all-reduce, so this is synchronised BatchNorm by itself.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.errors import UserError


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last.

  Statistics are float32 whatever the input's type and take two passes,
  mean(x) and then mean((x - mean(x))^2): mean(x^2) - mean(x)^2 would save one
  read of x, but loses all digits of the variance when a channel's mean is a few
  thousand times its standard deviation, and one such channel turns into NaN.
  The running variance is the unbiased one, as in torch.

  Attributes:
    groups: number G of contiguous sub-batches, each of B/G examples, with
      statistics of their own in training (MoCo's shuffled BN on one device).
      The running statistics take the mean over the groups.
    affine: whether there are a learned scale and bias.
    zero_scale: start the scale at 0 instead of 1 (zero-init residual).
    momentum: share of the old running statistics kept (torch's is 1 - this).
    epsilon: added to the variance.
    dtype: type of the output; the input's where None.
  """

  groups: int = 1
  affine: bool = True
  zero_scale: bool = False
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Normalises x [B, ..., C]; in training also updates "batch_stats".

    Raises:
      UserError: in training, when B is not a multiple of `groups` or a group
        holds a single value per channel.
    """
    channels = x.shape[-1]
    mean_var = self.variable(
      "batch_stats", "mean", jnp.zeros, (channels,), jnp.float32
    )
    var_var = self.variable(
      "batch_stats", "var", jnp.ones, (channels,), jnp.float32
    )
    if self.affine:
      one = nn.initializers.ones
      zero = nn.initializers.zeros
      scale_init = zero if self.zero_scale else one
      scale = self.param("scale", scale_init, (channels,), jnp.float32)
      bias = self.param("bias", zero, (channels,), jnp.float32)

    use_batch = train and not self.is_initializing()
    groups = self.groups if use_batch else 1
    if use_batch:
      check_groups(x.shape, groups)
    grouped = x.reshape(groups, -1, channels).astype(jnp.float32)
    if use_batch:
      mean = jnp.mean(grouped, axis=1, keepdims=True)
      centred = grouped - mean
      var = jnp.mean(jnp.square(centred), axis=1, keepdims=True)
      count = grouped.shape[1]
      new_mean = jnp.mean(mean, axis=(0, 1))
      new_var = jnp.mean(var, axis=(0, 1)) * (count / (count - 1))
      keep = self.momentum
      mean_var.value = keep * mean_var.value + (1 - keep) * new_mean
      var_var.value = keep * var_var.value + (1 - keep) * new_var
    else:
      centred = grouped - mean_var.value[None, None]
      var = var_var.value[None, None]

    factor = jax.lax.rsqrt(var + self.epsilon)
    if self.affine:
      y = centred * (factor * scale[None, None]) + bias[None, None]
    else:
      y = centred * factor
    return y.reshape(x.shape).astype(self.dtype or x.dtype)


def check_groups(shape: tuple[int, ...], groups: int) -> None:
  """Raises a UserError when a batch of this shape cannot be normalised."""
  batch = shape[0]
  if groups < 1 or batch % groups:
    raise UserError(
      f"bn_groups={groups} does not divide the batch of {batch}: choose a"
      " divisor of the batch size (1 = statistics over the whole batch)."
    )
  if batch // groups * math.prod(shape[1:-1]) < 2:
    raise UserError(
      f"BatchNorm cannot train on {batch} examples in {groups} groups: one"
      " value per channel has no variance; use a larger batch or fewer groups."
    )
