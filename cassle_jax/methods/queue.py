"""A ring buffer of unit-length rows: the newest take the oldest ones' places.

It is a method's memory: {"queue": [K, k] float32, "pointer": int32 scalar, the
row that is written next}. A method that keeps one has "queue" in
`Method.whole`.
"""

import jax
import jax.numpy as jnp

from cassle_jax.errors import UserError
from cassle_jax.methods import contrast
from cassle_jax.methods.interface import Memory, Widths


def init(key: jax.Array, widths: Widths, *, size: int) -> Memory:
  """A queue of random directions: [size, k] rows of unit length."""
  shape = (size, widths.projection)
  rows = contrast.normalize(jax.random.normal(key, shape))
  return {"queue": rows, "pointer": jnp.zeros((), jnp.int32)}


def enqueue(memory: Memory, rows: jax.Array) -> Memory:
  """Writes B rows over the oldest ones, normalised, and moves the pointer.

  Args:
    memory: {"queue": [..., K, k] float32, "pointer": int32 scalar}; queues side
      by side share the pointer.
    rows: [..., B, k]; B divides K, so a write never wraps.
  """
  rows = contrast.normalize(jax.lax.stop_gradient(rows))
  pointer = memory["pointer"]
  queue = jax.lax.dynamic_update_slice_in_dim(
    memory["queue"], rows, pointer, axis=-2
  )
  return {
    "queue": queue,
    "pointer": (pointer + rows.shape[-2]) % queue.shape[-2],
  }


def check(batch_size: int, *, size: int) -> None:
  """Raises UserError unless the batch divides `method.queue_size`."""
  if size < 1 or size % batch_size:
    nearest = max(size // batch_size, 1) * batch_size
    raise UserError(
      f"method.queue_size={size} is not a multiple of"
      f" batch_size={batch_size}; set --config.method.queue_size={nearest}."
    )
