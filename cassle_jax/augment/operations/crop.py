"""The random resized crop: its box and the resampling, which also mirrors.

A picture arrives in the upper left corner of a fixed-size canvas `[S, S, 3]`,
with its true (height, width) and the size at which it is stored there, which is
the true one unless it had to shrink. Boxes are drawn and described in true
pixels, integers, and mapped to the stored ones when they are resampled; what
lies beside the picture is never read.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment import forms
from cassle_jax.augment.operation import (
  Field,
  Operation,
  Settings,
  Sweep,
  steps,
)

TRIES = 10
# Output pixels resampled by one product.
_BLOCK = 32
# Uniform numbers that one box takes.
BOX_DRAWS = 2 * TRIES + 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropSettings(Settings):
  """How boxes are drawn.

  Attributes:
    drawn: whether a box is drawn (key `crop`); if not, it is the whole picture.
    scale: area of the box relative to the picture, uniform.
    ratio: width / height of the box, log-uniform.
  """

  operation: ClassVar[str] = "crop"

  drawn: bool = True
  scale: tuple[float, float] = (0.2, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)

  def check(self):
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


def _triangle(
  position: jax.Array,
  pixel: jax.Array,
  start: jax.Array,
  length: jax.Array,
  out: int,
  limit: jax.Array | int,
) -> jax.Array:
  """Returns the weights of source pixels in output pixels, along one axis.

  A triangle of half-width max(length / out, 1), cut off at the edges of the
  box and normalised: bilinear with antialiasing, as PIL resizes a crop.

  Args:
    position: `[n, 1]` output pixels.
    pixel: `[n or 1, m]` source pixels, all that matter for each position.
    start: first edge of the box in source pixels, may be fractional.
    length: extent of the box in source pixels.
    out: number of output pixels that the box is resized to.
    limit: source pixels that are the picture's.

  Returns:
    `[n, m]` float32 whose rows sum to 1.
  """
  center = _centers(position, start, length, out)
  # The limit counts: in stored pixels a box's end is rounded, and one at the
  # picture's edge could reach beyond it.
  end = jnp.minimum(jnp.ceil(start + length), limit)
  inside = (pixel >= jnp.floor(start)) & (pixel < end)
  reach = jnp.maximum(length / out, 1.0)
  weight = jnp.maximum(1.0 - jnp.abs(pixel + 0.5 - center) / reach, 0.0)
  weight = jnp.where(inside, weight, 0.0)
  return weight / jnp.sum(weight, axis=1, keepdims=True)


def _centers(position, start, length, out):
  return start + (position + 0.5) * (length / out)


def _positions(first: int, last: int, out: int, flip) -> jax.Array:
  """Returns the output pixels first..last-1, or their mirror images."""
  position = jnp.arange(first, last, dtype=jnp.float32)
  return jnp.where(flip, out - 1.0 - position, position)


def interpolation_matrix(
  start: jax.Array,
  length: jax.Array,
  *,
  source: int,
  out: int,
  flip: jax.Array | bool = False,
  limit: jax.Array | int | None = None,
) -> jax.Array:
  """Returns the matrix `[out, source]` float32 that resamples one axis.

  Args:
    start: first edge of the box in source pixels, may be fractional.
    length: extent of the box in source pixels.
    source: number of source pixels.
    out: number of output pixels.
    flip: reverses the output.
    limit: source pixels that are the picture's, the first; None: all.
  """
  position = _positions(0, out, out, flip)[:, None]
  pixel = jnp.arange(source, dtype=jnp.float32)[None, :]
  limit = source if limit is None else limit
  return _triangle(position, pixel, start, length, out, limit)


def to_canvas(
  box: jax.Array, size: jax.Array, stored: jax.Array | tuple[int, int]
) -> jax.Array:
  """Maps a box in true pixels onto the canvas.

  Args:
    box: `[4]` int32, top, left, height, width.
    size: `[2]` int, true (height, width).
    stored: (height, width) of the picture on the canvas.

  Returns:
    `[4]` float32: the same box in canvas pixels, exact where the picture is
    stored at its true size.
  """
  scale = jnp.tile(jnp.asarray(stored, jnp.float32), 2)
  true = jnp.tile(size, 2).astype(jnp.float32)
  box = box.astype(jnp.float32)
  # Accelerators divide within an ulp or two; a box that ends a hair further
  # would take in the next pixel.
  return jnp.where(scale == true, box, box * scale / true)


def crop_planes(
  image: jax.Array,
  box: jax.Array,
  flip: jax.Array | bool,
  size: tuple[int, int],
  *,
  form: str,
  precision: lax.Precision = lax.Precision.HIGHEST,
  stored: jax.Array | None = None,
) -> jax.Array:
  """Crops, resizes and flips one image and puts its channels first.

  Args:
    image: `[S, T, 3]`, uint8 or floating point in [0, 1].
    box: `[4]` float32 in pixels of `image`.
    flip: whether to mirror.
    size: (height, width) of the result.
    form: "dense" or "banded", see `forms`.
    precision: of the matrix products.
    stored: `[2]` int, (height, width) of the picture in the upper left corner
      of `image`, beside which nothing is read; None: it fills `image`.

  Returns:
    `[3, height, width]` float32 in [0, 1].
  """
  top, left, tall, wide = box
  end_h, end_w = image.shape[:2] if stored is None else stored
  unit = 1.0 / 255.0 if image.dtype == jnp.uint8 else 1.0
  if form == "dense":
    source_h, source_w, _ = image.shape
    rows = interpolation_matrix(
      top, tall, source=source_h, out=size[0], limit=end_h
    )
    columns = interpolation_matrix(
      left, wide, source=source_w, out=size[1], flip=flip, limit=end_w
    )
    image = image.astype(jnp.float32)
    image = jnp.einsum("hs,stc->cht", rows, image, precision=precision)
    image = jnp.einsum("cht,wt->chw", image, columns, precision=precision)
  else:
    image = _resample_rows(image, top, tall, size[0], end_h)
    image = jnp.moveaxis(image, -1, 0)
    image = _resample_columns(
      image, left, wide, size[1], flip, precision, end_w
    )
  return jnp.clip(image * unit, 0.0, 1.0)


def _resample_rows(image, start, length, out, limit):
  """Resamples the first axis by adding up the few rows under the filter."""
  source = image.shape[0]
  taps = math.ceil(2.0 * max(source / out, 1.0))
  position = _positions(0, out, out, False)[:, None]
  reach = jnp.maximum(length / out, 1.0)
  first = jnp.floor(_centers(position, start, length, out) - reach + 0.5)
  pixel = first + jnp.arange(taps, dtype=jnp.float32)[None, :]
  weight = _triangle(position, pixel, start, length, out, limit)
  row = jnp.clip(pixel, 0, source - 1).astype(jnp.int32)
  total = 0.0
  for tap in range(taps):
    rows = image.at[row[:, tap]].get(mode="promise_in_bounds")
    total += weight[:, tap, None, None] * rows.astype(jnp.float32)
  return total


def _resample_columns(image, start, length, out, flip, precision, limit):
  """Resamples the last axis of `[3, H, T]` by one small product a block.

  Neighbours read neighbours: a block of outputs needs few source pixels.
  """
  planes, height, source = image.shape
  image = image.reshape(planes * height, source)
  reach = jnp.maximum(length / out, 1.0)
  blocks = []
  for begin in range(0, out, _BLOCK):
    end = min(begin + _BLOCK, out)
    step = source / out
    width = math.ceil((end - begin - 1) * step + 2.0 * max(step, 1.0)) + 1
    width = min(width, source)
    position = _positions(begin, end, out, flip)
    center = _centers(jnp.min(position), start, length, out)
    first = jnp.floor(center - reach + 0.5).astype(jnp.int32)
    first = jnp.clip(first, 0, source - width)
    pixel = (first + jnp.arange(width)).astype(jnp.float32)[None, :]
    weight = _triangle(position[:, None], pixel, start, length, out, limit)
    part = lax.dynamic_slice_in_dim(image, first, width, axis=1)
    blocks.append(jnp.einsum("rt,wt->rw", part, weight, precision=precision))
  return jnp.concatenate(blocks, axis=1).reshape(planes, height, out)


def crop(
  image: jax.Array,
  box: jax.Array,
  *,
  size: tuple[int, int],
  flip: jax.Array | bool = False,
  form: str = "auto",
) -> jax.Array:
  """Crops a box, resizes it to `size` and mirrors it if asked to.

  Bilinear with antialiasing, within 1/255 of PIL on the cropped image.

  Args:
    image: `[S, T, 3]`, uint8 or floating point in [0, 1].
    box: `[4]` top, left, height, width in pixels of `image`, may be fractional.
    size: (height, width) of the result.
    flip: mirrors the result, may be traced.
    form: "dense", "banded" or "auto", see `forms`.

  Returns:
    `[height, width, 3]` float32 in [0, 1].
  """
  box = box.astype(jnp.float32)
  image = crop_planes(image, box, flip, size, form=forms.resolve(form))
  return jnp.moveaxis(image, 0, -1)


def relative(box: jax.Array, sizes: jax.Array) -> jax.Array:
  """Returns y centre, x centre, height and width relative to the picture.

  Args:
    box: `[..., 4]` top, left, height, width in true pixels.
    sizes: `[..., 2]` true (height, width).
  """
  box, size = box.astype(jnp.float32), sizes.astype(jnp.float32)
  center = (box[..., :2] + 0.5 * box[..., 2:]) / size
  return jnp.concatenate([center, box[..., 2:] / size], axis=-1)


def describe(parameters, settings, sizes, measured) -> dict[str, jax.Array]:
  """See `Operation.describe`; a mirrored view's x centre is mirrored too."""
  crop = relative(parameters["crop"].box, sizes)
  flip = parameters["flip"].applied[:, None]
  x_center = jnp.where(flip, 1.0 - crop[:, 1:2], crop[:, 1:2])
  return {"crop": jnp.concatenate([crop[:, :1], x_center, crop[:, 2:]], axis=1)}


def _central(still: Crop, value: float, sizes: np.ndarray) -> Crop:
  """The middle of each picture with its own aspect and a share of its area."""
  box = np.maximum(np.round(np.sqrt(value) * sizes), 1).astype(np.int32)
  corner = (sizes - box) // 2
  return Crop(jnp.asarray(np.concatenate([corner, box], axis=1)))


CROP = Operation(
  name="crop",
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
      range=(0.0, 1.0),
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
