"""Turns by quarters, counter-clockwise."""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment import forms
from cassle_jax.augment.operation import Field, Operation, Settings, Sweep


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationSettings(Settings):
  """How views are turned.

  Attributes:
    probability: of a turn by 0 to 3 quarters, all equally likely (key
      `rotation`).
  """

  operation: ClassVar[str] = "rotation"

  probability: float = 0.0

  def fitted(self, image_size):
    self.require(
      not self.on or image_size[0] == image_size[1],
      "probability",
      "0 unless image_size is square",
    )
    return self


class Rotation(NamedTuple):
  """turns `[B]` int32: quarter turns, counter-clockwise."""

  turns: jax.Array


def draw(draws, settings, size, batch_draw) -> Rotation:
  """Draws for one image; see `Operation.draw`."""
  turned = draws_lib.happens(draws[0], settings.probability)
  return Rotation(jnp.where(turned, draws_lib.integer(draws[1], 4), 0))


def quarter_turns(
  image: jax.Array, turns: jax.Array, *, axes: tuple[int, int] = (0, 1)
) -> jax.Array:
  """Rotates a square image counter-clockwise by a traced number of turns.

  Args:
    image: `[N, N, 3]`, or any layout with (y, x) at `axes`.
    turns: int in {0, 1, 2, 3}.
    axes: the axes of y and x.
  """
  return lax.switch(
    turns, [lambda x, k=k: jnp.rot90(x, k, axes) for k in range(4)], image
  )


def apply(images, parameters, settings, how) -> jax.Array:
  """See `Operation.apply`."""
  turn = functools.partial(quarter_turns, axes=(1, 2))
  return forms.where_applied(
    how.form,
    parameters.turns > 0,
    lambda images: jax.vmap(turn)(images, parameters.turns),
    images,
  )


def describe(
  parameters, settings, sizes, measured, others
) -> dict[str, jax.Array]:
  """See `Operation.describe`."""
  return {"rotation": jax.nn.one_hot(parameters.turns, 4)}


ROTATION = Operation(
  title="quarter turns",
  settings=RotationSettings,
  draws=2,
  draw=draw,
  apply=apply,
  fields=(
    Field(
      name="rotation",
      neutral=(1.0, 0.0, 0.0, 0.0),
      meaning="quarter turns",
      kind="one-hot",
      compared="turn",
      neutral_text="0",
    ),
  ),
  describe=describe,
  changes="position",
  group="rotation",
  example="rotation=1.0",
  # Chavhan et al. have no rotation in their set of positions.
  amortised="never",
  sweeps=(
    Sweep(
      name="rotation",
      values=(0.0, 1.0, 2.0, 3.0),
      neutral=0.0,
      unit="quarter turns",
      set=lambda still, value, sizes: Rotation(
        jnp.full_like(still.turns, int(value) % 4)
      ),
      trained=lambda settings: (0.0, 3.0) if settings.on else None,
    ),
  ),
  common_stream=True,
)
