"""The random resized crop: its box; `augment.resample` does the rest.

A picture arrives in the upper left corner of a fixed-size canvas `[S, S, 3]`,
with its true (height, width) and the size at which it is stored there, which is
the true one unless it had to shrink. Boxes are drawn and described in true
pixels, integers, and mapped to the stored ones when they are resampled; what
lies beside the picture is never read.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment.operation import (
  Field,
  Operation,
  Settings,
  Sweep,
  steps,
)
from cassle_jax.augment.resample import FILTERS

TRIES = 10
# Uniform numbers that one box takes.
BOX_DRAWS = 2 * TRIES + 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropSettings(Settings):
  """How boxes are drawn.

  Attributes:
    drawn: whether a box is drawn (key `crop`); if not, it is the whole picture.
    scale: area of the box relative to the picture, uniform.
    ratio: width / height of the box, log-uniform.
    interpolation: "bilinear" or "bicubic" (key `interpolation`), antialiased.
  """

  operation: ClassVar[str] = "crop"

  drawn: bool = True
  scale: tuple[float, float] = (0.2, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  interpolation: str = dataclasses.field(
    default="bilinear", metadata={"key": "interpolation"}
  )

  def check(self):
    self.require_one_of("interpolation", FILTERS)
    self.require_rising("scale", 1e-6, 1, "two rising numbers in (0, 1]")
    self.require_rising("ratio", 1e-6, 1e6, "two rising positive numbers")


class Crop(NamedTuple):
  """box `[B, 4]` int32: top, left, height, width in true pixels."""

  box: jax.Array


def draw(draws, settings, size, batch_draw) -> Crop:
  """Draws for one image; see `Operation.draw`."""
  if not settings.on:
    return Crop(whole_box(size))
  return Crop(draw_box(draws, size, scale=settings.scale, ratio=settings.ratio))


def draw_box(
  draws: jax.Array,
  size: jax.Array,
  *,
  scale: tuple[float, float] = (0.2, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
  """Makes the box of a random resized crop by torchvision's rule.

  Ten boxes are drawn at once and the first that fits is taken, which has the
  same distribution as drawing until one fits; if none does, the largest
  central box whose aspect is inside `ratio`.

  Args:
    draws: `[BOX_DRAWS]` uniform in [0, 1).
    size: `[2]` int, true (height, width) of the picture.
    scale: interval of the box's area relative to the picture's, uniform.
    ratio: interval of width / height, log-uniform.

  Returns:
    `[4]` int32: top, left, height, width in true pixels.
  """
  height, width = size[0].astype(jnp.int32), size[1].astype(jnp.int32)
  tall, wide = height.astype(jnp.float32), width.astype(jnp.float32)
  area = tall * wide * (scale[0] + (scale[1] - scale[0]) * draws[:TRIES])
  low, high = jnp.log(ratio[0]), jnp.log(ratio[1])
  aspect = jnp.exp(low + (high - low) * draws[TRIES : 2 * TRIES])
  box_w = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
  box_h = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
  fits = (box_w > 0) & (box_w <= width) & (box_h > 0) & (box_h <= height)
  first = jnp.argmax(fits)
  found = fits[first]

  whole = wide / tall
  central_w = jnp.where(
    whole > ratio[1], jnp.round(tall * ratio[1]).astype(jnp.int32), width
  )
  central_h = jnp.where(
    whole < ratio[0], jnp.round(wide / ratio[0]).astype(jnp.int32), height
  )
  box_h = jnp.where(found, box_h[first], central_h)
  box_w = jnp.where(found, box_w[first], central_w)
  top = draws_lib.integer(draws[-2], height - box_h + 1)
  left = draws_lib.integer(draws[-1], width - box_w + 1)
  top = jnp.where(found, top, (height - box_h) // 2)
  left = jnp.where(found, left, (width - box_w) // 2)
  return jnp.stack([top, left, box_h, box_w]).astype(jnp.int32)


def whole_box(size: jax.Array) -> jax.Array:
  """Returns the box that covers a picture of `size` [2]: `[4]` int32."""
  zero = jnp.zeros((), jnp.int32)
  return jnp.stack([zero, zero, size[0], size[1]]).astype(jnp.int32)


def relative(box: jax.Array, sizes: jax.Array) -> jax.Array:
  """Returns y centre, x centre, height and width relative to the picture.

  Args:
    box: `[..., 4]` top, left, height, width in true pixels.
    sizes: `[..., 2]` true (height, width).
  """
  box, size = box.astype(jnp.float32), sizes.astype(jnp.float32)
  center = (box[..., :2] + 0.5 * box[..., 2:]) / size
  return jnp.concatenate([center, box[..., 2:] / size], axis=-1)


def mirrored(crop: jax.Array, flip: jax.Array) -> jax.Array:
  """The field `crop` `[..., 4]` with its x centre mirrored where `flip` is."""
  x_center = jnp.where(flip, 1.0 - crop[..., 1:2], crop[..., 1:2])
  return jnp.concatenate([crop[..., :1], x_center, crop[..., 2:]], axis=-1)


def describe(parameters, settings, sizes, measured, others):
  """See `Operation.describe`; a mirrored view's x centre is mirrored too."""
  flip = others["flip"].applied[:, None]
  return {"crop": mirrored(relative(parameters.box, sizes), flip)}


def _central(still: Crop, value: float, sizes: np.ndarray) -> Crop:
  """The middle of each picture with its own aspect and a share of its area."""
  box = np.maximum(np.round(np.sqrt(value) * sizes), 1).astype(np.int32)
  corner = (sizes - box) // 2
  return Crop(jnp.asarray(np.concatenate([corner, box], axis=1)))


CROP = Operation(
  title="random resized crop",
  settings=CropSettings,
  draws=BOX_DRAWS,
  draw=draw,
  apply=None,
  fields=(
    Field(
      name="crop",
      neutral=(0.5, 0.5, 1.0, 1.0),
      meaning="y, x of the centre, height x width, of the picture",
      text=lambda v: f"{v[0]:.2f}, {v[1]:.2f}   {v[2]:.2f} x {v[3]:.2f}",
      neutral_text="0.50, 0.50   1.00 x 1.00",
    ),
  ),
  describe=describe,
  changes="position",
  group="crop",
  example="crop=True",
  sweeps=(
    Sweep(
      name="crop",
      values=(0.05, 0.08, *steps(0.1, 1.0, 10)),
      neutral=1.0,
      unit="share of the area",
      set=_central,
      trained=lambda settings: settings.scale if settings.on else None,
    ),
  ),
  common_stream=True,
)
