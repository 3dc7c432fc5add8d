"""Cross-entropies of linear logits, summed over rows, and their derivatives.

Rows lie in K chunks of n, and every pass over them works on one at a time. A
constant feature stands for the bias, and the features are turned to their
principal axes, where their second moments are diagonal; so D = d + 1. The
parameters are [C, D] for C classes, the logits [K, C, n].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Data(NamedTuple):
  """Features and labels.

  Attributes:
    inputs: [K, n, D]; rows of zeros fill the last chunk.
    labels: [K, n] int32; -1 where a row only fills.
    axes: [D, D] orthogonal; features and a one, times it, are the inputs.
  """

  inputs: jax.Array
  labels: jax.Array
  axes: jax.Array


def prepare(features: jax.Array, labels: jax.Array, *, rows: int) -> Data:
  """Turns features to their principal axes.

  Args:
    features: [N, d] float.
    labels: [N] int32.
    rows: n, at most N.
  """
  count = features.shape[0]
  total = jnp.sum(features, axis=0)[:, None]
  corner = jnp.full((1, 1), count, features.dtype)
  moments = jnp.matmul(features.T, features, precision="highest")
  _, axes = jnp.linalg.eigh(jnp.block([[moments, total], [total.T, corner]]))

  def turned(chunk: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The last chunk is cut where it fits: what others have only fills.
    start = jnp.minimum(chunk * rows, count - rows)
    fresh = start + jnp.arange(rows) >= chunk * rows
    inputs = jax.lax.dynamic_slice_in_dim(features, start, rows)
    inputs = jnp.matmul(inputs, axes[:-1], precision="highest") + axes[-1:]
    names = jax.lax.dynamic_slice_in_dim(labels, start, rows)
    return inputs * fresh[:, None], jnp.where(fresh, names, -1)

  return Data(*jax.lax.map(turned, jnp.arange(-(-count // rows))), axes)


def logits(data: Data, theta: jax.Array) -> jax.Array:
  """[K, C, n] of parameters [C, D]."""
  return jax.lax.map(
    lambda inputs: jnp.einsum("cd,nd->cn", theta, inputs, precision="highest"),
    data.inputs,
  )


def gradient(data: Data, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The sum of cross-entropies, and its gradient [C, D]."""

  def part(inputs: jax.Array, labels: jax.Array, logits: jax.Array):
    odds = _odds(logits, labels)
    errors = odds.wrong - odds.targets * odds.missed[None]
    slopes = jnp.einsum("cn,nd->cd", errors, inputs, precision="highest")
    return jnp.sum(odds.loss), slopes

  return _total(part, data.inputs, data.labels, logits)


def curvatures(data: Data, logits: jax.Array) -> jax.Array:
  """Second derivatives [C, D] of the sum, by each parameter alone."""

  def part(inputs: jax.Array, labels: jax.Array, logits: jax.Array):
    odds = _odds(logits, labels)
    spread = odds.wrong * (1 - odds.wrong)
    spread += odds.targets * (odds.missed * (1 - odds.missed))[None]
    return jnp.einsum(
      "cn,nd->cd", spread, jnp.square(inputs), precision="highest"
    )

  return _total(part, data.inputs, data.labels, logits)


def along(
  data: Data, logits: jax.Array, change: jax.Array, size: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """First and second derivative of the sum at logits + size * change."""

  def part(labels: jax.Array, logits: jax.Array, change: jax.Array):
    odds = _odds(logits + size * change, labels)
    # Relative to the label's, as its probability is one minus the others'.
    change -= jnp.sum(change * odds.targets, axis=0)[None]
    mean = jnp.sum(odds.wrong * change, axis=0)
    spread = jnp.sum(odds.wrong * jnp.square(change), axis=0)
    return jnp.sum(mean), jnp.sum(spread - jnp.square(mean))

  return _total(part, data.labels, logits, change)


class _Odds(NamedTuple):
  """Probabilities that keep their digits where they are almost zero.

  Attributes:
    wrong: [C, n] of the classes that are not the label's; 0 for the label's
      and in rows that only fill.
    missed: [n] their sum.
    loss: [n] cross-entropies; 0 in rows that only fill.
    targets: [C, n] one-hot; zeros in rows that only fill.
  """

  wrong: jax.Array
  missed: jax.Array
  loss: jax.Array
  targets: jax.Array


def _odds(logits: jax.Array, labels: jax.Array) -> _Odds:
  """From logits [C, n] and labels [n]."""
  targets = jax.nn.one_hot(labels, logits.shape[0], axis=0, dtype=logits.dtype)
  real = (labels >= 0).astype(logits.dtype)
  top = jnp.max(logits, axis=0)
  label = jnp.sum(logits * targets, axis=0)
  wrong = jnp.exp(logits - top[None]) * (1 - targets) * real[None]
  others = jnp.sum(wrong, axis=0)
  own = jnp.exp(label - top)
  loss = jnp.where(
    others < own,
    jnp.log1p(others / jnp.maximum(own, others)),
    jnp.log(own + others) + top - label,
  )
  total = own + others
  return _Odds(wrong / total[None], others / total, loss * real, targets)


def _total(function: Callable[..., Any], *chunks: jax.Array) -> Any:
  """Sum over K of what the function makes of the chunks."""
  shapes = jax.eval_shape(function, *(x[0] for x in chunks))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  def add(sums: Any, chunk: tuple[jax.Array, ...]) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, sums, function(*chunk)), None

  return jax.lax.scan(add, zeros, chunks)[0]
