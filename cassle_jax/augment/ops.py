"""Single operations on one image: `(key, image, *, ...) -> (image, part)`.

Contract of every operation:
- `key` is a PRNG key; the same key gives the same result.
- `image` is `[H, W, 3]`, uint8 or floating point in [0, 1]; the result is
  float32 in [0, 1], of the same size unless the operation says otherwise.
- Everything else is keyword-only and static (Python numbers), unless it says
  that it may be traced.
- The second result is the part of omega that the operation decides, as a dict
  `{field: [size] float32}` (see `omega`); parts of several operations combine
  with `|`. Not applied, it is the field's neutral value.
- Pure and jittable; a batch is `jax.vmap(op)(keys, images)`.

Each is a thin draw around a deterministic function: `geometry.crop`,
`color.adjust_*`, `color.jitter`, `color.to_grayscale`, `color.invert_above`,
`blur.blur`, `geometry.quarter_turns`.
"""

import jax
import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.augment import blur as blur_lib
from cassle_jax.augment import color, geometry
from cassle_jax.augment.draws import between, happens, integer, order_of_four
from cassle_jax.augment.omega import Omega

_Result = tuple[jax.Array, Omega]


def _to_float(image: jax.Array) -> jax.Array:
  if image.dtype == jnp.uint8:
    return image.astype(jnp.float32) * (1.0 / 255.0)
  return image.astype(jnp.float32)


