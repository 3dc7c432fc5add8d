"""Conversion to grey."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment import forms, planes
from cassle_jax.augment.operation import Field, Operation, Settings

# BT.601 luma.
_GRAY = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrayscaleSettings(Settings):
  """How views are greyed.

  Attributes:
    probability: of the conversion (key `grayscale`).
  """

  operation: ClassVar[str] = "grayscale"

  probability: float = 0.2


class Grayscale(NamedTuple):
  """applied `[B]` bool."""

  applied: jax.Array


def draw(draws, settings, size, batch_draw) -> Grayscale:
  """Draws for one image; see `Operation.draw`."""
  return Grayscale(draws_lib.happens(draws[0], settings.probability))


def to_grayscale(image: jax.Array, *, axis: int = -1) -> jax.Array:
  """Returns 0.299 R + 0.587 G + 0.114 B in all three channels."""
  gray = planes.weighted(image, _GRAY, axis)
  return jnp.broadcast_to(gray, image.shape)


def apply(images, parameters, settings, how) -> jax.Array:
  """See `Operation.apply`."""
  return forms.where_applied(
    how.form,
    parameters.applied,
    lambda images: to_grayscale(images, axis=-3),
    images,
  )


def describe(
  parameters, settings, sizes, measured, others
) -> dict[str, jax.Array]:
  """See `Operation.describe`."""
  applied = parameters.applied
  return {"grayscale": applied[:, None].astype(jnp.float32)}


GRAYSCALE = Operation(
  title="grayscale",
  settings=GrayscaleSettings,
  draws=1,
  draw=draw,
  apply=apply,
  fields=(
    Field(
      name="grayscale",
      neutral=(0.0,),
      meaning="1 if converted to grey",
      kind="binary",
      # Results so far have the difference; AugSelf's head sees the agreement.
      compared="difference",
    ),
  ),
  describe=describe,
  changes="appearance",
  group="color",
  example="grayscale=0.2",
  amortised="always",
  common_stream=True,
)
