"""Resampling of a box of a picture, which also mirrors, in two forms."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cassle_jax.augment import forms

# Output pixels resampled by one product.
_BLOCK = 32


def _triangle(x: jax.Array) -> jax.Array:
  """The filter of bilinear interpolation, 0 beyond 1."""
  return jnp.maximum(1.0 - jnp.abs(x), 0.0)


def _cubic(x: jax.Array) -> jax.Array:
  """Keys' cubic filter with a = -1/2, as PIL has it; 0 beyond 2."""
  x = jnp.abs(x)
  near = (1.5 * x - 2.5) * x * x + 1.0
  far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
  return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


# interpolation: (filter, how far it reaches in pixels of the coarser grid).
FILTERS = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}


def _weights(
  position: jax.Array,
  pixel: jax.Array,
  start: jax.Array,
  length: jax.Array,
  out: int,
  limit: jax.Array | int,
  interpolation: str,
) -> jax.Array:
  """Returns the weights of source pixels in output pixels, along one axis.

  A filter stretched by max(length / out, 1), cut off at the edges of the box
  and normalised: interpolation with antialiasing, as PIL resizes a crop.

  Args:
    position: `[n, 1]` output pixels.
    pixel: `[n or 1, m]` source pixels, all that matter for each position.
    start: first edge of the box in source pixels, may be fractional.
    length: extent of the box in source pixels.
    out: number of output pixels that the box is resized to.
    limit: source pixels that are the picture's.
    interpolation: a name in `FILTERS`.

  Returns:
    `[n, m]` float32 whose rows sum to 1.
  """
  center = _centers(position, start, length, out)
  # The limit counts: in stored pixels a box's end is rounded, and one at the
  # picture's edge could reach beyond it.
  end = jnp.minimum(jnp.ceil(start + length), limit)
  inside = (pixel >= jnp.floor(start)) & (pixel < end)
  stretch = jnp.maximum(length / out, 1.0)
  weight = FILTERS[interpolation][0]((pixel + 0.5 - center) / stretch)
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
  interpolation: str = "bilinear",
) -> jax.Array:
  """Returns the matrix `[out, source]` float32 that resamples one axis.

  Args:
    start: first edge of the box in source pixels, may be fractional.
    length: extent of the box in source pixels.
    source: number of source pixels.
    out: number of output pixels.
    flip: reverses the output.
    limit: source pixels that are the picture's, the first; None: all.
    interpolation: "bilinear" or "bicubic".
  """
  position = _positions(0, out, out, flip)[:, None]
  pixel = jnp.arange(source, dtype=jnp.float32)[None, :]
  limit = source if limit is None else limit
  return _weights(position, pixel, start, length, out, limit, interpolation)


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
  interpolation: str = "bilinear",
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
    interpolation: "bilinear" or "bicubic".

  Returns:
    `[3, height, width]` float32 in [0, 1].
  """
  top, left, tall, wide = box
  end_h, end_w = image.shape[:2] if stored is None else stored
  unit = 1.0 / 255.0 if image.dtype == jnp.uint8 else 1.0
  if form == "dense":
    source_h, source_w, _ = image.shape
    matrix = functools.partial(
      interpolation_matrix, interpolation=interpolation
    )
    rows = matrix(top, tall, source=source_h, out=size[0], limit=end_h)
    columns = matrix(
      left, wide, source=source_w, out=size[1], flip=flip, limit=end_w
    )
    image = image.astype(jnp.float32)
    image = jnp.einsum("hs,stc->cht", rows, image, precision=precision)
    image = jnp.einsum("cht,wt->chw", image, columns, precision=precision)
  else:
    image = _resample_rows(image, top, tall, size[0], end_h, interpolation)
    image = jnp.moveaxis(image, -1, 0)
    image = _resample_columns(
      image, left, wide, size[1], flip, precision, end_w, interpolation
    )
  return jnp.clip(image * unit, 0.0, 1.0)


def _resample_rows(image, start, length, out, limit, interpolation):
  """Resamples the first axis by adding up the few rows under the filter."""
  source, support = image.shape[0], FILTERS[interpolation][1]
  taps = math.ceil(2.0 * support * max(source / out, 1.0))
  position = _positions(0, out, out, False)[:, None]
  reach = support * jnp.maximum(length / out, 1.0)
  first = jnp.floor(_centers(position, start, length, out) - reach + 0.5)
  pixel = first + jnp.arange(taps, dtype=jnp.float32)[None, :]
  weight = _weights(position, pixel, start, length, out, limit, interpolation)
  row = jnp.clip(pixel, 0, source - 1).astype(jnp.int32)
  total = 0.0
  for tap in range(taps):
    rows = image.at[row[:, tap]].get(mode="promise_in_bounds")
    total += weight[:, tap, None, None] * rows.astype(jnp.float32)
  return total


def _resample_columns(
  image, start, length, out, flip, precision, limit, interpolation
):
  """Resamples the last axis of `[3, H, T]` by one small product a block.

  Neighbours read neighbours: a block of outputs needs few source pixels.
  """
  planes, height, source = image.shape
  image = image.reshape(planes * height, source)
  support = FILTERS[interpolation][1]
  reach = support * jnp.maximum(length / out, 1.0)
  blocks = []
  for begin in range(0, out, _BLOCK):
    end = min(begin + _BLOCK, out)
    step = source / out
    width = (end - begin - 1) * step + 2.0 * support * max(step, 1.0)
    width = min(math.ceil(width) + 1, source)
    position = _positions(begin, end, out, flip)
    center = _centers(jnp.min(position), start, length, out)
    first = jnp.floor(center - reach + 0.5).astype(jnp.int32)
    first = jnp.clip(first, 0, source - width)
    pixel = (first + jnp.arange(width)).astype(jnp.float32)[None, :]
    weight = _weights(
      position[:, None], pixel, start, length, out, limit, interpolation
    )
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
  interpolation: str = "bilinear",
) -> jax.Array:
  """Crops a box, resizes it to `size` and mirrors it if asked to.

  With antialiasing, within 1/255 of PIL on the cropped image.

  Args:
    image: `[S, T, 3]`, uint8 or floating point in [0, 1].
    box: `[4]` top, left, height, width in pixels of `image`, may be fractional.
    size: (height, width) of the result.
    flip: mirrors the result, may be traced.
    form: "dense", "banded" or "auto", see `forms`.
    interpolation: "bilinear" or "bicubic".

  Returns:
    `[height, width, 3]` float32 in [0, 1].
  """
  box = box.astype(jnp.float32)
  image = crop_planes(
    image,
    box,
    flip,
    size,
    form=forms.resolve(form),
    interpolation=interpolation,
  )
  return jnp.moveaxis(image, 0, -1)
