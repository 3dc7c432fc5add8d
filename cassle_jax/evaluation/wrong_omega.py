"""Whether a projector uses what it is told: similarity under a wrong omega.

x is told the neutral omega, which is true, and t(x) one of four; a conditioned
projector (CASSLE, arXiv 2306.06082) must find the two less similar when the
omega of t(x) is wrong.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from cassle_jax import augment
from cassle_jax.augment.draws import of_name
from cassle_jax.errors import UserError
from cassle_jax.evaluation import confidence, pairs

WRONG = ("other", "neutral", "noise")
TOLD = ("true", *WRONG)


class WrongOmega(NamedTuple):
  """Cosines of the projections of x and t(x), by what t(x) was told.

  Attributes:
    similarity: {name in TOLD: [N] float32}, one for each image.
    drop: {name in WRONG: Interval}, true minus wrong over the images.
    different: share of the images whose "other" omega is not their own, in
      [0, 1]; 0 where the operation leaves nothing to draw (flip, grayscale).
  """

  similarity: dict[str, np.ndarray]
  drop: dict[str, confidence.Interval]
  different: float


def omegas(
  key: jax.Array, omega: dict[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
  """The four omegas that t(x) is told.

  Args:
    key: PRNG key of the exchange and of the noise.
    omega: {field: [N, k]}, the true one; N >= 2.

  Returns:
    {name in TOLD: {field: [N, k] float32}}: "other" is another image's, all
    images exchange theirs by one cyclic shift; "noise" is N(0, 1) in every
    number.

  Raises:
    UserError: fewer than two images.
  """
  count = len(next(iter(omega.values())))
  if count < 2:
    raise UserError(
      f"wrong omega needs at least 2 images to exchange theirs, got {count}."
    )
  shift = int(jax.random.randint(jax.random.fold_in(key, 0), (), 1, count))
  noise_key = jax.random.fold_in(key, 1)
  return {
    "true": omega,
    "other": {name: np.roll(x, shift, axis=0) for name, x in omega.items()},
    "neutral": jax.device_get(augment.omega.neutral((count,), omega)),
    "noise": {
      name: np.asarray(jax.random.normal(of_name(noise_key, name), x.shape))
      for name, x in omega.items()
    },
  }


def measure(
  key: jax.Array,
  images: np.ndarray,
  *,
  policy: augment.ViewPolicy,
  encode: Callable[[jax.Array], jax.Array],
  project: Callable[..., jax.Array],
  operations: Sequence[str],
  batch_size: int = 256,
) -> dict[str, WrongOmega]:
  """Measures each operation on its own.

  Args:
    key: PRNG key; the same gives the same pairs and the same wrong omegas.
    images: [N, S, T, 3] uint8, or floats in [0, 1]; N >= 2.
    policy: of the run, which gives the intervals of the parameters.
    encode: images [b, h, w, 3] float32, normalised -> features [b, d], in eval
      mode and jitted.
    project: (features [b, d], omega {field: [b, k]}) -> [b, out], in eval mode
      and jitted; it packs the fields that the projector was trained with.
    operations: names in `augment.OPERATIONS`.
    batch_size: images at a time; the result does not depend on it.

  Returns:
    {operation: WrongOmega}.

  Raises:
    UserError: fewer than two images, or an unknown operation.
  """
  pair_key, wrong_key = jax.random.split(key)

  encoded = functools.partial(
    pairs.encode, pair_key, images, function=encode, batch_size=batch_size
  )
  projections = functools.partial(
    pairs.in_batches, project, batch_size=batch_size
  )
  reference = projections(*encoded(policy=pairs.untouched(policy)))
  results = {}
  for operation in operations:
    features, true = encoded(policy=pairs.only(operation, policy))
    told = omegas(wrong_key, true)
    similarity = {
      name: pairs.cosine(reference, projections(features, omega))
      for name, omega in told.items()
    }
    drop = {
      name: confidence.interval(
        np.subtract(similarity["true"], similarity[name], dtype=np.float64)
      )
      for name in WRONG
    }
    other = told["other"]
    differs = [np.any(other[name] != x, axis=1) for name, x in true.items()]
    different = float(np.mean(np.any(differs, axis=0)))
    results[operation] = WrongOmega(similarity, drop, different)
  return results
