"""Solarisation: what is at least as bright as a threshold is inverted."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment.operation import (
  Field,
  Operation,
  Settings,
  Sweep,
  are_numbers,
  steps,
)

PLACES = ("last", "after_jitter")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolarizeSettings(Settings):
  """How views are solarised.

  Attributes:
    probability: of the solarisation (key `solarize`).
    threshold: a number in [0, 1], or an interval to draw from.
    place: among the operations, "last" (after the blur) or "after_jitter"
      (before the grayscale), for parity with the published CASSLE code.
  """

  operation: ClassVar[str] = "solarize"

  probability: float = 0.0
  threshold: float | tuple[float, float] = 0.5
  place: str = "last"

  def check(self):
    self.require_one_of("place", PLACES)
    rule = "a number or two rising ones in [0, 1]"
    if isinstance(self.threshold, tuple):
      self.require_rising("threshold", 0, 1, rule)
    else:
      good = are_numbers((self.threshold,), 1) and 0 <= self.threshold <= 1
      self.require(good, "threshold", rule)

  @property
  def interval(self) -> tuple[float, float]:
    """[lo, hi] of the threshold."""
    fixed = not isinstance(self.threshold, tuple)
    return (self.threshold, self.threshold) if fixed else self.threshold


class Solarize(NamedTuple):
  """applied `[B]` bool, threshold `[B]` float32 in [0, 1]."""

  applied: jax.Array
  threshold: jax.Array


def draw(draws, settings, size, batch_draw) -> Solarize:
  """Draws for one image; see `Operation.draw`."""
  return Solarize(
    draws_lib.happens(draws[0], settings.probability),
    draws_lib.between(draws[1], *settings.interval),
  )


def invert_above(image: jax.Array, threshold: jax.Array) -> jax.Array:
  """Solarises: 1 - x wherever x >= threshold, x elsewhere."""
  return jnp.where(image >= threshold, 1.0 - image, image)


def apply(images, parameters, settings, how) -> jax.Array:
  """See `Operation.apply`."""
  # Nothing reaches a threshold of 2.
  threshold = jnp.where(parameters.applied, parameters.threshold, 2.0)
  return invert_above(images, threshold[:, None, None, None])


def describe(
  parameters, settings, sizes, measured, others
) -> dict[str, jax.Array]:
  """See `Operation.describe`."""
  applied, threshold = parameters
  return {"solarize": jnp.where(applied, threshold, 1.0)[:, None]}


SOLARIZE = Operation(
  title="solarisation",
  settings=SolarizeSettings,
  draws=2,
  draw=draw,
  apply=apply,
  fields=(
    Field(
      name="solarize",
      neutral=(1.0,),
      meaning="threshold",
      range=lambda settings: (settings.interval[0], 1.0),
    ),
  ),
  describe=describe,
  changes="appearance",
  group="solarize",
  example="solarize=0.2",
  sweeps=(
    Sweep(
      name="solarize",
      values=steps(0.0, 1.0, 11),
      neutral=1.0,
      unit="threshold",
      set=lambda still, value, sizes: Solarize(
        jnp.ones_like(still.applied), jnp.full_like(still.threshold, value)
      ),
      trained=lambda settings: settings.interval if settings.on else None,
    ),
  ),
  common_stream=True,
)
