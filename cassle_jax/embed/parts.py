"""Features that are computed part by part, so that a kill costs one part.

OUT.parts/job.json says whose they are, OUT.parts/000042.npz holds the readable
pictures of one range of places. A part is a function of its range and the job
alone: whoever computes it, after however many kills, writes the same.
"""

import contextlib
import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from cassle_jax.errors import UserError
from cassle_jax.runs import files

_JOB, _LOCK = "job.json", "lock"


class Part(NamedTuple):
  """Features of some pictures.

  Attributes:
    index: [n] int64, ascending: their places in the set.
    labels: [n] int32; -1 where a picture has none.
    features: [n, d] float32.
  """

  index: np.ndarray
  labels: np.ndarray
  features: np.ndarray


class Parts:
  """The parts of one job; use it in `with`.

  Attributes:
    count: of all parts.
    missing: numbers of those that are not there, ascending.
  """

  def __init__(
    self, folder: str, job: Mapping[str, Any], *, total: int, size: int
  ):
    """Opens the folder of a job, or makes it.

    Args:
      folder: of the parts.
      job: what the features depend on; JSON values.
      total: number of pictures.
      size: pictures a part.

    Raises:
      UserError: the folder holds parts of another job, or another process is
        at work in it, or it cannot be written.
    """
    self._folder, self._total, self._size = folder, total, size
    self.count = -(-total // size)
    try:
      os.makedirs(folder, exist_ok=True)
      self._lock = open(os.path.join(folder, _LOCK), "w")
      self._claim(job)
    except OSError as error:
      raise _unwritable(folder, error) from error
    self.missing = [n for n in range(self.count) if self._read(n) is None]

  def _claim(self, job: Mapping[str, Any]) -> None:
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self._lock.close()
      raise UserError(
        f"another process is computing {self._folder}; wait for it, or name"
        " another --out."
      ) from None
    path = os.path.join(self._folder, _JOB)
    if not os.path.exists(path):
      self._delete_parts()  # Nobody knows whose they are.
      files.write_json(path, job)
      return
    with open(path) as file:
      told = differences(json.load(file), job)
    if told:
      self._lock.close()
      raise UserError(
        f"{self._folder} holds the parts of another job: {told}; finish it with"
        " its own flags, delete the folder, or name another --out."
      )

  def __enter__(self) -> "Parts":
    return self

  def __exit__(self, *_) -> None:
    self._lock.close()

  def number_of(self, place: int) -> int:
    """Number of the part that a picture belongs to."""
    return place // self._size

  def range(self, number: int) -> range:
    """Places of a part's pictures."""
    start = number * self._size
    return range(start, min(start + self._size, self._total))

  def write(self, number: int, part: Part) -> None:
    """Keeps a part.

    Raises:
      UserError: it cannot be written.
    """
    path = self._path(number)
    try:
      with files.replacing(path) as file:
        np.savez(file, **part._asdict())
    except OSError as error:
      raise _unwritable(path, error) from error

  def __iter__(self) -> Iterator[Part]:
    """The parts in order; all must be there."""
    for number in range(self.count):
      part = self._read(number)
      if part is None:
        raise UserError(
          f"{self._path(number)} cannot be read any more; start again, and it"
          " is computed anew."
        )
      yield part

  def remove(self) -> None:
    """Deletes the folder, once the table is written; the job's name last."""
    self._delete_parts()
    shutil.rmtree(self._folder, ignore_errors=True)

  def _delete_parts(self) -> None:
    for name in os.listdir(self._folder):
      if name.endswith(".npz"):
        os.unlink(os.path.join(self._folder, name))

  @contextlib.contextmanager
  def whole(self, path: str) -> Iterator[BinaryIO]:
    """A file to write into that takes the place of `path` at the end.

    Until then it lies among the parts, where a kill leaves nothing that the
    next start would not write over.

    Raises:
      UserError: it cannot be written.
    """
    temporary = os.path.join(self._folder, "table")
    try:
      with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
    except OSError as error:
      raise _unwritable(path, error) from error

  def _path(self, number: int) -> str:
    return os.path.join(self._folder, f"{number:06d}.npz")

  def _read(self, number: int) -> Part | None:
    """A part; None where there is none, or a disk has damaged it."""
    with contextlib.suppress(
      OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile
    ):
      with (
        open(self._path(number), "rb") as file,
        np.load(file, allow_pickle=False) as arrays,
      ):
        return Part(*(arrays[name] for name in Part._fields))
    return None


def differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
  """In words, where two jobs differ; "" where they do not."""
  return ", ".join(
    f"{key} {held.get(key)!r} there, {wanted.get(key)!r} here"
    for key in dict.fromkeys([*held, *wanted])
    if held.get(key) != wanted.get(key)
  )


def _unwritable(path: str, error: OSError) -> UserError:
  return UserError(
    f"cannot write {path} ({error.strerror or error}); make room or name"
    " another --out. What is computed so far is kept."
  )
