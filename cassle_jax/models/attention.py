"""Multi-head self-attention of a ViT, with little of it in memory.

A step is bound by what it reads and writes, so the forms below are chosen by
bytes: `preflight` counts them.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.errors import UserError, unknown
from cassle_jax.models.mlp import uniform

ATTENTIONS = ("auto", "xla", "cudnn")
# Numbers of a head that cuDNN's fused attention takes at most.
_CUDNN_HEAD = 128


def choose_attention(
  attention: str,
  *,
  head_size: int,
  dtype: jnp.dtype = jnp.float32,
  cudnn: bool = False,
) -> str:
  """How a ViT is to compute attention on some devices, "xla" or "cudnn".

  Args:
    attention: one of ATTENTIONS; "auto" is cuDNN's wherever that runs, because
      the scores [B, heads, N, N] then never reach the memory.
    head_size: numbers of a head.
    dtype: of the computation.
    cudnn: whether the devices have cuDNN's fused attention.

  Raises:
    UserError: it is none of them, or cuDNN's and does not run there.
  """
  if attention not in ATTENTIONS:
    raise unknown("model.attention", attention, ATTENTIONS)
  runs = (
    cudnn
    and jnp.dtype(dtype).itemsize == 2
    and head_size % 8 == 0
    and head_size <= _CUDNN_HEAD
  )
  if attention == "cudnn" and not runs:
    raise UserError(
      "model.attention='cudnn' needs an NVIDIA GPU (Ampere or newer),"
      " precision=bfloat16 and heads of 8, 16, ... 128 numbers (here"
      f" {head_size}); use model.attention=auto."
    )
  return "cudnn" if runs and attention != "xla" else "xla"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def project(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, length: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Queries, keys and values of tokens.

  By a product each, so that no pass over the memory takes them apart. Their
  gradients are put together, which is where those of tokens that nobody sees
  are left out: whatever a kernel writes there goes no further.

  Args:
    x: [B, N, d] tokens, of which the first `length` are seen.
    kernel: [d, 3d], of x's type.
    bias: [3d], likewise.
    length: tokens that are seen.

  Returns:
    Three of [B, N, d].
  """
  parts = zip(jnp.split(kernel, 3, axis=1), jnp.split(bias, 3), strict=True)
  return tuple(x @ part + shift[None, None] for part, shift in parts)


def _project_forward(x, kernel, bias, length):
  return project(x, kernel, bias, length), (x, kernel)


def _project_backward(length, saved, gradients):
  x, kernel = saved
  whole = jnp.concatenate(gradients, axis=-1)
  if length < x.shape[1]:
    query = jnp.arange(whole.shape[-1]) < x.shape[-1]
    seen = (jnp.arange(x.shape[1]) < length)[:, None] | query[None]
    whole = jnp.where(seen[None], whole, 0)
  return (
    whole @ kernel.T,
    jnp.einsum("bnd,bne->de", x, whole),
    jnp.sum(whole, axis=(0, 1)),
  )


project.defvjp(_project_forward, _project_backward)


class Projections(nn.Module):
  """The kernel and bias of `project`, each part a Xavier matrix of its own."""

  length: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Maps [B, N, d] to three of [B, N, d]."""
    size = x.shape[-1]
    init = uniform(math.sqrt(3 / size))
    kernel = self.param("kernel", init, (size, 3 * size), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (3 * size,), jnp.float32)
    kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
    return project(x.astype(self.dtype), kernel, bias, self.length)


class Attention(nn.Module):
  """Multi-head self-attention over the first `length` tokens."""

  heads: int
  attention: str
  length: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, N, d] to [B, N, d]."""
    batch, tokens, size = x.shape
    projections = Projections(self.length, self.dtype, name="qkv")
    shape = (batch, tokens, self.heads, size // self.heads)
    q, k, v = (part.reshape(shape) for part in projections(x))
    seen = None
    if self.length < tokens:
      seen = jnp.full(batch, self.length, jnp.int32)
    y = jax.nn.dot_product_attention(
      q,
      k,
      v,
      key_value_seq_lengths=seen,
      implementation="cudnn" if self.attention == "cudnn" else "xla",
    )
    proj = nn.Dense(
      size,
      dtype=self.dtype,
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.zeros,
      name="proj",
    )
    return proj(y.reshape(batch, tokens, size))
