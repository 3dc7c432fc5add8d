"""Pictures named by a list, and several parts of a set read as one."""

import functools
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cassle_jax.data.source import FileSource, Source
from cassle_jax.errors import UserError


class ListSource(FileSource):
  """Picture files that a list names, so that some may be missing."""

  def missing(self) -> list[str]:
    """The paths that have no file; lists each folder once."""

    @functools.cache
    def names(folder: str) -> set[str]:
      path = os.path.join(self.root, folder)
      return set(os.listdir(path)) if os.path.isdir(path) else set()

    split = [(path, *os.path.split(path)) for path in self.paths]
    return [path for path, folder, file in split if file not in names(folder)]


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
