"""Pictures named by a list, and several parts of a set read as one."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cassle_jax.data import decode
from cassle_jax.data.source import Source
from cassle_jax.errors import UserError


class ListSource(Source):
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
    self._labels = None
    if labels is not None:
      self._labels = np.asarray(labels, np.int32)
      if self._labels.shape != (len(self.paths),):
        raise ValueError(
          f"{len(self._labels)} labels for {len(self.paths)} pictures"
        )

  def __len__(self) -> int:
    return len(self.paths)

  @property
  def labels(self) -> np.ndarray | None:
    return self._labels

  def picture(self, index: int) -> Image.Image:
    return decode.picture(decode.read_bytes(self.locate(index)))

  def locate(self, index: int) -> str:
    return os.path.join(self.root, self.paths[index])

  def missing(self) -> list[str]:
    """The paths that have no file; lists each folder once."""
    there: dict[str, set[str]] = {}
    absent = []
    for path in self.paths:
      folder, _, file = path.rpartition("/")
      if folder not in there:
        there[folder] = set(_names(os.path.join(self.root, folder)))
      if file not in there[folder]:
        absent.append(path)
    return absent


class JoinedSource(Source):
  """Several sources one after another, with the labels of the first.

  Args:
    sources: at least one; all have labels.
  """

  def __init__(self, sources: Sequence[Source]):
    self.sources = list(sources)
    self.class_names = self.sources[0].class_names
    shapes = {each.shape for each in self.sources}
    self.shape = shapes.pop() if len(shapes) == 1 else None
    self._ends = np.cumsum([len(each) for each in self.sources])
    self._labels = None

  def __len__(self) -> int:
    return int(self._ends[-1])

  @property
  def has_labels(self) -> bool:
    return all(each.has_labels for each in self.sources)

  @property
  def labels(self) -> np.ndarray | None:
    if self._labels is None and self.has_labels:
      self._labels = np.concatenate([each.labels for each in self.sources])
    return self._labels

  def picture(self, index: int) -> Image.Image:
    source, row = self._place(index)
    return source.picture(row)

  def label(self, index: int) -> int:
    source, row = self._place(index)
    return source.label(row)

  def labeled_picture(self, index: int) -> tuple[Image.Image, int]:
    source, row = self._place(index)
    return source.labeled_picture(row)

  def locate(self, index: int) -> str:
    source, row = self._place(index)
    return source.locate(row)

  def _place(self, index: int) -> tuple[Source, int]:
    which = int(np.searchsorted(self._ends, index, side="right"))
    start = self._ends[which - 1] if which else 0
    return self.sources[which], int(index - start)


def read_lines(path: str) -> list[str]:
  """The lines of a text file, stripped, without empty ones.

  Raises:
    UserError: it is no text.
  """
  try:
    with open(path, encoding="utf-8") as file:
      lines = [line.strip() for line in file]
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is no text file; unpack the set again.") from error
  return [line for line in lines if line]


def subfolders(path: str) -> list[str]:
  """Names of the folders in a folder, sorted, without hidden ones."""
  return [
    each
    for each in _names(path)
    if not each.startswith(".") and os.path.isdir(os.path.join(path, each))
  ]


def _names(path: str) -> list[str]:
  return sorted(os.listdir(path)) if os.path.isdir(path) else []
