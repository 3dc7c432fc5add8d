"""What a weights file holds: named tensors, each read when it is wanted."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

# numpy knows it by jax's name.
BFLOAT16 = np.dtype(jnp.bfloat16)
# Sizes beyond these are no tensor's: they would only keep a reader busy.
_MOST, _AXES = 2**48, 16


class Damaged(Exception):
  """A file does not hold what it says; the words are for one line."""


class Tensor(NamedTuple):
  """One array of a file that is still on the disk.

  Attributes:
    shape: its sizes.
    dtype: its type.
    read: reads it; contiguous, little-endian.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    """How many bytes the array takes in memory."""
    return math.prod(self.shape) * self.dtype.itemsize


class Weights(NamedTuple):
  """What `reader.read` found in a file.

  Attributes:
    path: of the file.
    format: in words, e.g. "torch (zip)".
    tensors: name -> Tensor, in the file's order. Names of nested dicts and
      lists are joined with dots: "state_dict.module.conv1.weight".
    values: name -> the texts and numbers beside them, likewise.
    foreign: names of classes and functions that the file asks for and that
      were neither imported nor called.
  """

  path: str
  format: str
  tensors: dict[str, Tensor]
  values: dict[str, str | int | float | bool]
  foreign: tuple[str, ...] = ()


def sizes(value: object, kind: str) -> tuple[int, ...]:
  """Returns a tuple of sizes, or strides, if it can be one.

  Raises:
    Damaged: it is something else, or beyond all measure.
  """
  if not isinstance(value, (tuple, list)) or len(value) > _AXES:
    raise Damaged(f"a tensor's {kind} is no tuple of at most {_AXES} numbers")
  for one in value:
    size(one, kind)
  return tuple(value)


def size(value: object, kind: str) -> int:
  """Returns a size or an offset if it can be one; raises Damaged."""
  if type(value) is not int or not 0 <= value < _MOST:
    raise Damaged(f"a tensor's {kind} is no number from 0 to 2^48")
  return value


def check_fits(tensor: Tensor, name: str, available: int) -> None:
  """Refuses a tensor with more bytes than there are in the file.

  Raises:
    Damaged: naming both.
  """
  if tensor.nbytes > available:
    raise Damaged(
      f"{name or 'a tensor'} of shape {tensor.shape} takes"
      f" {tensor.nbytes:,} bytes, and the file has {available:,}"
    )
