"""Where images come from; folders and TFDS sets have files of their own.

A source is a list of pictures with random access. It knows nothing of order,
batches or canvases; `pipeline` and `labeled` do.
"""

import abc
import json
import os
import zipfile
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cassle_jax.data import decode
from cassle_jax.errors import UserError, unknown

KINDS = ("bundled:earth", "folder:PATH", "npy:PATH", "tfds:NAME")


class Source(abc.ABC):
  """A set of pictures with random access; the base of every kind.

  Subclasses set the attributes and define what is abstract here. They must be
  picklable (worker processes) and safe to read from threads.

  Attributes:
    name: the text that opens it, e.g. "folder:/data/pets".
    split: which part of it this is, e.g. "train".
    class_names: names in label order; empty where they are not known.
    shape: (height, width) where all pictures share them, else None.
  """

  name: str = ""
  split: str = ""
  class_names: tuple[str, ...] = ()
  shape: tuple[int, int] | None = None

  @abc.abstractmethod
  def __len__(self) -> int: ...

  @property
  def has_labels(self) -> bool:
    return self.labels is not None

  @property
  @abc.abstractmethod
  def labels(self) -> np.ndarray | None:
    """[N] int32, or None for an unlabeled set; a negative one means unknown."""

  @abc.abstractmethod
  def picture(self, index: int) -> Image.Image:
    """One picture at full resolution, mode RGB.

    Raises:
      decode.CorruptImage: it cannot be decoded.
    """

  @abc.abstractmethod
  def locate(self, index: int) -> str:
    """What a person needs to find this picture: its path or its row."""

  def label(self, index: int) -> int:
    return -1 if self.labels is None else int(self.labels[index])

  def get(self, index: int) -> tuple[np.ndarray, int]:
    """One picture, [H, W, 3] uint8, and its label (-1 if it has none)."""
    return np.asarray(self.picture(index)), self.label(index)

  def labeled_picture(self, index: int) -> tuple[Image.Image, int]:
    """As `picture`, with its label."""
    return self.picture(index), self.label(index)

  def canvas(self, index: int, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture squashed to [size, size, 3] uint8, and its true (h, w)."""
    image = self.picture(index)
    return decode.squash(image, size), (image.height, image.width)


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
      labels = labels.astype(np.int32)
    self.images = images
    self._labels = labels
    self.name = name
    self.split = split
    self.class_names = tuple(class_names)
    self.shape = (images.shape[1], images.shape[2])

  def __len__(self) -> int:
    return len(self.images)

  @property
  def labels(self) -> np.ndarray | None:
    return self._labels

  def picture(self, index: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(self.images[index]))

  def locate(self, index: int) -> str:
    return f"image {index} of {self.name}"

  def canvas(self, index: int, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    if self.shape == (size, size):
      return self.images[index], self.shape
    return super().canvas(index, size)


def _open_bundled(which: str, split: str) -> Source:
  if which != "earth":
    raise unknown("bundled set", which, ("earth",))
  if split not in ("train", "test"):
    raise unknown("split of bundled:earth", split, ("train", "test"))
  folder = os.path.join(os.path.dirname(__file__), "earth")
  with open(os.path.join(folder, "labels.json"), encoding="utf-8") as file:
    facts = json.load(file)
  tile, columns = facts["tile"], facts["columns"]
  with open(os.path.join(folder, f"{split}.jpg"), "rb") as file:
    mosaic = np.asarray(decode.picture(file.read()))
  rows = mosaic.shape[0] // tile
  tiles = mosaic.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
  tiles = tiles.reshape(rows * columns, tile, tile, 3)
  return ArraySource(
    tiles[: facts[split]["count"]],
    np.array(facts[split]["labels"]),
    name="bundled:earth",
    split=split,
    class_names=facts["classes"],
  )


def array_splits(path: str) -> dict[str, str]:
  """Split name -> file for npy:PATH; a file by itself is the split "train"."""
  if not os.path.isdir(path):
    return {"train": path}
  return {
    os.path.splitext(each)[0]: os.path.join(path, each)
    for each in sorted(os.listdir(path))
    if each.endswith((".npy", ".npz")) and not each.endswith("_labels.npy")
  }


def _open_arrays(path: str, split: str) -> Source:
  name = f"npy:{path}"
  splits = array_splits(path)
  if split not in splits:
    raise unknown(f"split of {name}", split, splits or ("train",))
  file = splits[split]
  if not os.path.isfile(file):
    raise UserError(f"{name}: no such file; give a .npy or .npz file.")
  labels = None
  try:
    # Never with pickles: an object array could run code.
    if file.endswith(".npz"):
      # NumPy leaves a damaged file open if it opened it itself.
      with (
        open(file, "rb") as stream,
        np.load(stream, allow_pickle=False) as arrays,
      ):
        if "images" not in arrays.files:
          raise UserError(
            f"{name} holds {', '.join(arrays.files) or 'nothing'}; it must "
            "hold `images` (uint8 [N, H, W, 3]) and may hold `labels`."
          )
        images = arrays["images"]
        if "labels" in arrays.files:
          labels = arrays["labels"]
    elif file.endswith(".npy"):
      images = np.load(file, mmap_mode="r", allow_pickle=False)
      beside = file.removesuffix(".npy") + "_labels.npy"
      if os.path.exists(beside):
        labels = np.load(beside, allow_pickle=False)
    else:
      raise UserError(f"{name}: give a file ending in .npy or .npz.")
  except UserError:
    raise
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    text = str(error).splitlines()[0] if str(error) else "it is damaged"
    raise UserError(f"{name}: {file} cannot be read ({text}).") from error
  return ArraySource(images, labels, name=name, split=split)


def open_source(
  source: str = "bundled:earth",
  split: str = "train",
  *,
  class_list: str = "",
  data_dir: str = "",
) -> Source:
  """Opens a set of images.

  Args:
    source: one of
      "bundled:earth": 32 x 32 satellite tiles, splits train and test;
      "folder:PATH": class folders in PATH/SPLIT, or in PATH itself for "train"
        where there is no PATH/train; pictures directly inside are unlabeled;
      "npy:PATH": a .npy file (uint8 [N, H, W, 3]; labels from the file beside
        it whose name ends in _labels.npy), a .npz file (`images`, `labels`) or
        a folder of SPLIT.npy / SPLIT.npz files;
      "tfds:NAME", "tfds:NAME/CONFIG", "tfds:NAME:VERSION" or "tfds:FOLDER": a
        TFDS builder prepared as array_record, read without TensorFlow.
    split: "train", "test", ...; TFDS slices such as "train[:10%]" work.
    class_list: text file of class names, one a line: takes only these, the
      line number is the label (folder and tfds).
    data_dir: where TFDS sets lie; "" is TFDS's default.

  Raises:
    UserError: anything that the user can put right, in one line.
  """
  kind, _, rest = source.partition(":")
  if class_list and kind not in ("folder", "tfds"):
    raise UserError(
      f"class_list works with folder: and tfds: sources, not with {source!r}."
    )
  if rest and kind == "bundled":
    return _open_bundled(rest, split)
  if rest and kind == "folder":
    from cassle_jax.data import folder

    path = os.path.expanduser(rest)
    return folder.open_folder(path, split, class_list=class_list)
  if rest and kind == "npy":
    return _open_arrays(os.path.expanduser(rest), split)
  if rest and kind == "tfds":
    from cassle_jax.data import folder, tfds_source

    classes = folder.read_class_list(class_list) if class_list else None
    return tfds_source.open_builder(
      rest, split, data_dir=data_dir, classes=classes
    )
  raise unknown("data.source", source, KINDS)
