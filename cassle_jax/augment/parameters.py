"""What happens to each view of a batch, drawn: replayable parameters.

What happens to image i depends on the key, on i and on that picture's size
alone, never on the batch around it or on how it is sharded.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment import geometry
from cassle_jax.augment.policy import ViewPolicy


class Crop(NamedTuple):
  """box `[B, 4]` int32: top, left, height, width in true pixels."""

  box: jax.Array


class Flip(NamedTuple):
  """applied `[B]` bool."""

  applied: jax.Array


class Jitter(NamedTuple):
  """applied `[B]` bool, factors `[B, 4]` float32, order `[B, 4]` int32.

  Factors are those of brightness, contrast, saturation (1 is neutral) and hue
  (in turns); `order` lists the operations, 0 to 3 as named, first to last.
  """

  applied: jax.Array
  factors: jax.Array
  order: jax.Array


class Grayscale(NamedTuple):
  """applied `[B]` bool."""

  applied: jax.Array


class Blur(NamedTuple):
  """applied `[B]` bool, sigma `[B]` float32 in pixels of the view."""

  applied: jax.Array
  sigma: jax.Array


class Solarize(NamedTuple):
  """applied `[B]` bool, threshold `[B]` float32 in [0, 1]."""

  applied: jax.Array
  threshold: jax.Array


class Rotation(NamedTuple):
  """turns `[B]` int32: quarter turns, counter-clockwise."""

  turns: jax.Array


class Parameters(NamedTuple):
  """Everything drawn for a batch of views, one sub-tuple per operation."""

  crop: Crop
  flip: Flip
  jitter: Jitter
  grayscale: Grayscale
  blur: Blur
  solarize: Solarize
  rotation: Rotation


# Uniform numbers that each operation takes of an image, in this order: fixed,
# so that changing how one operation is drawn leaves the others' draws alone.
_DRAWS = {
  "crop": geometry.BOX_DRAWS,
  "flip": 1,
  "jitter": 6,
  "grayscale": 1,
  "blur": 2,
  "solarize": 2,
  "rotation": 2,
}
# Folded into a key in place of an image's index for draws per batch.
_WHOLE_BATCH = 2**31 - 1


def sample(key: jax.Array, policy: ViewPolicy, sizes: jax.Array) -> Parameters:
  """Draws what will happen to each image of a batch.

  Args:
    key: PRNG key of this view and step.
    policy: what may happen.
    sizes: `[B, 2]` int32, true (height, width) of each picture.

  Returns:
    `Parameters` with leading dimension B. Each operation draws from a key of
    its own: changing how one is drawn leaves the others' draws alone.
  """
  index = jnp.arange(sizes.shape[0], dtype=jnp.uint32)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
  batch_key = jax.random.fold_in(key, _WHOLE_BATCH)
  batch_order = draws_lib.order_of_four(jax.random.uniform(batch_key))

  def one(key, size):
    draws = jax.random.uniform(key, (sum(_DRAWS.values()),))
    return _from_draws(draws, batch_order, policy, size)

  return jax.vmap(one)(keys, sizes)


def _from_draws(draws, batch_order, policy, size) -> Parameters:
  """Turns one image's uniform numbers into its parameters."""
  ends = list(itertools.accumulate(_DRAWS.values()))
  of = dict(zip(_DRAWS, jnp.split(draws, ends[:-1]), strict=True))
  happens, between = draws_lib.happens, draws_lib.between

  box = geometry.whole_box(size)
  if policy.crop:
    box = geometry.draw_box(
      of["crop"], size, scale=policy.crop_scale, ratio=policy.crop_ratio
    )
  low, high = jnp.asarray(policy.jitter_intervals, jnp.float32).T
  order = {
    "image": draws_lib.order_of_four(of["jitter"][5]),
    "batch": batch_order,
    "fixed": jnp.arange(4, dtype=jnp.int32),
  }[policy.jitter_order]
  turned = happens(of["rotation"][0], policy.rotation)
  turns = jnp.where(turned, draws_lib.integer(of["rotation"][1], 4), 0)
  return Parameters(
    crop=Crop(box),
    flip=Flip(happens(of["flip"][0], policy.flip)),
    jitter=Jitter(
      happens(of["jitter"][0], policy.jitter),
      between(of["jitter"][1:5], low, high),
      order,
    ),
    grayscale=Grayscale(happens(of["grayscale"][0], policy.grayscale)),
    blur=Blur(
      happens(of["blur"][0], policy.blur),
      between(of["blur"][1], *policy.blur_sigma),
    ),
    solarize=Solarize(
      happens(of["solarize"][0], policy.solarize),
      between(of["solarize"][1], *policy.solarize_interval),
    ),
    rotation=Rotation(turns),
  )


def share(
  parameters: Parameters, other: Parameters, names: Sequence[str]
) -> Parameters:
  """Takes the parameters of the named operations from another draw.

  Args:
    parameters: the draw to change.
    other: the draw to take from, for the same batch.
    names: operations, i.e. fields of `Parameters`.

  Returns:
    New parameters: `other`'s for `names`, the rest as they were.

  Raises:
    UserError: a name is no operation.
  """
  for name in names:
    if name not in Parameters._fields:
      raise errors.unknown("operation", name, Parameters._fields)
  return parameters._replace(**{name: getattr(other, name) for name in names})


def effective_factors(jitter: Jitter) -> jax.Array:
  """Returns the factors, neutral where the jitter was not applied."""
  neutral = jnp.asarray([1.0, 1.0, 1.0, 0.0])
  applied = jitter.applied[..., None]
  neutral = neutral.reshape((1,) * (applied.ndim - 1) + (4,))
  return jnp.where(applied, jitter.factors, neutral)
