"""Folders of pictures, numbered as torchvision's ImageFolder numbers them."""

import os
from collections.abc import Sequence

import numpy as np
from absl import logging

from cassle_jax.data import decode
from cassle_jax.data.source import FileSource
from cassle_jax.errors import UserError, unknown

_SPLIT_NAMES = ("train", "val", "valid", "validation", "test")


class FolderSource(FileSource):
  """A tree of class folders, or a flat folder of unlabeled pictures.

  Indices and labels are those of torchvision's ImageFolder: sorted class
  folders (hidden ones left out), in each the sorted files of all its
  subfolders with a picture's ending. If no class folder holds a picture, the
  pictures that lie directly in the folder form an unlabeled set.

  Args:
    root: the folder.
    name: the text that opens it.
    split: which part of it this is.
    classes: class folders to take, in label order; None takes all, sorted.
  """

  def __init__(
    self,
    root: str,
    *,
    name: str = "",
    split: str = "train",
    classes: Sequence[str] | None = None,
  ):
    self.name = name or f"folder:{root}"
    self.split = split
    names = subfolders(root) if classes is None else list(classes)
    for each in names:
      if not os.path.isdir(os.path.join(root, each)):
        raise UserError(
          f"class {each!r} of the class list has no folder in {root}; "
          "one folder name a line is needed."
        )
    found = [_images_below(root, each) for each in names]
    paths = [path for each in found for path in each]
    labels = np.repeat(np.arange(len(names)), [len(each) for each in found])
    empty = [n for n, each in zip(names, found, strict=True) if not each]
    if paths and empty:
      logging.warning("%s: no pictures in class %s.", root, ", ".join(empty))
    if not paths and classes is None:
      paths = [each for each in sorted(os.listdir(root)) if is_image(each)]
      names, labels = (), None
    if not paths:
      raise UserError(
        f"no pictures in {root}; it must hold class folders with (or directly) "
        f"files ending in {', '.join(decode.EXTENSIONS)}."
      )
    super().__init__(root, paths, labels, names)
    self.shape = self._common_shape()

  def _common_shape(self) -> tuple[int, int] | None:
    # A sample of headers: a million files would take minutes, and an odd one
    # out is only shrunk to fit like any other picture.
    count = min(len(self.paths), 256)
    common = None
    for place in range(count):
      size = decode.header_size(self.locate(place * len(self.paths) // count))
      if size is not None and common not in (None, size):
        return None
      common = size or common
    return common


def is_image(name: str) -> bool:
  """Whether torchvision would take a file of this name for a picture."""
  return os.path.splitext(name)[1].lower() in decode.EXTENSIONS


def subfolders(path: str) -> list[str]:
  """Names of the folders in a folder, sorted, without hidden ones."""
  with os.scandir(path) as entries:
    return sorted(
      each.name
      for each in entries
      if each.is_dir() and not each.name.startswith(".")
    )


def _images_below(root: str, folder: str) -> list[str]:
  paths = []
  top = os.path.join(root, folder)
  for parent, _, names in sorted(os.walk(top, followlinks=True)):
    below = os.path.relpath(parent, root)
    paths.extend(
      os.path.join(below, name) for name in sorted(names) if is_image(name)
    )
  return paths


def folder_splits(path: str) -> tuple[str, ...]:
  """Names of the split folders in PATH; empty if PATH is itself a class tree.

  PATH/train counts as a split if it has subfolders, or if no folder beside it
  has another name than a split's: so a set with a *class* called "train" is
  read as what it is.
  """
  names = subfolders(path)
  if "train" not in names:
    return ()
  others = [each for each in names if each not in _SPLIT_NAMES]
  if others and not subfolders(os.path.join(path, "train")):
    return ()
  return tuple(each for each in _SPLIT_NAMES if each in names)


def read_class_list(path: str) -> list[str]:
  """Class names, one a line; a class's label is its line number from 0.

  Raises:
    UserError: the file is missing, empty or names a class twice.
  """
  try:
    with open(path, encoding="utf-8") as file:
      names = [line.strip() for line in file.read().rstrip().splitlines()]
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f"class_list {path!r} cannot be read ({error}); it must be a text file "
      "with one class name a line."
    ) from error
  if not names or "" in names:
    raise UserError(
      f"class_list {path!r} has an empty line; write one class name a line."
    )
  if len(set(names)) < len(names):
    twice = next(each for each in names if names.count(each) > 1)
    raise UserError(f"class_list {path!r} names {twice!r} twice.")
  return names


def open_folder(
  path: str, split: str = "train", *, class_list: str = ""
) -> FolderSource:
  """Opens PATH/SPLIT, or for "train" PATH itself where it has no splits.

  Args:
    path: the folder.
    split: which part of it.
    class_list: see `sources.open_source`; "" takes all classes.

  Raises:
    UserError: no such folder or split, or no pictures in it.
  """
  if not os.path.isdir(path):
    what = "is no folder" if os.path.exists(path) else "does not exist"
    raise UserError(f"folder:{path}: the path {what}; give a folder of images.")
  splits = folder_splits(path)
  root = os.path.join(path, split)
  if split == "train" and split not in splits:
    root = path
  elif not os.path.isdir(root):
    raise unknown(f"split of folder:{path}", split, splits or ("train",))
  classes = read_class_list(class_list) if class_list else None
  return FolderSource(root, name=f"folder:{path}", split=split, classes=classes)
