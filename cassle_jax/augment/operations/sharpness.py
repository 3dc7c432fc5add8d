"""Sharpness: an image is blended with a smoothed one, or away from it."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment import forms
from cassle_jax.augment.operation import (
  Field,
  Operation,
  Settings,
  Sweep,
  are_numbers,
  steps,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharpnessSettings(Settings):
  """How views are sharpened or softened.

  Attributes:
    probability: of either (key `sharpness`).
    strength: s; the factor is uniform in [max(0, 1 - s), 1 + s], where 1 is
      neutral and 0 the smoothed image.
  """

  operation: ClassVar[str] = "sharpness"

  probability: float = 0.0
  strength: float = 0.8

  def check(self):
    good = are_numbers((self.strength,), 1) and 0 <= self.strength <= 100
    self.require(good, "strength", "a number from 0 to 100")

  @property
  def interval(self) -> tuple[float, float]:
    """[lo, hi] of the factor."""
    return max(0.0, 1.0 - self.strength), 1.0 + self.strength

  @property
  def scale(self) -> float:
    """1 over the interval's length; 0 where it has none."""
    low, high = self.interval
    return 1.0 / (high - low) if high > low else 0.0


class Sharpness(NamedTuple):
  """applied `[B]` bool, factor `[B]` float32."""

  applied: jax.Array
  factor: jax.Array


def draw(draws, settings, size, batch_draw) -> Sharpness:
  """Draws for one image; see `Operation.draw`."""
  return Sharpness(
    draws_lib.happens(draws[0], settings.probability),
    draws_lib.between(draws[1], *settings.interval),
  )


def adjust_sharpness(images: jax.Array, factor: jax.Array) -> jax.Array:
  """Blends with the image under PIL's SMOOTH filter, as PIL and torchvision do.

  Args:
    images: `[..., H, W]` in [0, 1].
    factor: broadcasts with them; 1 returns the image exactly.

  Returns:
    clip(smooth + factor (image - smooth), 0, 1). The outermost pixels are not
    smoothed.
  """
  height, width = images.shape[-2:]
  inner = (..., slice(1, height - 1), slice(1, width - 1))
  total = 4.0 * images[inner]
  for y in range(3):
    for x in range(3):
      total += images[..., y : y + height - 2, x : x + width - 2]
  smooth = images.at[inner].set(total / 13.0)
  # Written as an increment so that factor 1 returns the image bit for bit.
  return jnp.clip(images + (factor - 1.0) * (images - smooth), 0.0, 1.0)


def apply(images, parameters, settings, how) -> jax.Array:
  """See `Operation.apply`."""
  factor = parameters.factor[:, None, None, None]
  return forms.where_applied(
    how.form,
    parameters.applied,
    lambda images: adjust_sharpness(images, factor),
    images,
  )


def describe(
  parameters, settings, sizes, measured, others
) -> dict[str, jax.Array]:
  """See `Operation.describe`."""
  applied, factor = parameters
  moved = jnp.where(applied, factor - 1.0, 0.0)
  return {"sharpness": (moved * settings.scale)[:, None]}


SHARPNESS = Operation(
  title="sharpness",
  settings=SharpnessSettings,
  draws=2,
  draw=draw,
  apply=apply,
  fields=(
    Field(
      name="sharpness",
      neutral=(0.0,),
      meaning="factor, of the interval",
      range=lambda s: tuple((end - 1.0) * s.scale for end in s.interval),
      text=lambda value: f"{value[0]:+.2f}".replace("0.", "."),
    ),
  ),
  describe=describe,
  changes="appearance",
  group="sharpness",
  example="sharpness=0.5",
  varies=lambda settings: settings.on and settings.strength > 0,
  sweeps=(
    Sweep(
      name="sharpness",
      values=steps(0.0, 3.0, 13),
      neutral=1.0,
      unit="factor",
      set=lambda still, value, sizes: Sharpness(
        jnp.ones_like(still.applied), jnp.full_like(still.factor, value)
      ),
      trained=lambda settings: settings.interval if settings.on else None,
    ),
  ),
)
