"""What tells one set of pictures from another: number, order and content.

A set keeps its mark where it is moved or copied, and loses it where pictures
are added, removed, renamed, reordered or replaced.
"""

import concurrent.futures
import hashlib
import os
from collections.abc import Iterator

import numpy as np

from cassle_jax.data import decode
from cassle_jax.data.downstream.listed import JoinedSource
from cassle_jax.data.source import ArraySource, FileSource, Source

# Of larger sets a sample is looked at, spread evenly: to ask a file system for
# the sizes of millions of files can take longer than an epoch.
FILES = 2**17
BYTES = 2**28
_ROWS = 2**12
_PICTURES = 64


def digest(source: Source, *, times: bool = False) -> str:
  """A mark of the pictures of a set and of their order, 32 hex digits.

  Labels are no part of it; see `mark`.

  Args:
    source: the set.
    times: whether files that were written anew count as changed, even where
      their size is the same: where a wrong answer costs more than the work of
      doing something again after a copy.
  """
  return mark(str(len(source)).encode(), *_parts(source, times))


def mark(*parts: bytes | np.ndarray) -> str:
  """32 hex digits that change when any of the parts does."""
  state = hashlib.blake2b(digest_size=16)
  for part in parts:
    data = part if isinstance(part, bytes) else _bytes(part)
    # With its length, so that no two lists of parts run into one text.
    state.update(b"%d:" % len(data))
    state.update(data)
  return state.hexdigest()


def _bytes(array: np.ndarray) -> bytes:
  return f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()


def _parts(source: Source, times: bool) -> Iterator[bytes | np.ndarray]:
  if isinstance(source, JoinedSource):
    for each in source.sources:
      yield from _parts(each, times)
  elif isinstance(source, FileSource):
    yield from _files(source, times)
  elif isinstance(source, ArraySource):
    yield str(source.images.shape).encode()
    rows = range(len(source))
    if source.images.nbytes > BYTES:
      rows = _spread(len(source), _ROWS)
    for row in rows:
      yield np.ascontiguousarray(source.images[row]).tobytes()
  elif (facts := source.facts()) is not None:
    yield from facts
  else:
    for index in _spread(len(source), _PICTURES):
      try:
        yield np.asarray(source.picture(index))
      except decode.CorruptImage:
        yield b"unreadable"


def _files(source: FileSource, times: bool) -> Iterator[bytes]:
  """Names below the root, whichever way their folders are parted; sizes."""
  for path in source.paths:
    yield os.fsencode(path.replace(os.sep, "/"))

  def facts(index: int) -> bytes:
    try:
      found = os.stat(source.locate(index))
    except OSError:
      return b"missing"
    return b"%d %d" % (found.st_size, found.st_mtime_ns if times else 0)

  with concurrent.futures.ThreadPoolExecutor(decode.default_threads()) as pool:
    yield from pool.map(facts, _spread(len(source), FILES))


def _spread(count: int, most: int) -> list[int]:
  """At most so many of range(count), evenly."""
  taken = min(count, most)
  return [place * count // taken for place in range(taken)]
