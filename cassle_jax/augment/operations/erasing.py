"""Random erasing: a box of the view becomes one colour (arXiv 1708.04896).

The colour is the one that normalisation maps to 0. Deviation: a side that would
be longer than the view's is cut to it, where the published code draws again.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment import planes
from cassle_jax.augment.operation import (
  Field,
  Operation,
  Settings,
  Sweep,
  steps,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErasingSettings(Settings):
  """How boxes are erased.

  Attributes:
    probability: of erasing a box (key `erasing`).
    scale: area of the box relative to the view, uniform.
    ratio: width / height of the box relative to the view's, log-uniform.
  """

  operation: ClassVar[str] = "erasing"

  probability: float = 0.0
  scale: tuple[float, float] = (0.02, 0.33)
  ratio: tuple[float, float] = (0.3, 3.3)

  def check(self):
    self.require_rising("scale", 1e-6, 1, "two rising numbers in (0, 1]")
    self.require_rising("ratio", 1e-6, 1e6, "two rising positive numbers")


class Erasing(NamedTuple):
  """applied `[B]` bool; box `[B, 4]` float32: y centre, x centre, height and
  width relative to the view.
  """

  applied: jax.Array
  box: jax.Array


def draw(draws, settings, size, batch_draw) -> Erasing:
  """Draws for one image; see `Operation.draw`."""
  area = draws_lib.between(draws[1], *settings.scale)
  ratio = jnp.exp(draws_lib.between(draws[2], *map(math.log, settings.ratio)))
  sides = jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)])
  sides = jnp.minimum(sides, 1.0)
  corner = draws[3:5] * (1.0 - sides)
  return Erasing(
    draws_lib.happens(draws[0], settings.probability),
    jnp.concatenate([corner + 0.5 * sides, sides]),
  )


def erase(image: jax.Array, box: jax.Array, color) -> jax.Array:
  """Paints the pixels whose centres lie in a box.

  Args:
    image: `[3, H, W]`.
    box: `[4]` y centre, x centre, height and width relative to the image.
    color: three numbers.
  """
  height, width = image.shape[1:]
  y = (jnp.arange(height) + 0.5) / height
  x = (jnp.arange(width) + 0.5) / width
  rows = jnp.abs(y - box[0]) < 0.5 * box[2]
  columns = jnp.abs(x - box[1]) < 0.5 * box[3]
  inside = (rows[:, None] & columns[None, :])[None]
  return jnp.where(inside, planes.per_channel(color, image, -3), image)


def apply(images, parameters, settings, how) -> jax.Array:
  """See `Operation.apply`."""
  # A box without extent paints nothing.
  box = jnp.where(parameters.applied[:, None], parameters.box, 0.0)
  return jax.vmap(lambda image, box: erase(image, box, how.mean))(images, box)


def describe(
  parameters, settings, sizes, measured, others
) -> dict[str, jax.Array]:
  """See `Operation.describe`."""
  applied, box = parameters
  neutral = jnp.asarray([[0.5, 0.5, 0.0, 0.0]])
  return {"erasing": jnp.where(applied[:, None], box, neutral)}


def _central(still: Erasing, value: float, sizes) -> Erasing:
  """The middle of every view, a share of its area."""
  side = math.sqrt(value)
  box = jnp.broadcast_to(jnp.asarray([[0.5, 0.5, side, side]]), still.box.shape)
  return Erasing(jnp.ones_like(still.applied), box)


ERASING = Operation(
  title="random erasing",
  settings=ErasingSettings,
  draws=5,
  draw=draw,
  apply=apply,
  fields=(
    Field(
      name="erasing",
      neutral=(0.5, 0.5, 0.0, 0.0),
      meaning="y, x of the centre, height x width of the box, of the view"
      " before quarter turns",
      text=lambda v: f"{v[0]:.2f}, {v[1]:.2f}   {v[2]:.2f} x {v[3]:.2f}",
    ),
  ),
  describe=describe,
  changes="appearance",
  group="erasing",
  example="erasing=0.5",
  sweeps=(
    Sweep(
      name="erasing",
      values=steps(0.0, 0.6, 13),
      neutral=0.0,
      unit="share of the area",
      set=_central,
      trained=lambda settings: settings.scale if settings.on else None,
    ),
  ),
)
