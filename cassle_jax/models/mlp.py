"""Linear layers with torch's initialisation and the MLP that every head is."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.errors import chosen, unknown
from cassle_jax.models.norm import BatchNorm

NORMS = ("none", "plain", "affine")
ACTIVATIONS = {"relu": nn.relu, "gelu": lambda x: nn.gelu(x, approximate=False)}


def fan_in_uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32):
  """Draws U(-1/sqrt(fan_in), +1/sqrt(fan_in)): torch's default for kernels."""
  limit = 1 / math.sqrt(math.prod(shape[:-1]))
  return jax.random.uniform(key, shape, dtype, -limit, limit)


def uniform(limit: float):
  """Makes an initialiser that draws U(-limit, limit)."""

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return init


def linear(
  features: int,
  fan_in: int,
  *,
  use_bias: bool = True,
  dtype: jnp.dtype | None = None,
  precision: jax.lax.Precision | None = None,
  name: str | None = None,
) -> nn.Dense:
  """A Dense whose kernel and bias are drawn as torch's Linear draws them."""
  return nn.Dense(
    features,
    use_bias=use_bias,
    dtype=dtype,
    precision=precision,
    kernel_init=fan_in_uniform,
    bias_init=uniform(1 / math.sqrt(fan_in)),
    name=name,
  )


class MLP(nn.Module):
  """Hidden layers of Linear, BatchNorm and activation, then one Linear.

  Parameters are named linear0, bn0, linear1, ... The output of the first hidden
  layer, [B, widths[0]] after its activation, is sown as "hidden" in the
  collection "intermediates": apply(..., mutable=["intermediates"]) returns it.

  Attributes:
    widths: sizes of the hidden layers and of the output.
    norm: BatchNorm after the last Linear: "none", "plain" (no learned scale and
      bias) or "affine".
    last_bias: whether the last Linear has a bias; None = iff norm is "none".
    hidden_norm: BatchNorm after each hidden Linear, which then has no bias.
    activation: "relu" or "gelu".
    bn_groups: sub-batches of every BatchNorm.
    dtype: compute type; the output is float32.
    precision: of the matrix products; None = the platform's usual, which rounds
      float32 inputs to bfloat16 on TPUs and to TF32 on recent GPUs.
  """

  widths: tuple[int, ...]
  norm: str = "none"
  last_bias: bool | None = None
  hidden_norm: bool = True
  activation: str = "relu"
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32
  precision: jax.lax.Precision | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps [B, d] to [B, widths[-1]] float32."""
    if self.norm not in NORMS:
      raise unknown("norm", self.norm, NORMS)
    x = x.astype(self.dtype)
    for i, width in enumerate(self.widths):
      last = i == len(self.widths) - 1
      normed = self.norm != "none" if last else self.hidden_norm
      use_bias = not normed
      if last and self.last_bias is not None:
        use_bias = self.last_bias
      x = linear(
        width,
        x.shape[-1],
        use_bias=use_bias,
        dtype=self.dtype,
        precision=self.precision,
        name=f"linear{i}",
      )(x)
      if normed:
        x = BatchNorm(
          groups=self.bn_groups,
          affine=not last or self.norm == "affine",
          name=f"bn{i}",
        )(x, train=train)
      if not last:
        x = chosen("activation", self.activation, ACTIVATIONS)(x)
      if i == 0 and not last:
        self.sow("intermediates", "hidden", x)
    return x.astype(jnp.float32)