def random_resized_crop(
  key: jax.Array,
  image: jax.Array,
  *,
  size: int | tuple[int, int] = 224,
  scale: tuple[float, float] = (0.2, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  true_size: jax.Array | None = None,
) -> _Result:
  """Crops a random box and resizes it, bilinear with antialiasing as PIL.

  Args:
    key: PRNG key.
    image: `[H, W, 3]`.
    size: (height, width) of the result, or one number for both.
    scale: interval of the box's share of the area, in (0, 1].
    ratio: interval of the box's width / height.
    true_size: `[2]` (height, width), may be traced, of the picture that was
      squashed into `image`; default: the size of `image`.

  Returns:
    `[*size, 3]` and `crop` `[4]`: y centre, x centre, height and width of the
    box relative to the picture. If the view is flipped afterwards, the x
    centre is to be mirrored (`describe` does).
  """
  size = (size, size) if isinstance(size, int) else size
  if true_size is None:
    true_size = jnp.asarray(image.shape[:2])
  draws = jax.random.uniform(key, (geometry.BOX_DRAWS,))
  box = geometry.draw_box(draws, true_size, scale=scale, ratio=ratio)
  relative = box / jnp.concatenate([true_size, true_size])
  center = relative[:2] + 0.5 * relative[2:]
  crop = jnp.concatenate([center, relative[2:]]).astype(jnp.float32)
  on_canvas = geometry.to_canvas(box, true_size, image.shape[:2])
  image = geometry.crop(image, on_canvas, size=size)
  return image, {"crop": crop}


def horizontal_flip(
  key: jax.Array, image: jax.Array, *, probability: float = 0.5
) -> _Result:
  """Mirrors left and right.

  Args:
    key: PRNG key.
    image: `[H, W, 3]`.
    probability: in [0, 1].

  Returns:
    The image and `flip` `[1]`, 1 if mirrored.
  """
  applied = happens(jax.random.uniform(key), probability)
  image = _to_float(image)
  image = jnp.where(applied, image[:, ::-1], image)
  return image, {"flip": applied.astype(jnp.float32)[None]}


def color_jitter(
  key: jax.Array,
  image: jax.Array,
  *,
  strength: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
  probability: float = 0.8,
  order: str = "image",
  saturation: str = "hsv",
) -> _Result:
  """Changes brightness, contrast, saturation and hue, in random order.

  Args:
    key: PRNG key.
    image: `[H, W, 3]`.
    strength: of (brightness, contrast, saturation, hue): factors are uniform in
      [max(0, 1 - s), 1 + s], the hue turns by [-s, s] turns, s <= 0.5.
    probability: of all four together, in [0, 1].
    order: "image" draws it, "fixed" is the order above.
    saturation: "hsv", or "blend" as torchvision does it.

  Returns:
    The image, `color` `[4]`, the factors minus neutral over the interval's
    length, and `color_diff` `[3]`, each channel's mean before minus after.

  Raises:
    UserError: `order` or `saturation` is not one of these.
  """
  if order not in ("image", "fixed"):
    raise errors.unknown("order", order, ("image", "fixed"))
  if saturation not in ("hsv", "blend"):
    raise errors.unknown("saturation", saturation, ("hsv", "blend"))
  image = _to_float(image)
  s = jnp.asarray(strength, jnp.float32)
  neutral = jnp.asarray([1.0, 1.0, 1.0, 0.0])
  low = jnp.concatenate([jnp.maximum(1.0 - s[:3], 0.0), -s[3:]])
  high = neutral + s
  draws = jax.random.uniform(key, (6,))
  applied = happens(draws[0], probability)
  factors = jnp.where(applied, between(draws[1:5], low, high), neutral)
  sequence = jnp.arange(4)
  if order == "image":
    sequence = order_of_four(draws[5])
  jittered = color.jitter(image, factors, sequence, saturation=saturation)
  length = jnp.where(high > low, high - low, 1.0)
  return jittered, {
    "color": (factors - neutral) / length,
    "color_diff": jnp.mean(image, (0, 1)) - jnp.mean(jittered, (0, 1)),
  }


def grayscale(
  key: jax.Array, image: jax.Array, *, probability: float = 0.2
) -> _Result:
  """Replaces the channels by 0.299 R + 0.587 G + 0.114 B.

  Args:
    key: PRNG key.
    image: `[H, W, 3]`.
    probability: in [0, 1].

  Returns:
    The image and `grayscale` `[1]`, 1 if converted.
  """
  applied = happens(jax.random.uniform(key), probability)
  image = _to_float(image)
  image = jnp.where(applied, color.to_grayscale(image), image)
  return image, {"grayscale": applied.astype(jnp.float32)[None]}


def gaussian_blur(
  key: jax.Array,
  image: jax.Array,
  *,
  probability: float = 0.5,
  sigma: tuple[float, float] = (0.1, 2.0),
  kernel: int = 0,
) -> _Result:
  """Blurs by a separable Gaussian, with reflect padding.

  Args:
    key: PRNG key.
    image: `[H, W, 3]`.
    probability: in [0, 1].
    sigma: interval in pixels, uniform.
    kernel: taps per axis, odd; 0 for about a tenth of the image.

  Returns:
    The image and `blur` `[1]`, sigma or 0.

  Raises:
    UserError: the kernel is even, or the image too small for it.
  """
  size = image.shape[:2]
  kernel = kernel or blur_lib.default_kernel(size)
  draws = jax.random.uniform(key, (2,))
  applied = happens(draws[0], probability)
  drawn = between(draws[1], *sigma)
  image = _to_float(image)
  blurred = blur_lib.blur(image, drawn, kernel=kernel)
  image = jnp.where(applied, blurred, image)
  return image, {"blur": jnp.where(applied, drawn, 0.0)[None]}


def solarize(
  key: jax.Array,
  image: jax.Array,
  *,
  probability: float = 0.2,
  threshold: float | tuple[float, float] = 0.5,
) -> _Result:
  """Inverts what is at least as bright as a threshold.

  Args:
    key: PRNG key.
    image: `[H, W, 3]`.
    probability: in [0, 1].
    threshold: in [0, 1], or an interval to draw from.

  Returns:
    The image and `solarize` `[1]`, the threshold or 1.
  """
  low, high = (
    threshold if isinstance(threshold, tuple) else (threshold, threshold)
  )
  draws = jax.random.uniform(key, (2,))
  applied = happens(draws[0], probability)
  drawn = between(draws[1], low, high)
  image = _to_float(image)
  image = jnp.where(applied, color.invert_above(image, drawn), image)
  return image, {"solarize": jnp.where(applied, drawn, 1.0)[None]}


def rotate(
  key: jax.Array, image: jax.Array, *, probability: float = 1.0
) -> _Result:
  """Turns a square image by 0 to 3 quarters, counter-clockwise.

  Args:
    key: PRNG key.
    image: `[N, N, 3]`.
    probability: of a draw from the four turns; otherwise none.

  Returns:
    The image and `rotation` `[4]`, the one-hot of the quarter turns.

  Raises:
    UserError: the image is not square.
  """
  if image.shape[0] != image.shape[1]:
    raise errors.UserError(
      f"rotate needs a square image, got {image.shape[0]}x{image.shape[1]}."
    )
  draws = jax.random.uniform(key, (2,))
  turns = jnp.where(happens(draws[0], probability), integer(draws[1], 4), 0)
  image = geometry.quarter_turns(_to_float(image), turns)
  return image, {"rotation": jax.nn.one_hot(turns, 4)}
