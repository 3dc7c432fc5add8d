"""The crop box and its resampling, flip and quarter turns.

A picture arrives as a fixed-size canvas `[S, S, 3]` into which all of it was
squashed, with its true (height, width). Boxes are drawn and described in
true pixels, integers, and mapped to the canvas when they are resampled.
"""

import jax
import jax.numpy as jnp
from jax import lax

TRIES = 10


def draw_box(
  key: jax.Array,
  size: jax.Array,
  *,
  scale: tuple[float, float] = (0.2, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
  """Draws the box of a random resized crop by torchvision's rule.

  Ten boxes are drawn at once and the first that fits is taken, which has the
  same distribution as drawing until one fits; if none does, the largest
  central box whose aspect is inside `ratio`.

  Args:
    key: PRNG key.
    size: `[2]` int, true (height, width) of the picture.
    scale: interval of the box's area relative to the picture's, uniform.
    ratio: interval of width / height, log-uniform.

  Returns:
    `[4]` int32: top, left, height, width in true pixels.
  """
  height, width = size[0].astype(jnp.int32), size[1].astype(jnp.int32)
  tall, wide = height.astype(jnp.float32), width.astype(jnp.float32)
  draws = jax.random.uniform(key, (2 * TRIES + 2,))
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
  top = _uniform_integer(draws[-2], height - box_h + 1)
  left = _uniform_integer(draws[-1], width - box_w + 1)
  top = jnp.where(found, top, (height - box_h) // 2)
  left = jnp.where(found, left, (width - box_w) // 2)
  return jnp.stack([top, left, box_h, box_w]).astype(jnp.int32)


def _uniform_integer(draw: jax.Array, count: jax.Array) -> jax.Array:
  """Maps a uniform draw in [0, 1) to {0, ..., count - 1}."""
  value = jnp.floor(draw * count.astype(jnp.float32)).astype(jnp.int32)
  return jnp.minimum(value, count - 1)


def whole_box(size: jax.Array) -> jax.Array:
  """Returns the box that covers a picture of `size` [2]: `[4]` int32."""
  zero = jnp.zeros((), jnp.int32)
  return jnp.stack([zero, zero, size[0], size[1]]).astype(jnp.int32)


def interpolation_matrix(
  start: jax.Array,
  length: jax.Array,
  *,
  source: int,
  out: int,
  flip: jax.Array | bool = False,
) -> jax.Array:
  """Returns the weights that resample one axis of a crop.

  A triangle filter of half-width max(length / out, 1), cut off at the edges of
  the box and normalised: bilinear with antialiasing as PIL resizes the crop.

  Args:
    start: first edge of the box in source pixels, may be fractional.
    length: extent of the box in source pixels.
    source: number of source pixels.
    out: number of output pixels.
    flip: reverses the output.

  Returns:
    `[out, source]` float32 whose rows sum to 1.
  """
  position = jnp.arange(out, dtype=jnp.float32)
  position = jnp.where(flip, out - 1.0 - position, position)
  step = length / out
  center = (start + (position + 0.5) * step)[:, None]
  pixel = jnp.arange(source, dtype=jnp.float32)[None, :]
  inside = (pixel >= jnp.floor(start)) & (pixel < jnp.ceil(start + length))
  reach = jnp.maximum(step, 1.0)
  weight = jnp.maximum(1.0 - jnp.abs(pixel + 0.5 - center) / reach, 0.0)
  weight = jnp.where(inside, weight, 0.0)
  return weight / jnp.sum(weight, axis=1, keepdims=True)


def to_canvas(
  box: jax.Array, size: jax.Array, canvas: tuple[int, int]
) -> jax.Array:
  """Maps a box in true pixels onto the canvas.

  Args:
    box: `[4]` int32, top, left, height, width.
    size: `[2]` int, true (height, width).
    canvas: (height, width) of the canvas.

  Returns:
    `[4]` float32: the same box in canvas pixels, exact where the canvas has
    the true size.
  """
  canvas = jnp.asarray(canvas * 2, jnp.float32)
  true = jnp.concatenate([size, size]).astype(jnp.float32)
  return box.astype(jnp.float32) * canvas / true


def crop_dense(
  image: jax.Array,
  box: jax.Array,
  flip: jax.Array,
  size: tuple[int, int],
  precision: lax.Precision,
) -> jax.Array:
  """Crops, resizes and flips by two dense products.

  Args:
    image: `[S, T, 3]` float32.
    box: `[4]` float32 in pixels of `image`.
    flip: whether to mirror, bool.
    size: (height, width) of the result.
    precision: of the products.

  Returns:
    `[3, height, width]` float32.
  """
  source_h, source_w, _ = image.shape
  rows = interpolation_matrix(box[0], box[2], source=source_h, out=size[0])
  columns = interpolation_matrix(
    box[1], box[3], source=source_w, out=size[1], flip=flip
  )
  image = jnp.einsum("hs,stc->cht", rows, image, precision=precision)
  return jnp.einsum("wt,cht->chw", columns, image, precision=precision)


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


def crop(
  image: jax.Array,
  box: jax.Array,
  *,
  size: tuple[int, int],
  flip: jax.Array | bool = False,
) -> jax.Array:
  """Crops a box, resizes it to `size` and mirrors it if asked to.

  Bilinear with antialiasing, within 1/255 of PIL on the cropped image.

  Args:
    image: `[S, T, 3]` floating point in [0, 1].
    box: `[4]` top, left, height, width in pixels of `image`, may be fractional.
    size: (height, width) of the result.
    flip: mirrors the result, may be traced.

  Returns:
    `[height, width, 3]` float32 in [0, 1].
  """
  box = box.astype(jnp.float32)
  image = image.astype(jnp.float32)
  image = crop_dense(image, box, flip, size, lax.Precision.HIGHEST)
  return jnp.moveaxis(jnp.clip(image, 0.0, 1.0), 0, -1)
