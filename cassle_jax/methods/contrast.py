"""What losses share: arithmetic, all of it in float32, and its types."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cassle_jax.errors import ABOVE_0, UserError, require

# (similarities [n, m], labels [n], temperature) -> (loss, accuracy): how well
# each row finds the column of its label. Similarities are not yet divided by
# the temperature, and -inf where a column is barred.
Criterion = Callable[[jax.Array, jax.Array, float], tuple[jax.Array, jax.Array]]


class Contrastive(NamedTuple):
  """What an awareness may ask of a method with negatives.

  Such a method's loss takes the keyword argument `criterion`, a Criterion.

  Attributes:
    temperature: divisor of the similarities.
    candidates: B -> among how many columns each row of a batch of B finds its
      positive, itself included: what the metric contrast_accuracy is a share
      of, so a guess scores 1 / candidates.
    negatives: number of keys kept as negatives; 0 = those of the batch alone.
  """

  temperature: float
  candidates: Callable[[int], int]
  negatives: int = 0


def normalize(x: jax.Array, axis: int = -1) -> jax.Array:
  """Scales rows of any float type to unit length along an axis, in float32.

  Zeros stay zeros and their gradient is finite: the divisor is at least 1e-12.
  """
  x = x.astype(jnp.float32)
  squares = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Inner products of all rows: [n, d] x [m, d] -> [n, m] float32.

  The highest matmul precision is asked for: on TPUs and recent GPUs the
  default would round the inputs to bfloat16 or TF32, and a loss at
  temperature 0.2 multiplies that error by five.
  """
  return jnp.einsum("nd,md->nm", a, b, precision=jax.lax.Precision.HIGHEST)


def check_pairs(first: jax.Array, second: jax.Array, *, least: int = 1) -> None:
  """Checks the rows of two views that a loss compares, row by row.

  Args:
    first: [B, k].
    second: [B, k].
    least: rows that the loss needs.

  Raises:
    UserError: two shapes, or too few rows: broadcasting and division by 0 would
      give a number, or nan, without a word.
  """
  if first.ndim != 2 or first.shape != second.shape:
    raise UserError(
      f"the views' rows are {list(first.shape)} and {list(second.shape)}; both"
      " must be [B, k], one row for each image."
    )
  if first.shape[0] < least:
    raise UserError(
      f"this loss compares the images of a batch and needs {least} rows or"
      f" more, got {first.shape[0]}; raise the batch size."
    )


def softmax_loss(
  similarities: jax.Array, labels: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """The usual criterion: cross-entropy of similarities / temperature.

  Args:
    similarities: [n, m] float32; -inf where a column is barred.
    labels: [n] int32, the column that each row is to find.
    temperature: positive divisor.

  Returns:
    The mean loss in nats and the share of rows whose label has the largest
    similarity, both scalar float32.
  """
  if isinstance(temperature, int | float):
    require("", {"temperature": ABOVE_0}, temperature=temperature)
  logits = similarities / temperature
  picked = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
  loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)
  accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels, dtype=jnp.float32)
  return loss, accuracy
