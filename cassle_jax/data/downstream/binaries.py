"""CIFAR and STL: pictures of one size in flat binary files.

The Python versions of CIFAR are pickles, which can run code when they are
read; only the binary versions are read here.
"""

import os

import numpy as np

from cassle_jax.data.downstream.listed import read_lines
from cassle_jax.data.source import ArraySource
from cassle_jax.errors import UserError

_PIXELS = 3 * 32 * 32
# aquatic_mammals, insects, medium_mammals, people
_FC100_COARSE = (0, 7, 12, 14)
# Their classes, in CIFAR-100's order.
FC100_CLASSES = (
  ("baby", "beaver", "bee", "beetle", "boy", "butterfly", "caterpillar")
  + ("cockroach", "dolphin", "fox", "girl", "man", "otter", "porcupine")
  + ("possum", "raccoon", "seal", "skunk", "whale", "woman")
)


def cifar10(folder: str, part: str) -> ArraySource:
  """CIFAR-10 (Krizhevsky, 2009): a byte of label, then 3072 of pixels."""
  files = {
    "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["test_batch.bin"],
  }[part]
  table = _table(folder, files, 1)
  return _cifar(table, read_lines(os.path.join(folder, "batches.meta.txt")))


def cifar100(folder: str, part: str) -> ArraySource:
  """CIFAR-100: a byte of coarse label, one of fine label, then the pixels."""
  table = _table(folder, [f"{part}.bin"], 2)
  names = read_lines(os.path.join(folder, "fine_label_names.txt"))
  return _cifar(table[:, 1:], names)


def fc100(folder: str, part: str) -> ArraySource:
  """FC100's test classes (Oreshkin et al., 2018), cut from CIFAR-100.

  The 20 classes of four superclasses, 600 pictures each: those of train.bin
  and then those of test.bin. Labels follow the classes' order in CIFAR-100.
  """
  del part
  table = _table(folder, ["train.bin", "test.bin"], 2)
  table = table[np.isin(table[:, 0], _FC100_COARSE), 1:]
  names = read_lines(os.path.join(folder, "fine_label_names.txt"))
  fine, table[:, 0] = np.unique(table[:, 0], return_inverse=True)
  return _cifar(table, [names[each] for each in fine])


def stl10(folder: str, part: str) -> ArraySource:
  """STL-10 (Coates et al., 2011), mapped into memory.

  A picture is three planes of 96 columns, each from top to bottom. Labels are
  stored from 1; "unlabeled" has none.
  """
  images = _records(os.path.join(folder, f"{part}_X.bin"), 3 * 96 * 96)
  images = images.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
  labels = None
  if part != "unlabeled":
    labels = np.fromfile(os.path.join(folder, f"{part}_y.bin"), np.uint8)
    labels = labels.astype(np.int32) - 1
  names = read_lines(os.path.join(folder, "class_names.txt"))
  return ArraySource(images, labels, name="stl10", class_names=names)


def _records(path: str, length: int) -> np.ndarray:
  """[N, length] uint8, mapped into memory."""
  size = os.path.getsize(path)
  if not size or size % length:
    raise UserError(
      f"{path} is cut off: its {size:,} bytes are no multiple of {length:,}; "
      "unpack the set again."
    )
  return np.memmap(path, np.uint8, "r").reshape(-1, length)


def _table(folder: str, files: list[str], labels: int) -> np.ndarray:
  """[N, labels + 3072] uint8 of all files together."""
  paths = [os.path.join(folder, each) for each in files]
  return np.concatenate([_records(each, labels + _PIXELS) for each in paths])


def _cifar(table: np.ndarray, names: list[str]) -> ArraySource:
  """From [N, 1 + 3072]: a label, then three planes of pixels."""
  images = table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  labels = table[:, 0].astype(np.int32)
  if labels.max() >= len(names):
    raise ValueError(f"label {labels.max()}, but {len(names)} class names")
  return ArraySource(images, labels, name="cifar", class_names=names)
