"""Separable Gaussian blur with reflect padding."""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cassle_jax import errors
from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment import forms
from cassle_jax.augment.operation import (
  Field,
  Operation,
  Settings,
  Sweep,
  steps,
)

# Below this every off-centre weight underflows to 0: the blur is the identity.
_SMALLEST_SIGMA = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlurSettings(Settings):
  """How views are blurred.

  Attributes:
    probability: of the blur (key `blur`).
    sigma: interval of sigma, in pixels of the view, uniform.
    kernel: taps per axis, odd; 0 stands for about a tenth of the view.
  """

  operation: ClassVar[str] = "blur"

  probability: float = 0.5
  sigma: tuple[float, float] = (0.1, 2.0)
  kernel: int = 0

  def check(self):
    self.require_rising("sigma", 1e-6, 1e6, "two rising positive numbers")
    self.require(
      isinstance(self.kernel, int) and self.kernel >= 0,
      "kernel",
      "an odd integer, or 0 for about a tenth of the image",
    )

  def fitted(self, image_size):
    kernel = self.kernel or default_kernel(image_size)
    if self.on:
      check_kernel(kernel, image_size)
    return dataclasses.replace(self, kernel=kernel)


class Blur(NamedTuple):
  """applied `[B]` bool, sigma `[B]` float32 in pixels of the view."""

  applied: jax.Array
  sigma: jax.Array


def draw(draws, settings, size, batch_draw) -> Blur:
  """Draws for one image; see `Operation.draw`."""
  return Blur(
    draws_lib.happens(draws[0], settings.probability),
    draws_lib.between(draws[1], *settings.sigma),
  )


def default_kernel(size: tuple[int, int]) -> int:
  """Returns the odd kernel near a tenth of the image: 23, 9, 3 at 224, 96, 32.

  Args:
    size: (height, width) of the image; the smaller one counts.
  """
  kernel = int(min(size) / 10)
  return max(kernel + 1 - kernel % 2, 3)


def check_kernel(kernel: int, size: tuple[int, int]) -> None:
  """Refuses a kernel that is even or whose reflect padding does not fit.

  Raises:
    UserError: says which sizes work.
  """
  if kernel < 1 or kernel % 2 == 0:
    raise errors.UserError(
      f"blur_kernel must be odd and positive, got {kernel}; use {kernel + 1}."
    )
  if kernel // 2 >= min(size):
    raise errors.UserError(
      f"an image of {size[0]}x{size[1]} is too small for blur_kernel {kernel}:"
      f" reflect padding needs at least {kernel // 2 + 1} pixels; enlarge"
      f" image_size, set blur_kernel to at most {2 * min(size) - 1} or turn"
      " the blur off with blur=0.0."
    )


def gaussian_weights(sigma: jax.Array, kernel: int) -> jax.Array:
  """Returns the normalised weights `[kernel]` float32 of a sampled Gaussian."""
  offset = jnp.arange(kernel, dtype=jnp.float32) - kernel // 2
  sigma = jnp.maximum(sigma, _SMALLEST_SIGMA).astype(jnp.float32)
  weight = jnp.exp(-0.5 * jnp.square(offset / sigma))
  return weight / jnp.sum(weight)


def band_matrix(sigma: jax.Array, *, kernel: int, size: int) -> jax.Array:
  """Returns the blur of one axis, reflection included, as `[size, size]`."""
  weights = gaussian_weights(sigma, kernel)
  radius = kernel // 2
  target = jnp.arange(size)[:, None]
  source = jnp.arange(size)[None, :]

  def weight_at(offset, valid):
    near = valid & (jnp.abs(offset) <= radius)
    return jnp.where(near, weights[jnp.clip(offset + radius, 0, 2 * radius)], 0)

  direct = weight_at(source - target, jnp.ones((1, size), bool))
  before = weight_at(-source - target, source >= 1)
  after = weight_at(2 * (size - 1) - source - target, source <= size - 2)
  return direct + before + after


