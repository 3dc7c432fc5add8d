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

Each is a thin face on its record in `operations`, whose `draw`, `apply` and
`describe` batches of views go through as well.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cassle_jax import errors
from cassle_jax.augment import forms, resample
from cassle_jax.augment.arrays import check_images
from cassle_jax.augment.omega import Omega
from cassle_jax.augment.operation import How
from cassle_jax.augment.operations import OPERATIONS
from cassle_jax.augment.operations import crop as crop_lib

_Result = tuple[jax.Array, Omega]


def _to_float(image: jax.Array) -> jax.Array:
  check_images(image, "HW3")
  if image.dtype == jnp.uint8:
    return image.astype(jnp.float32) * (1.0 / 255.0)
  return image.astype(jnp.float32)


def single(
  key: jax.Array,
  image: jax.Array,
  *,
  operation: str,
  mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
  **settings: Any,
) -> _Result:
  """Draws, applies and describes any operation of `OPERATIONS`.

  Args:
    key: PRNG key.
    image: `[H, W, 3]`.
    operation: its name. The crop and the flip, which a batch of views resamples
      together, have functions of their own.
    mean: the colour that the network will see as 0, which is what `erasing`
      paints: that of the normalisation to come, as a policy's `mean`.
    **settings: attributes of the operation's settings.

  Returns:
    The image, and the fields of omega that the operation decides.

  Raises:
    UserError: an unknown operation, or a value that makes no sense.
  """
  if operation not in OPERATIONS or OPERATIONS[operation].apply is None:
    valid = [n for n, r in OPERATIONS.items() if r.apply is not None]
    raise errors.unknown("operation", operation, valid)
  record = OPERATIONS[operation]
  size = image.shape[:2]
  settings = record.settings(**settings).fitted(size)
  draws = jax.random.uniform(key, (record.draws,))
  true_size = jnp.asarray(size, jnp.int32)
  drawn = record.draw(draws, settings, true_size, draws[-1])
  parameters = jax.tree.map(lambda x: x[None], {operation: drawn})
  planes = jnp.moveaxis(_to_float(image), -1, 0)[None]
  how = How(forms.resolve("auto"), lax.Precision.HIGHEST, mean)
  planes = record.apply(planes, parameters[operation], settings, how)
  measured: Any = None
  if record.measures:
    planes, measured = planes
  omega = record.describe(
    parameters[operation], settings, true_size[None], measured, parameters
  )
  return jnp.moveaxis(planes[0], 0, -1), {n: x[0] for n, x in omega.items()}


def random_resized_crop(
  key: jax.Array,
  image: jax.Array,
  *,
  size: int | tuple[int, int] = 224,
  scale: tuple[float, float] = (0.2, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  true_size: jax.Array | None = None,
  interpolation: str = "bilinear",
) -> _Result:
  """Crops a random box and resizes it with antialiasing, as PIL.

  Args:
    key: PRNG key.
    image: `[H, W, 3]`.
    size: (height, width) of the result, or one number for both.
    scale: interval of the box's share of the area, in (0, 1].
    ratio: interval of the box's width / height.
    true_size: `[2]` (height, width), may be traced, of the picture that was
      squashed into `image`; default: the size of `image`.
    interpolation: "bilinear" or "bicubic".

  Returns:
    `[*size, 3]` and `crop` `[4]`: y centre, x centre, height and width of the
    box relative to the picture. If the view is flipped afterwards, the x
    centre is to be mirrored (`describe` does).
  """
  check_images(image, "HW3")
  size = (size, size) if isinstance(size, int) else size
  settings = crop_lib.CropSettings(
    scale=scale, ratio=ratio, interpolation=interpolation
  )
  if true_size is None:
    true_size = jnp.asarray(image.shape[:2])
  draws = jax.random.uniform(key, (crop_lib.BOX_DRAWS,))
  box = crop_lib.draw(draws, settings, true_size, None).box
  on_canvas = resample.to_canvas(box, true_size, image.shape[:2])
  image = resample.crop(
    image, on_canvas, size=size, interpolation=interpolation
  )
  return image, {"crop": crop_lib.relative(box, true_size)}


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
  # In a batch of views the crop's resampling mirrors.
  settings = OPERATIONS["flip"].settings(probability=probability)
  draws = jax.random.uniform(key, (OPERATIONS["flip"].draws,))
  applied = OPERATIONS["flip"].draw(draws, settings, None, None).applied
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
  return single(
    key,
    image,
    operation="jitter",
    strength=strength,
    probability=probability,
    order=order,
    saturation=saturation,
  )


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
  return single(key, image, operation="grayscale", probability=probability)


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
  return single(
    key,
    image,
    operation="blur",
    probability=probability,
    sigma=sigma,
    kernel=kernel,
  )


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
  return single(
    key,
    image,
    operation="solarize",
    probability=probability,
    threshold=threshold,
  )


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
  return single(key, image, operation="rotation", probability=probability)
