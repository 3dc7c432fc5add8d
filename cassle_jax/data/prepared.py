"""Sets that `python -m cassle_jax.prepare` wrote: large files, read anywhere.

A split is a folder:

  manifest.json                what is in it; written last, so that a folder
                               without one is unfinished
  labels.npy                   [N] int32, where the set has labels
  sizes.npy                    [N, 2] int32, true (height, width)
  pictures-NNNNN.array_record  a picture's file a record, in the set's order

Pictures larger than the manifest's `side` were shrunk to fit; the rest are the
source's own files, byte for byte.
"""

import functools
import json
import os
import threading

import numpy as np

from cassle_jax.data import decode
from cassle_jax.data.canvas import Size
from cassle_jax.data.source import EncodedSource
from cassle_jax.errors import UserError, unknown

MANIFEST, LABELS, SIZES = "manifest.json", "labels.npy", "sizes.npy"
FORMAT = 1


class PreparedSource(EncodedSource):
  """One prepared split.

  Attributes:
    sizes: [N, 2] int32, true (height, width) of each picture.
  """

  def __init__(self, root: str, split: str, *, name: str):
    """Opens it; `root` holds the folders of the splits."""
    self._folder = os.path.join(root, split)
    manifest = self._manifest = read_manifest(self._folder)
    self.name, self.split = name, split
    self.class_names = tuple(manifest["class_names"])
    self.longest = manifest["longest"]
    self._shards = [each["name"] for each in manifest["shards"]]
    self._ends = np.cumsum([each["count"] for each in manifest["shards"]])
    try:
      self.sizes = np.load(os.path.join(self._folder, SIZES))
      if manifest["labels"]:
        self._labels = np.load(os.path.join(self._folder, LABELS))
    except (OSError, ValueError, EOFError) as error:
      raise _damaged(self._folder, error) from error
    counts = {len(self.sizes), int(self._ends[-1]), manifest["count"]}
    counts |= {len(self.sizes if self._labels is None else self._labels)}
    if len(counts) > 1:
      raise _damaged(self._folder, "its files are of different lengths")
    if manifest["one_size"]:
      self.shape = tuple(map(int, self.sizes[0]))
    self._reader = functools.lru_cache(maxsize=None)(self._open)
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self.sizes)

  def encoded(self, index: int) -> bytes:
    shard, row = self._find(index)
    try:
      with self._lock:
        reader = self._reader(shard)
      (data,) = reader.read([row])
    except (RuntimeError, IndexError, ValueError) as error:
      raise decode.CorruptImage(
        f"the record cannot be read: {error}"
      ) from error
    return data

  def true_size(self, index: int, stored: Size) -> Size:
    height, width = self.sizes[index].tolist()
    return height, width

  def locate(self, index: int) -> str:
    shard, row = self._find(index)
    return f"record {row} of {os.path.join(self._folder, self._shards[shard])}"

  def facts(self) -> list[bytes]:
    return [each["sha256"].encode() for each in self._manifest["shards"]]

  def _find(self, index: int) -> tuple[int, int]:
    shard = int(np.searchsorted(self._ends, index, side="right"))
    start = int(self._ends[shard - 1]) if shard else 0
    return shard, int(index) - start

  def _open(self, shard: int):
    from array_record.python import array_record_module

    # Without threads and buffers of its own: the loader's threads read.
    return array_record_module.ArrayRecordReader(
      os.path.join(self._folder, self._shards[shard]),
      "readahead_buffer_size:0,max_parallelism:0",
    )


def read_manifest(folder: str) -> dict:
  """The facts of a prepared split.

  Raises:
    UserError: the folder holds none, or one of a later version.
  """
  try:
    with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
      manifest = json.load(file)
  except (OSError, ValueError) as error:
    raise _damaged(folder, error) from error
  if manifest.get("format") != FORMAT:
    raise UserError(
      f"{folder} has format {manifest.get('format')!r} and this version reads "
      f"{FORMAT}; prepare the set again."
    )
  return manifest


def open_prepared(path: str, split: str = "train") -> PreparedSource:
  """Opens PATH/SPLIT.

  Raises:
    UserError: no such folder or split, or it is unfinished.
  """
  splits = split_names(path)
  if split not in splits:
    if os.path.isdir(os.path.join(path, split)):
      raise UserError(
        f"prepared:{path}: {split} is unfinished; run python -m "
        "cassle_jax.prepare again as before, it goes on where it was."
      )
    if not splits:
      raise UserError(
        f"prepared:{path} holds no prepared set; python -m cassle_jax.prepare "
        f"SOURCE {path} makes one."
      )
    raise unknown(f"split of prepared:{path}", split, splits)
  return PreparedSource(path, split, name=f"prepared:{path}")


def split_names(path: str) -> tuple[str, ...]:
  """The splits in a folder that are complete."""
  if not os.path.isdir(path):
    return ()
  return tuple(
    each
    for each in sorted(os.listdir(path))
    if os.path.isfile(os.path.join(path, each, MANIFEST))
  )


def _damaged(folder: str, why: object) -> UserError:
  return UserError(
    f"{folder} cannot be read as a prepared set ({why}); prepare it again into "
    "an empty folder."
  )
