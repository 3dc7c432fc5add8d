"""Two ways to compute the same views, and how a CPU walks through a batch.

"dense" is whole-batch matrix products without branches, for accelerators.
"banded" touches only the pixels under each filter and leaves out operations
that no image needs; it takes a few images at a time, so that everything
between the canvas and the view stays in cache. It is for CPUs. Both give the
same views within rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cassle_jax import errors

# Pixels handled together: one image of 224 px, 49 of 32 px.
_CHUNK_PIXELS = 224 * 224


def resolve(form: str, platform: str | None = None) -> str:
  """Returns "dense" or "banded"; "auto" is "banded" for CPUs alone.

  Args:
    form: "dense", "banded" or "auto".
    platform: "cpu", "gpu" or "tpu", of the devices that are to compute it; None
      means JAX's default, which a function that is called without a mesh is
      compiled for.

  Raises:
    UserError: `form` is none of the three.
  """
  if form == "auto":
    platform = platform or jax.default_backend()
    return "banded" if platform == "cpu" else "dense"
  if form not in ("dense", "banded"):
    raise errors.unknown("form", form, ("auto", "dense", "banded"))
  return form


def in_chunks(function: Callable, arrays: Any, pixels: int) -> Any:
  """Applies a batch function to a few images at a time.

  Args:
    function: takes and returns trees of arrays with a leading batch axis and
      treats every image on its own.
    arrays: tree of arrays `[B, ...]`.
    pixels: pixels of one image.

  Returns:
    What `function(arrays)` would return.
  """
  batch = jax.tree.leaves(arrays)[0].shape[0]
  # Each chunk takes its images from every device's share of the batch, so
  # that a sharded batch is walked through without moving images.
  devices = jax.device_count()
  devices = devices if batch % devices == 0 else 1
  share = batch // devices
  count = -(-share // max(_CHUNK_PIXELS // pixels, 1))
  if count == 1:
    return function(arrays)
  chunk = -(-share // count)

  def split(x):
    x = x.reshape(devices, share, *x.shape[1:])
    padding = [(0, 0)] * x.ndim
    padding[1] = (0, count * chunk - share)
    x = jnp.pad(x, padding, mode="edge") if padding[1][1] else x
    x = jnp.moveaxis(x.reshape(devices, count, chunk, *x.shape[2:]), 1, 0)
    return x.reshape(count, devices * chunk, *x.shape[3:])

  def join(x):
    x = x.reshape(count, devices, chunk, *x.shape[2:])
    x = jnp.moveaxis(x, 0, 1).reshape(devices, count * chunk, *x.shape[3:])
    return x[:, :share].reshape(batch, *x.shape[2:])

  return jax.tree.map(join, lax.map(function, jax.tree.map(split, arrays)))


def where_applied(
  form: str, applied: jax.Array, change: Callable, images: jax.Array
) -> jax.Array:
  """Changes the images of a batch to which an operation applies.

  Args:
    form: "banded" computes nothing if no image is changed.
    applied: `[B]` bool.
    change: batch function, images to images.
    images: `[B, ...]`.
  """

  def changed(images):
    chosen = applied.reshape(-1, *[1] * (images.ndim - 1))
    return jnp.where(chosen, change(images), images)

  if form == "dense":
    return changed(images)
  return lax.cond(jnp.any(applied), changed, lambda same: same, images)
