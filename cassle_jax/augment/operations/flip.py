"""Mirroring left and right; the pixels are mirrored as they are cropped."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment.operation import Field, Operation, Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlipSettings(Settings):
  """How views are mirrored.

  Attributes:
    probability: of mirroring (key `flip`).
  """

  operation: ClassVar[str] = "flip"

  probability: float = 0.5


class Flip(NamedTuple):
  """applied `[B]` bool."""

  applied: jax.Array


def draw(draws, settings, size, batch_draw) -> Flip:
  """Draws for one image; see `Operation.draw`."""
  return Flip(draws_lib.happens(draws[0], settings.probability))


def describe(
  parameters, settings, sizes, measured, others
) -> dict[str, jax.Array]:
  """See `Operation.describe`."""
  applied = parameters.applied
  return {"flip": applied[:, None].astype(jnp.float32)}


FLIP = Operation(
  title="horizontal flip",
  settings=FlipSettings,
  draws=1,
  draw=draw,
  apply=None,
  fields=(
    Field(
      name="flip",
      neutral=(0.0,),
      meaning="1 if mirrored",
      kind="binary",
    ),
  ),
  describe=describe,
  changes="position",
  group="flip",
  example="flip=0.5",
  common_stream=True,
)
