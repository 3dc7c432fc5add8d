"""k-nearest-neighbour classification by cosine similarity.

Wu et al. 2018, arXiv 1805.01978: the k nearest training features vote with
weight exp(cosine / temperature). With k = 1 it is the online metric of the
published CASSLE runs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.errors import ABOVE_0, AT_LEAST_1, require
from cassle_jax.evaluation.scores import check_features, dense
from cassle_jax.methods import contrast

RULES = {"k": AT_LEAST_1, "temperature": ABOVE_0}


def used(k: int, bank: int) -> int:
  """How many neighbours vote where the bank has so many pictures."""
  return min(k, bank)


@functools.partial(jax.jit, static_argnames=("k", "num_classes", "chunk"))
def predict(
  train_features: jax.Array,
  train_labels: jax.Array,
  test_features: jax.Array,
  *,
  k: int,
  num_classes: int,
  temperature: float = 0.07,
  chunk: int = 256,
) -> jax.Array:
  """Predicts the labels of test features.

  Args:
    train_features: [N, d] float; normalised here.
    train_labels: [N] int32 in [0, num_classes).
    test_features: [M, d] float; normalised here.
    k: number of neighbours, at most N.
    num_classes: number of classes.
    temperature: of the vote's weights; the nearest neighbour weighs most.
    chunk: test rows whose similarities are held at a time, which bounds the
      memory to chunk x N numbers.

  Returns:
    [M] int32 labels.
  """
  count = test_features.shape[0]
  train = contrast.normalize(train_features)
  test = contrast.normalize(test_features)
  test = jnp.pad(test, ((0, -count % chunk), (0, 0)))

  def vote(rows: jax.Array) -> jax.Array:
    cosine = jnp.einsum(
      "md,nd->mn", rows, train, precision=jax.lax.Precision.HIGHEST
    )
    nearest, index = jax.lax.top_k(cosine, k)
    # Relative to the nearest, so that small temperatures cannot overflow.
    weight = jnp.exp((nearest - nearest[:, :1]) / temperature)
    classes = jax.nn.one_hot(train_labels[index], num_classes)
    return jnp.argmax(jnp.einsum("mk,mkc->mc", weight, classes), axis=1)

  chunks = test.reshape(-1, chunk, test.shape[1])
  return jax.lax.map(vote, chunks).reshape(-1)[:count].astype(jnp.int32)


def accuracy(
  train_features: np.ndarray,
  train_labels: np.ndarray,
  test_features: np.ndarray,
  test_labels: np.ndarray,
  *,
  k: int = 20,
  temperature: float = 0.07,
) -> float:
  """Top-1 accuracy in [0, 1] of `predict`.

  Labels may be any integers; k is `used(k, N)`.

  Raises:
    UserError: a number out of range, no features, or such as are not finite.
  """
  require("knn", RULES, k=k, temperature=temperature)
  check_features("knn", train_features, train_labels)
  check_features("knn", test_features, test_labels)
  (train_labels, test_labels), classes = dense(train_labels, test_labels)
  predicted = predict(
    jnp.asarray(train_features),
    jnp.asarray(train_labels),
    jnp.asarray(test_features),
    k=used(k, len(train_labels)),
    num_classes=classes,
    temperature=temperature,
  )
  return float(np.mean(np.asarray(predicted) == np.asarray(test_labels)))
