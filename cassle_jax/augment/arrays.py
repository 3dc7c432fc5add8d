"""Checks of the arrays that users hand in, in words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.errors import UserError

# Floats a little outside of [0, 1] come from resampling; 0 to 255 do not.
_LOW, _HIGH = -0.5, 1.5


def check_images(images: Any, axes: str = "BHW3") -> None:
  """Refuses what is no image: its shape, its type and, where known, its values.

  Values are looked at outside of jit alone, where they are there to be seen.

  Args:
    images: arrays as the axes say, uint8 or floats in [0, 1].
    axes: a letter for each, the last is 3.

  Raises:
    UserError: the views of such arrays would be white, black or nan.
  """
  shape, kind = jnp.shape(images), jnp.result_type(images)
  wanted = f"[{', '.join(axes)}]"
  if len(shape) != len(axes) or shape[-1] != 3 or 0 in shape:
    raise UserError(
      f"images are {list(shape)}; they must be {wanted}, none of them 0."
    )
  if kind != jnp.uint8 and not jnp.issubdtype(kind, jnp.floating):
    largest = np.iinfo(kind).max if jnp.issubdtype(kind, np.integer) else 1
    way = (
      f"divide by {largest} as floats" if largest > 255 else ".astype(float)"
    )
    raise UserError(
      f"images are {kind}; they must be uint8, or floats in [0, 1]: use"
      f" .astype(jnp.uint8) if they go from 0 to 255, else {way}."
    )
  if kind == jnp.uint8 or isinstance(images, jax.core.Tracer):
    return
  # By numpy: under jit jax would make tracers of constants, too.
  values = np.asarray(images, np.float32)
  low, high = float(values.min()), float(values.max())
  if not (_LOW <= low and high <= _HIGH):
    way = "divide by 255" if low >= 0 and 1 < high <= 255 else "rescale them"
    raise UserError(
      f"float images must lie in [0, 1], and these go from {low:g} to"
      f" {high:g}: {way}."
    )


def check_sizes(sizes: Any, batch: int) -> None:
  """Refuses true sizes that are not one (height, width) for each image.

  Raises:
    UserError: naming the shape; or a size below 1, outside of jit.
  """
  shape, kind = jnp.shape(sizes), jnp.result_type(sizes)
  if shape != (batch, 2) or not jnp.issubdtype(kind, jnp.integer):
    raise UserError(
      f"sizes are {kind} {list(shape)}; they must be integers [{batch}, 2], the"
      " (height, width) of each image; augment.full_sizes(images) makes them."
    )
  if not isinstance(sizes, jax.core.Tracer) and np.min(sizes, initial=1) < 1:
    raise UserError(
      f"sizes hold {np.min(sizes)}; heights and widths are at least 1."
    )
