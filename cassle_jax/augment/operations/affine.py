"""Rotation by an angle and scaling, about the middle of the view.

It needs a gather, which the crop's separable resampling cannot do, and so is a
resampling of its own: bilinear, mirrored beyond the edges, for empty corners
would tell a network the angle.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy import ndimage

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
class AffineSettings(Settings):
  """How views are rotated and scaled.

  Attributes:
    probability: of both together (key `affine`).
    degrees: the angle is uniform in [-degrees, degrees].
    scale: interval of the magnification, log-uniform.
  """

  operation: ClassVar[str] = "affine"

  probability: float = 0.0
  degrees: float = 30.0
  scale: tuple[float, float] = (0.8, 1.25)

  def check(self):
    good = are_numbers((self.degrees,), 1) and 0 <= self.degrees <= 180
    self.require(good, "degrees", "a number from 0 to 180")
    self.require_rising("scale", 1e-2, 1e2, "two rising numbers in [0.01, 100]")


class Affine(NamedTuple):
  """applied `[B]` bool; angle `[B]` float32 in radians, counter-clockwise;
  log_scale `[B]` float32, natural logarithm of the magnification.
  """

  applied: jax.Array
  angle: jax.Array
  log_scale: jax.Array


def draw(draws, settings, size, batch_draw) -> Affine:
  """Draws for one image; see `Operation.draw`."""
  limit = math.radians(settings.degrees)
  return Affine(
    draws_lib.happens(draws[0], settings.probability),
    draws_lib.between(draws[1], -limit, limit),
    draws_lib.between(draws[2], *map(math.log, settings.scale)),
  )


def rotate_and_scale(
  image: jax.Array, angle: jax.Array, scale: jax.Array
) -> jax.Array:
  """Turns counter-clockwise and magnifies one image about its middle.

  Args:
    image: `[3, H, W]` floating point.
    angle: in radians, may be traced.
    scale: magnification, above 0.

  Returns:
    `[3, H, W]`, bilinear, the image mirrored about its outermost pixels.
  """
  height, width = image.shape[1:]
  y, x = jnp.meshgrid(
    jnp.arange(height) - (height - 1) / 2,
    jnp.arange(width) - (width - 1) / 2,
    indexing="ij",
  )
  sine, cosine = jnp.sin(angle) / scale, jnp.cos(angle) / scale
  source = [
    sine * x + cosine * y + (height - 1) / 2,
    cosine * x - sine * y + (width - 1) / 2,
  ]
  return jax.vmap(
    lambda plane: ndimage.map_coordinates(plane, source, 1, mode="mirror")
  )(image)


def apply(images, parameters, settings, how) -> jax.Array:
  """See `Operation.apply`."""
  scale = jnp.exp(parameters.log_scale)
  return forms.where_applied(
    how.form,
    parameters.applied,
    lambda images: jax.vmap(rotate_and_scale)(images, parameters.angle, scale),
    images,
  )


def describe(
  parameters, settings, sizes, measured, others
) -> dict[str, jax.Array]:
  """See `Operation.describe`."""
  applied, angle, log_scale = parameters
  angle = jnp.where(applied, angle, 0.0)
  log_scale = jnp.where(applied, log_scale, 0.0)
  return {
    "affine": jnp.stack([jnp.sin(angle), jnp.cos(angle), log_scale], axis=1)
  }


def _range(settings: AffineSettings) -> tuple[float, float]:
  """Of sines and cosines, and beyond where the scale's logarithm is."""
  low, high = map(math.log, settings.scale)
  return min(low, -1.0), max(high, 1.0)


def _words(value) -> str:
  angle = math.degrees(math.atan2(value[0], value[1]))
  return f"{angle:+.0f}\N{DEGREE SIGN}   x {math.exp(value[2]):.2f}"


def _still(still: Affine) -> Affine:
  """Applied, but by no angle and no scale."""
  zero = jnp.zeros_like(still.angle)
  return Affine(jnp.ones_like(still.applied), zero, zero)


AFFINE = Operation(
  title="rotation and scale",
  settings=AffineSettings,
  draws=3,
  draw=draw,
  apply=apply,
  fields=(
    Field(
      name="affine",
      neutral=(0.0, 1.0, 0.0),
      meaning="angle, as sine and cosine, and scale, as its logarithm",
      range=_range,
      text=_words,
    ),
  ),
  describe=describe,
  changes="position",
  group="affine",
  example="affine=0.5",
  varies=lambda s: s.on and (s.degrees > 0 or s.scale != (1.0, 1.0)),
  sweeps=(
    Sweep(
      name="affine_angle",
      values=steps(-90.0, 90.0, 13),
      neutral=0.0,
      unit="degrees",
      set=lambda still, value, sizes: _still(still)._replace(
        angle=jnp.full_like(still.angle, math.radians(value))
      ),
      trained=lambda s: (-s.degrees, s.degrees) if s.on else None,
    ),
    Sweep(
      name="affine_scale",
      values=(0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0),
      neutral=1.0,
      unit="magnification",
      set=lambda still, value, sizes: _still(still)._replace(
        log_scale=jnp.full_like(still.log_scale, math.log(value))
      ),
      trained=lambda s: s.scale if s.on else None,
    ),
  ),
)