def blur_planes(
  image: jax.Array,
  sigma: jax.Array,
  kernel: int,
  *,
  form: str,
  precision: lax.Precision = lax.Precision.HIGHEST,
) -> jax.Array:
  """Blurs `[3, H, W]`.

  Args:
    image: `[3, H, W]` float32.
    sigma: in pixels.
    kernel: taps per axis, odd.
    form: "dense" or "banded", see `forms`.
    precision: of the matrix products.
  """
  if form == "dense":
    rows = band_matrix(sigma, kernel=kernel, size=image.shape[1])
    columns = band_matrix(sigma, kernel=kernel, size=image.shape[2])
    image = jnp.einsum("hs,csw->chw", rows, image, precision=precision)
    return jnp.einsum("cht,wt->chw", image, columns, precision=precision)
  weights = gaussian_weights(sigma, kernel)
  return _add_shifted(_add_shifted(image, weights, 1), weights, 2)


def _add_shifted(image, weights, axis):
  """Convolves one axis by adding up shifted copies, pairwise by symmetry."""
  radius, size = weights.shape[0] // 2, image.shape[axis]
  padding = [(0, 0)] * image.ndim
  padding[axis] = (radius, radius)
  padded = jnp.pad(image, padding, mode="reflect")

  def shifted(offset):
    first = radius + offset
    return lax.slice_in_dim(padded, first, first + size, axis=axis)

  total = weights[radius] * shifted(0)
  for offset in range(1, radius + 1):
    pair = shifted(offset) + shifted(-offset)
    total += weights[radius + offset] * pair
  return total


def blur(
  image: jax.Array, sigma: jax.Array, *, kernel: int, form: str = "auto"
) -> jax.Array:
  """Blurs an image by a sampled Gaussian, with reflect padding.

  Args:
    image: `[H, W, 3]` floating point, any range.
    sigma: in pixels; 0 returns the image unchanged.
    kernel: taps per axis, odd.
    form: "dense", "banded" or "auto", see `forms`.

  Returns:
    `[H, W, 3]` float32.

  Raises:
    UserError: the kernel is even, or the image too small for it.
  """
  check_kernel(kernel, image.shape[:2])
  planes = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
  planes = blur_planes(planes, sigma, kernel, form=forms.resolve(form))
  return jnp.moveaxis(planes, 0, -1)


def apply(images, parameters, settings, how) -> jax.Array:
  """See `Operation.apply`."""
  one = functools.partial(
    blur_planes,
    kernel=settings.kernel,
    form=how.form,
    precision=how.precision,
  )
  return forms.where_applied(
    how.form,
    parameters.applied,
    lambda images: jax.vmap(one)(images, parameters.sigma),
    images,
  )


def describe(
  parameters, settings, sizes, measured, others
) -> dict[str, jax.Array]:
  """See `Operation.describe`."""
  applied, sigma = parameters
  return {"blur": jnp.where(applied, sigma, 0.0)[:, None]}


BLUR = Operation(
  title="Gaussian blur",
  settings=BlurSettings,
  draws=2,
  draw=draw,
  apply=apply,
  fields=(
    Field(
      name="blur",
      neutral=(0.0,),
      meaning="sigma in pixels",
      range=lambda settings: (0.0, settings.sigma[1]),
    ),
  ),
  describe=describe,
  changes="appearance",
  group="blur",
  example="blur=0.5",
  amortised="always",
  sweeps=(
    Sweep(
      name="blur",
      values=(0.0, *steps(0.25, 3.0, 12)),
      neutral=0.0,
      unit="sigma in pixels",
      set=lambda still, value, sizes: Blur(
        jnp.ones_like(still.applied), jnp.full_like(still.sigma, value)
      ),
      trained=lambda settings: settings.sigma if settings.on else None,
    ),
  ),
  common_stream=True,
)
