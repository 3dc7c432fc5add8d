"""WebDataset tars, read at random: `data.source=wds:PATTERN`.

A sample is the files of one name up to its first dot: a picture (.jpg, .png,
.webp, ...) and its label (.cls, a number, or "label" in a .json). Where they
lie in a tar is found once, by its headers, and kept in the user's cache folder;
from then on every picture is one read at its place, so order and resume are
those of any other source.
"""

import hashlib
import json
import os
import tarfile
import threading
import weakref
from collections.abc import Sequence

import numpy as np
from absl import logging

from cassle_jax.data import cache, decode, loading
from cassle_jax.data.source import EncodedSource
from cassle_jax.errors import UserError

# Tars that stay open; more are opened for each read.
_OPEN = 256
# A sample: offset and size of the picture in bytes, and the label or -1.
_SAMPLE = np.dtype([("offset", "i8"), ("size", "i8"), ("label", "i4")])


class TarSource(EncodedSource):
  """The pictures of several tars, one tar after another."""

  def __init__(self, paths: Sequence[str], *, name: str, split: str):
    """Opens tars; see the module."""
    self.name, self.split = name, split
    self._paths = list(paths)
    threads = decode.default_threads()
    held = loading.ordered(
      lambda place: _samples(self._paths[place]), range(len(paths)), threads
    )
    held = list(held)
    self._ends = np.cumsum([len(each) for each in held])
    self._samples = np.concatenate(held)
    if not len(self._samples):
      raise UserError(f"{name}: there is no picture in {len(paths)} tar files.")
    if (self._samples["label"] >= 0).any():
      self._labels = self._samples["label"].copy()
    self._files: dict[int, int] = {}
    self._lock = threading.Lock()
    weakref.finalize(self, _close, self._files)

  def __len__(self) -> int:
    return len(self._samples)

  def encoded(self, index: int) -> bytes:
    offset, size, _ = self._samples[index].item()
    which, _ = self._find(index)
    try:
      file, keep = self._open(which)
      try:
        data = os.pread(file, size, offset)
      finally:
        if not keep:
          os.close(file)
    except (FileNotFoundError, PermissionError) as error:
      raise decode.CorruptImage(error.strerror) from error
    if len(data) < size:
      raise decode.CorruptImage("the tar ends within the picture")
    return data

  def locate(self, index: int) -> str:
    which, row = self._find(index)
    return f"picture {row} of {self._paths[which]}"

  def facts(self) -> list[bytes]:
    names = [os.path.basename(path).encode() for path in self._paths]
    places = (self._samples[name].tobytes() for name in ("offset", "size"))
    return [*names, *places]

  def _find(self, index: int) -> tuple[int, int]:
    which = int(np.searchsorted(self._ends, index, side="right"))
    return which, int(index) - (int(self._ends[which - 1]) if which else 0)

  def _open(self, which: int) -> tuple[int, bool]:
    """A file descriptor, and whether it stays open."""
    with self._lock:
      if which not in self._files and len(self._files) < _OPEN:
        self._files[which] = os.open(self._paths[which], os.O_RDONLY)
      if which in self._files:
        return self._files[which], True
    return os.open(self._paths[which], os.O_RDONLY), False


def _close(held: dict[int, int]) -> None:
  for file in held.values():
    os.close(file)


def _samples(path: str) -> np.ndarray:
  """The samples of a tar, out of the cache or by its headers: [n] _SAMPLE."""
  try:
    facts = os.stat(path)
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}).") from error
  text = f"{os.path.abspath(path)} {facts.st_size} {facts.st_mtime_ns}"
  name = f"tar-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npy"
  samples = cache.read(name)
  if samples is None or samples.dtype != _SAMPLE:
    logging.info("reading the headers of %s", path)
    samples = _scan(path)
    cache.keep(name, samples)
  return samples


def _scan(path: str) -> np.ndarray:
  found: dict[str, list] = {}
  try:
    with tarfile.open(path, "r:") as tar:
      for member in tar:
        folder, base = os.path.split(member.name)
        key, _, ending = base.partition(".")
        if not member.isfile() or not key:
          continue
        sample = found.setdefault(f"{folder}/{key}", [0, -1, -1])
        ending = f".{ending.lower()}"
        if ending in decode.EXTENSIONS and sample[1] < 0:
          sample[:2] = member.offset_data, member.size
        elif ending in (".cls", ".json"):
          sample[2] = _label(ending, tar.extractfile(member).read(), sample[2])
        # A list of all members would grow with the tar.
        tar.members = []
  except (tarfile.TarError, OSError, EOFError) as error:
    raise UserError(
      f"{path} cannot be read as a tar ({error}); compressed ones must be "
      "unpacked first, for pictures are read at random."
    ) from error
  samples = [tuple(each) for each in found.values() if each[1] >= 0]
  return np.array(samples, _SAMPLE)


def _label(ending: str, data: bytes, before: int) -> int:
  try:
    if ending == ".json":
      value = json.loads(data)
      value = value.get("label", before) if isinstance(value, dict) else before
      return int(value)
    return int(data)
  except (ValueError, TypeError):
    return before
