"""What the methods with many crops share: each predicts the global views."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def cross_view_loss(
  labels: Sequence[jax.Array],
  scores: Sequence[jax.Array],
  *,
  temperature: float,
) -> jax.Array:
  """Mean over pairs v != u of CE(labels of v, softmax(scores of u / T)).

  Args:
    labels: of the global views, one [B, K] float32 array each; each row's sum
      is 1.
    scores: of all views, the global ones first, one [B, K] array each.
    temperature: positive divisor of the scores.

  Returns:
    The mean over the pairs and over the batch in nats, scalar float32.
  """
  terms = []
  for u, view in enumerate(scores):
    logits = view.astype(jnp.float32) / temperature
    total = jax.nn.logsumexp(logits, axis=1)
    for v, label in enumerate(labels):
      if v != u:
        terms.append(jnp.mean(total - jnp.sum(label * logits, axis=1)))
  return sum(terms) / len(terms)


def mean_entropy(labels: Sequence[jax.Array]) -> jax.Array:
  """Entropy in nats, the mean over all rows of all views.

  Args:
    labels: one [B, K] float32 array a view, of one B; each row's sum is 1.

  Returns:
    Scalar float32 in [0, log K]; 0 where every row is one-hot.
  """
  # View by view: joined along the batch, rows would change devices.
  terms = [
    -jnp.mean(jnp.sum(jax.scipy.special.xlogy(rows, rows), axis=1))
    for rows in labels
  ]
  return sum(terms) / len(terms)
