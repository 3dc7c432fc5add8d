"""A set of pictures with random access: in memory, or files of their own.

It knows nothing of order, batches or canvases; `pipeline` and `labeled` do.
"""

import abc
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cassle_jax.data import canvas as canvas_lib
from cassle_jax.data import decode
from cassle_jax.data.canvas import Size
from cassle_jax.errors import UserError


class Source(abc.ABC):
  """A set of pictures with random access; the base of every kind.

  Subclasses set the attributes and define what is abstract here. They must be
  safe to read from threads.

  Attributes:
    name: the text that opens it, e.g. "folder:/data/pets".
    split: which part of it this is, e.g. "train".
    class_names: names in label order; empty where they are not known.
    shape: (height, width) where all pictures share them, else None.
    longest: the longest side that a picture has as it lies there, where that
      is known.
    blocks: None, or where runs of pictures end that can only be read as a
      whole. Such a source has `keep(count)`: so many are to be held in memory.
  """

  name: str = ""
  split: str = ""
  class_names: tuple[str, ...] = ()
  shape: tuple[int, int] | None = None
  longest: int | None = None
  blocks: tuple[int, ...] | None = None
  _labels: np.ndarray | None = None

  @abc.abstractmethod
  def __len__(self) -> int: ...

  @property
  def has_labels(self) -> bool:
    return self.labels is not None

  @property
  def labels(self) -> np.ndarray | None:
    """[N] int32, or None for an unlabeled set; a negative one means unknown."""
    return self._labels

  @abc.abstractmethod
  def picture(self, index: int) -> Image.Image:
    """One picture at full resolution, mode RGB.

    Raises:
      decode.CorruptImage: it cannot be decoded.
    """

  @abc.abstractmethod
  def locate(self, index: int) -> str:
    """What a person needs to find this picture: its path or its row."""

  def facts(self) -> list[bytes] | None:
    """What tells these pictures from others, known without reading them."""
    return None

  def label(self, index: int) -> int:
    return -1 if self.labels is None else int(self.labels[index])

  def labeled_picture(self, index: int) -> tuple[Image.Image, int]:
    """As `picture`, with its label (-1 if it has none)."""
    return self.picture(index), self.label(index)

  def get(self, index: int) -> tuple[np.ndarray, int]:
    """As `labeled_picture`, the picture as [H, W, 3] uint8."""
    image, label = self.labeled_picture(index)
    return np.asarray(image), label

  def place(self, index: int, canvas: np.ndarray) -> tuple[Size, Size]:
    """Puts a picture on a canvas, in place; see `canvas`.

    Args:
      index: of the picture.
      canvas: [S, S, 3] uint8, whatever was on it.

    Returns:
      The true (height, width) and the stored one.

    Raises:
      decode.CorruptImage: it cannot be decoded; the canvas holds anything.
    """
    return decode.draw(self.picture(index), canvas)


class ArraySource(Source):
  """Pictures that lie decoded in one array, in memory or memory mapped.

  Args:
    images: [N, H, W, 3] uint8.
    labels: [N] integers or None.
    name: the text that opens it.
    split: which part of it this is.
    class_names: names in label order.
  """

  def __init__(
    self,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    name: str = "array",
    split: str = "train",
    class_names: Sequence[str] = (),
  ):
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
      raise UserError(
        f"{name}: images are {images.dtype} {list(images.shape)}; they must be "
        "uint8 [N, H, W, 3]."
      )
    if not images.size:
      raise UserError(f"{name} holds no images.")
    if labels is not None:
      if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise UserError(
          f"{name}: labels are {labels.dtype} {list(labels.shape)}; they must "
          f"be integers [{len(images)}], one an image."
        )
      if len(labels) and not -(2**31) <= labels.min() <= labels.max() < 2**31:
        raise UserError(
          f"{name}: labels go from {labels.min()} to {labels.max()} and must"
          " be below 2**31; number the classes from 0, e.g. by"
          " np.unique(labels, return_inverse=True)[1] over all splits together."
        )
      self._labels = labels.astype(np.int32)
    self.images = images
    self.name = name
    self.split = split
    self.class_names = tuple(class_names)
    self.shape = (images.shape[1], images.shape[2])

  def __len__(self) -> int:
    return len(self.images)

  def picture(self, index: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(self.images[index]))

  def locate(self, index: int) -> str:
    return f"image {index} of {self.name}"

  def place(self, index: int, canvas: np.ndarray) -> tuple[Size, Size]:
    if max(self.shape) > len(canvas):
      return super().place(index, canvas)
    return self.shape, canvas_lib.fill(canvas, self.images[index])


class EncodedSource(Source):
  """Pictures that lie encoded somewhere, each in one piece.

  A subclass that changes them in `picture` needs `place = Source.place`, which
  goes through it.
  """

  @abc.abstractmethod
  def encoded(self, index: int) -> bytes:
    """A picture's bytes, in one of `decode.FORMATS`.

    Raises:
      decode.CorruptImage: they cannot be had.
    """

  def picture(self, index: int) -> Image.Image:
    return decode.picture(self.encoded(index))

  def true_size(self, index: int, stored: Size) -> Size:
    """The true (height, width) of a picture whose bytes have `stored`."""
    del index
    return stored

  def place(self, index: int, canvas: np.ndarray) -> tuple[Size, Size]:
    size, stored = decode.place(self.encoded(index), canvas)
    return self.true_size(index, size), stored


class FileSource(EncodedSource):
  """Picture files in a given order.

  Args:
    root: the folder that paths start from.
    paths: one picture each, with "/" between folders.
    labels: [N] integers from 0, or None.
    class_names: names in label order.
  """

  def __init__(
    self,
    root: str,
    paths: Sequence[str],
    labels: Sequence[int] | np.ndarray | None,
    class_names: Sequence[str] = (),
  ):
    self.root = root
    self.paths = list(paths)
    self.class_names = tuple(class_names)
    if labels is not None:
      self._labels = np.asarray(labels, np.int32)
      if self._labels.shape != (len(self.paths),):
        raise ValueError(
          f"{len(self._labels)} labels for {len(self.paths)} pictures"
        )

  def __len__(self) -> int:
    return len(self.paths)

  def encoded(self, index: int) -> bytes:
    return decode.read_bytes(self.locate(index))

  def locate(self, index: int) -> str:
    return os.path.join(self.root, self.paths[index])
