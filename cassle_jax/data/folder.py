"""Folders of pictures, numbered as torchvision's ImageFolder numbers them."""

import functools
import os
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from cassle_jax.data import decode, layout
from cassle_jax.data.source import FileSource
from cassle_jax.errors import UserError, unknown

# What operating systems, archives and disk stations put into folders.
_NO_DATA = (
  "lost+found",
  "__MACOSX",
  "__pycache__",
  "@eaDir",
  "$RECYCLE.BIN",
  "System Volume Information",
)


class FolderSource(FileSource):
  """A tree of class folders, or a flat folder of unlabeled pictures.

  Indices and labels are those of torchvision's ImageFolder: sorted class
  folders (hidden ones left out), in each the sorted files of all its
  subfolders with a picture's ending. If no class folder holds a picture, the
  pictures that lie directly in the folder form an unlabeled set. Links are
  followed unless they lead back into the set: such pictures count once.

  Attributes:
    aside: what of the folder is not part of the set, in words, each with why.

  Args:
    root: the folder.
    name: the text that opens it.
    split: which part of it this is.
    classes: class folders to take, in label order; None takes all, sorted.

  Raises:
    UserError: no pictures, a class without a folder, a folder that cannot be
      listed.
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
    self.aside: tuple[str, ...] = ()
    names = self._classes(root) if classes is None else list(classes)
    for each in names:
      if not os.path.isdir(os.path.join(root, each)):
        raise UserError(
          f"class {each!r} of the class list has no folder in {root}; "
          "one folder name a line is needed."
        )
    found = [_images_below(root, each, names) for each in names]
    paths = [path for each in found for path in each]
    labels = np.repeat(np.arange(len(names)), [len(each) for each in found])
    empty = [n for n, each in zip(names, found, strict=True) if not each]
    loose = [each for each in _listed(root)[1] if is_image(each)]
    if paths and empty:
      self.aside += (f"{', '.join(empty)} (no pictures in it)",)
      logging.warning("%s: no pictures in class %s.", root, ", ".join(empty))
    if not paths and classes is None:
      paths, names, labels = loose, (), None
    elif loose and classes is None:
      self.aside += (f"{len(loose)} pictures beside the class folders",)
    if not paths:
      raise UserError(
        f"no pictures in {root}; it must hold class folders with (or directly) "
        f"files ending in {', '.join(decode.EXTENSIONS)}."
      )
    super().__init__(root, paths, labels, names)
    self.shape = self._common_shape()

  def _classes(self, root: str) -> list[str]:
    """The class folders; a link to another one is no class of its own."""
    names = subfolders(root)
    paths = {name: os.path.join(root, name) for name in names}
    own = [os.path.realpath(p) for p in paths.values() if not os.path.islink(p)]
    back = [
      name
      for name, path in paths.items()
      if os.path.islink(path)
      and any(_within(os.path.realpath(path), each) for each in own)
    ]
    if back:
      self.aside = (f"{', '.join(back)} (a link to another class)",)
    return [name for name in names if name not in back]

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
  """Names of the folders in a folder, sorted, without hidden ones.

  Raises:
    UserError: it cannot be listed.
  """
  return [
    name
    for name in _listed(path)[0]
    if not name.startswith(".") and name not in _NO_DATA
  ]


def _listed(path: str) -> tuple[list[str], list[str]]:
  """Names of folders and of other entries in a folder, each sorted.

  Raises:
    UserError: it cannot be listed. A set that silently lacks a folder would be
      another set.
  """
  folders, others = [], []
  try:
    with os.scandir(path) as entries:
      for each in entries:
        (folders if _is_folder(each) else others).append(each.name)
  except OSError as error:
    raise UserError(
      f"the folder {path} cannot be read ({error.strerror or error}), so its"
      " pictures would be missing; mend the disk or the permissions, or name"
      " the classes to take in a file with --config.data.class_list=FILE."
    ) from error
  return sorted(folders), sorted(others)


def _is_folder(entry: os.DirEntry) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # A link in a circle.
    return False


def _images_below(root: str, folder: str, classes: Sequence[str]) -> list[str]:
  """Pictures below a class folder, as `sorted(os.walk(...))` orders them."""
  top = os.path.join(root, folder)
  inside = {os.path.realpath(os.path.join(root, each)) for each in classes}
  paths = []
  for parent, names in sorted(_walk(top, os.path.realpath(root), inside)):
    below = os.path.relpath(parent, root)
    paths.extend(os.path.join(below, name) for name in names if is_image(name))
  return paths


def _walk(
  top: str, root: str, classes: set[str]
) -> Iterator[tuple[str, list[str]]]:
  """(folder, names of its files) of a tree, links followed but not back."""
  pending = [(top, (root, os.path.realpath(top)))]
  while pending:
    parent, above = pending.pop()
    folders, files = _listed(parent)
    yield parent, files
    for name in folders:
      path = os.path.join(parent, name)
      chain = above
      if os.path.islink(path):
        real = os.path.realpath(path)
        back = any(_within(each, real) for each in above)
        if back or any(_within(real, each) for each in classes):
          logging.warning(
            "%s leads back into the set and is left aside: its pictures count"
            " where they lie.",
            path,
          )
          continue
        chain = (*above, real)
      pending.append((path, chain))


def _within(path: str, folder: str) -> bool:
  """Whether a path is a folder, or lies below it."""
  return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _holds(root: str, name: str) -> int:
  """What `layout.understand` asks of a folder; looks one folder deep."""
  try:
    folders, files = _listed(os.path.join(root, name))
    for each in folders:
      if each.startswith("."):
        continue
      inner, below = _listed(os.path.join(root, name, each))
      if inner or any(map(is_image, below)):
        return 2
    return int(any(map(is_image, files)))
  except UserError:
    return 2  # Told, with its reason, where it is taken.


def understand(path: str) -> layout.Layout:
  """What the folders in PATH are, see `layout`.

  Raises:
    UserError: a folder that cannot be listed, or could be two things.
  """
  names = subfolders(path)
  holds = functools.cache(functools.partial(_holds, path))
  return layout.understand(path, names, holds)


def folder_splits(path: str) -> tuple[str, ...]:
  """Names of the split folders in PATH; empty if PATH is a class tree."""
  order = list(layout.ROLES)
  splits = understand(path).splits
  return tuple(sorted(splits, key=lambda name: order.index(splits[name])))


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
  found = understand(path)
  chosen = layout.choose(path, split, found.splits)
  root = os.path.join(path, chosen or split)
  if split == "train" and not found.splits:
    root = path
    if not class_list:
      layout.check_classes(
        path,
        subfolders(path),
        lambda name: subfolders(os.path.join(path, name)),
      )
  elif chosen is None and (found.splits or not os.path.isdir(root)):
    raise unknown(f"split of folder:{path}", split, found.splits or ("train",))
  classes = read_class_list(class_list) if class_list else None
  opened = FolderSource(
    root, name=f"folder:{path}", split=split, classes=classes
  )
  others = [name for name in found.splits if name != chosen]
  if others:
    opened.aside += (f"{', '.join(others)} (other splits)",)
  if found.aside:
    opened.aside += (f"{', '.join(found.aside)} (no split's name)",)
  return opened
