"""How much of one operation each block of a network keeps.

A batch of pairs (x, t(x)) with exactly one operation; the InfoNCE loss asks how
well the features of x single out their own t(x) among those of the batch. It is
low where features are invariant to the operation: higher InfoNCE means that the
representation keeps more of it (CASSLE, arXiv 2306.06082, section 4).
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax import augment, errors
from cassle_jax.errors import UserError
from cassle_jax.evaluation import pairs
from cassle_jax.methods import contrast

NEGATIVES = ("all", "published")


class Scores(NamedTuple):
  """Of one batch, scalars.

  Attributes:
    info_nce: 2 T times the cross-entropy, at least 0.
    positive: mean cosine of x and t(x).
    negative: mean cosine of x and another image's t(x).
  """

  info_nce: jax.Array
  positive: jax.Array
  negative: jax.Array


class Sensitivity(NamedTuple):
  """Scores of O operations and K blocks over n batches.

  Attributes:
    operations: names, O.
    blocks: names, K, from the stem to the projector.
    info_nce: [O, K, n] float32; see `Scores`, as for the other two.
    positive: [O, K, n] float32.
    negative: [O, K, n] float32.
  """

  operations: tuple[str, ...]
  blocks: tuple[str, ...]
  info_nce: np.ndarray
  positive: np.ndarray
  negative: np.ndarray


@functools.partial(jax.jit, static_argnames="negatives")
def scores(
  first: jax.Array,
  second: jax.Array,
  *,
  temperature: float = 0.2,
  negatives: str = "all",
) -> Scores:
  """Scores one batch of features.

  Args:
    first: [B, d] features of x.
    second: [B, d] features of t(x), the same images in the same order.
    temperature: T.
    negatives: "all" averages the cosine over all B (B - 1) pairs of different
      images. "published" takes one pair for each image, with the image at its
      place counted from the end; if B is odd, the middle one meets its own.

  Raises:
    UserError: `negatives` is not one of these.
  """
  if negatives not in NEGATIVES:
    raise errors.unknown("negatives", negatives, NEGATIVES)
  count = len(first)
  cosine = contrast.similarity(
    contrast.normalize(first), contrast.normalize(second)
  )
  loss, _ = contrast.softmax_loss(cosine, jnp.arange(count), temperature)
  positive = jnp.trace(cosine) / count
  if negatives == "all":
    negative = (jnp.sum(cosine) - jnp.trace(cosine)) / (count * (count - 1))
  else:
    negative = jnp.trace(cosine[:, ::-1]) / count
  return Scores(2 * temperature * loss, positive, negative)


def pooled(
  features: jax.Array, intermediates: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """One vector for each block of what a backbone returns.

  Args:
    features: [B, d].
    intermediates: maps [B, h, w, c] or tokens [B, N, c], by block.

  Returns:
    {block: [B, c] float32}, the mean over positions or over all tokens, and
    the features as "backbone".
  """
  vectors = {
    name: jnp.mean(
      x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1]), axis=1
    )
    for name, x in intermediates.items()
  }
  return vectors | {"backbone": features}


def measure(
  key: jax.Array,
  images: np.ndarray,
  *,
  policy: augment.ViewPolicy,
  blocks: Callable[[jax.Array], Mapping[str, jax.Array]],
  project: Callable[..., jax.Array] | None = None,
  operations: Sequence[str],
  temperature: float = 0.2,
  batch: int = 256,
  negatives: str = "all",
  batch_size: int = 256,
) -> Sensitivity:
  """Measures every operation at every block.

  Args:
    key: PRNG key of the pairs; an operation's pairs do not depend on which
      others are measured.
    images: [N, S, T, 3] uint8, or floats in [0, 1]. The last N % batch are left
      out: InfoNCE grows with the batch.
    policy: of the run, which gives the intervals of the parameters.
    blocks: images [b, h, w, 3] float32, normalised -> {block: [b, d]}, with
      the features as "backbone", in eval mode: a jitted `pooled` of what the
      backbone returns.
    project: (features [b, d], omega {field: [b, k]}) -> [b, out], in eval mode
      and jitted; it packs the fields that the projector was trained with. x is
      told the neutral omega and t(x) its own. None leaves the projector out.
    operations: names in `augment.OPERATIONS`.
    temperature: T of the InfoNCE loss.
    batch: pairs that are told apart, B.
    negatives: see `scores`.
    batch_size: images that the network sees at a time; the result does not
      depend on it.

  Raises:
    UserError: fewer images than `batch`, or an unknown operation.
  """
  if not 2 <= batch <= len(images):
    raise UserError(
      f"sensitivity needs batch={batch} images or more (and a batch of at"
      f" least 2), got {len(images)}: pass more images or a smaller batch."
    )
  kept = len(images) // batch * batch
  images = images[:kept]

  def vectors(policy: augment.ViewPolicy) -> dict[str, np.ndarray]:
    encoded = pairs.encode(
      key, images, policy=policy, function=blocks, batch_size=batch_size
    )
    found = dict(encoded.outputs)
    if project is not None:
      found["projector"] = pairs.in_batches(
        project, found["backbone"], encoded.omega, batch_size=batch_size
      )
    return found

  x = vectors(pairs.untouched(policy))
  names = sorted(x, key=_depth)
  batches = [slice(start, start + batch) for start in range(0, kept, batch)]
  score = functools.partial(
    scores, temperature=temperature, negatives=negatives
  )
  tables = []
  for operation in operations:
    t = vectors(pairs.only(operation, policy))
    tables.append(
      [[score(x[name][b], t[name][b]) for b in batches] for name in names]
    )
  # [O, K, n, 3]
  values = np.asarray(jax.device_get(tables), np.float32)
  return Sensitivity(
    tuple(operations), tuple(names), *np.moveaxis(values, -1, 0)
  )


def _depth(name: str) -> tuple[int, int]:
  """Sorts blocks from the stem to the output; jit returns them by name."""
  if name in ("stem", "backbone", "projector"):
    return (("stem", None, "backbone", "projector").index(name), 0)
  number = re.search(r"\d+$", name)
  return (1, int(number[0]) if number else 0)
