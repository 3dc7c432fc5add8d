"""Batch normalisation as torch computes it, over the batch or over parts of it.

Under jit with the batch sharded over devices the sums below are global sums:
XLA inserts the all-reduce, so this is synchronised BatchNorm by itself.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.errors import UserError


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last.

  Statistics are float32 whatever the input's type; the output has the input's
  type. The running variance is the unbiased one, as in torch. Variables: scale
  and bias in "params", mean and var in "batch_stats", each [C] float32.

  Attributes:
    groups: number G of contiguous sub-batches, each of B/G examples, with
      statistics of their own in training (MoCo's shuffled BN on one device).
      The running statistics take the mean over the groups.
    affine: whether there are a learned scale and bias.
    zero_scale: start the scale at 0 instead of 1 (zero-init residual).
    momentum: share of the old running statistics kept (torch's is 1 - this).
    epsilon: added to the variance.
  """

  groups: int = 1
  affine: bool = True
  zero_scale: bool = False
  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Normalises x [B, ..., C]; in training also updates "batch_stats".

    Raises:
      UserError: in training, when B is not a multiple of `groups` or a group
        holds a single value per channel.
    """
    shape = (x.shape[-1],)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape)
    if self.affine:
      ones, zeros = nn.initializers.ones, nn.initializers.zeros
      scale = self.param("scale", zeros if self.zero_scale else ones, shape)
      bias = self.param("bias", zeros, shape)
    else:
      scale, bias = jnp.ones(shape), jnp.zeros(shape)

    # Initialisation may see a single example, and must not count as a step.
    if not train or self.is_initializing():
      factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
      wide = (1,) * (x.ndim - 1) + shape
      centred = x.astype(jnp.float32) - running_mean.value.reshape(wide)
      y = centred * factor.reshape(wide) + bias.reshape(wide)
      return y.astype(x.dtype)

    check_batch(x.shape, self.groups)
    # An axis of length 1 would make the whole net slower on CPUs.
    first = 0 if self.groups == 1 else 1
    grouped = x
    if first:
      grouped = x.reshape(self.groups, -1, *x.shape[1:])
    y, mean, var = _normalise(grouped, scale, bias, self.epsilon, first)
    mean = jnp.mean(mean.reshape(self.groups, -1), axis=0)
    var = jnp.mean(var.reshape(self.groups, -1), axis=0)
    count = x.size // x.shape[-1] // self.groups
    unbiased = var * (count / (count - 1))
    keep = self.momentum
    running_mean.value = keep * running_mean.value + (1 - keep) * mean
    running_var.value = keep * running_var.value + (1 - keep) * unbiased
    return y.reshape(x.shape)


def check_batch(shape: tuple[int, ...], groups: int) -> None:
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, first: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises x [..., C] by statistics over its axes from `first` to -2.

  The statistics take two passes, mean(x) and then mean((x - mean(x))^2):
  mean(x^2) - mean(x)^2 would save one read of x, but a channel whose mean is
  some thousand times its deviation (gamma sees omega fields that hardly vary)
  would lose all digits of its variance, or get a negative one and NaN.

  The gradient is written out so that the backward pass keeps x in its own type
  and two numbers per channel; differentiating the lines below would keep a
  centred float32 copy of every bfloat16 activation.

  Returns:
    y as x; mean and variance float32, their reduced axes of length 1. No
    gradient flows through mean and variance.
  """
  return _forward(x, scale, bias, epsilon, first)[0]


def _forward(x, scale, bias, epsilon, first):
  axes = tuple(range(first, x.ndim - 1))
  mean = jnp.mean(x, axis=axes, keepdims=True, dtype=jnp.float32)
  centred = x.astype(jnp.float32) - mean
  var = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
  inverse = jax.lax.rsqrt(var + epsilon)
  wide = (1,) * (x.ndim - 1) + (-1,)
  y = centred * (inverse * scale.reshape(wide)) + bias.reshape(wide)
  return (y.astype(x.dtype), mean, var), (x, scale, mean, inverse)


def _backward(epsilon, first, saved, cotangents):
  x, scale, mean, inverse = saved
  axes = tuple(range(first, x.ndim - 1))
  count = math.prod(x.shape[first:-1])
  dy = cotangents[0].astype(jnp.float32)
  normal = (x.astype(jnp.float32) - mean) * inverse
  dbias = jnp.sum(dy, axis=axes, keepdims=True)
  dscale = jnp.sum(dy * normal, axis=axes, keepdims=True)
  factor = inverse * scale.reshape((1,) * (x.ndim - 1) + (-1,))
  dx = factor * (dy - (dbias + normal * dscale) / count)
  leading = tuple(range(x.ndim - 1))
  return (
    dx.astype(x.dtype),
    jnp.sum(dscale, axis=leading),
    jnp.sum(dbias, axis=leading),
  )


_normalise.defvjp(_forward, _backward)
