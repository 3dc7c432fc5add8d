"""Parquet as the Hugging Face hub has it: `data.source=parquet:PATTERN`.

A column `image` holds files (bytes, or a struct with `bytes`), `label` classes.
Parquet is read a row group at a time, some hundred pictures, so a run takes row
groups in random order and shuffles within a window of several: see
`order.windowed`. The order stays a function of seed and step. For batches from
all over a set that is sorted by class, prepare it (`cassle_jax.prepare`).

Needs pyarrow.
"""

import collections
import concurrent.futures
import json
import os
import threading
from collections.abc import Sequence

import numpy as np

from cassle_jax.data import decode, loading
from cassle_jax.data.source import EncodedSource
from cassle_jax.errors import UserError

_IMAGES, _LABELS = (
  ("image", "img", "picture"),
  ("label", "labels", "fine_label"),
)


class ParquetSource(EncodedSource):
  """The rows of several files, one after another."""

  def __init__(self, paths: Sequence[str], *, name: str, split: str):
    """Reads what the files say of themselves, and the labels.

    Raises:
      UserError: no pyarrow, no such column, or a file is damaged.
    """
    try:
      import pyarrow  # noqa: F401
    except ImportError as error:
      raise UserError(
        f"{name} needs pyarrow: pip install 'cassle_jax[parquet]'."
      ) from error
    self.name, self.split = name, split
    self._paths = list(paths)
    self._column, label, self.class_names = _columns(self._paths[0])

    def facts(place: int) -> tuple[list[int], np.ndarray | None]:
      return _facts(self._paths[place], self._column, label)

    threads = decode.default_threads()
    held = list(loading.ordered(facts, range(len(self._paths)), threads))
    # Row group -> file, and its number there.
    self._groups = [
      (file, number)
      for file, (counts, _) in enumerate(held)
      for number in range(len(counts))
    ]
    counts = [count for counts, _ in held for count in counts]
    self._ends = np.cumsum(counts, dtype=np.int64)
    self.blocks = tuple(self._ends.tolist())
    if not sum(counts):
      raise UserError(f"{name} holds no row.")
    if label:
      self._labels = np.concatenate([each for _, each in held])
    self._lock = threading.Lock()
    self._held: collections.OrderedDict = collections.OrderedDict()
    self._limit = 4

  def __len__(self) -> int:
    return self.blocks[-1]

  def keep(self, blocks: int) -> None:
    """Holds so many row groups in memory, those that were used last."""
    self._limit = max(self._limit, blocks)

  def encoded(self, index: int) -> bytes:
    group, row = self._find(index)
    data = self._rows(group)[row].as_py()
    if not data:
      raise decode.CorruptImage("the row holds no bytes")
    return data

  def locate(self, index: int) -> str:
    group, row = self._find(index)
    file, number = self._groups[group]
    return f"row {row} of row group {number} of {self._paths[file]}"

  def facts(self) -> list[bytes]:
    return [
      f"{os.path.basename(path)} {os.path.getsize(path)}".encode()
      for path in self._paths
    ]

  def _find(self, index: int) -> tuple[int, int]:
    group = int(np.searchsorted(self._ends, index, side="right"))
    start = self.blocks[group - 1] if group else 0
    return group, int(index) - start

  def _rows(self, group: int):
    """The files of one row group; read once by whoever asks first."""
    with self._lock:
      future = self._held.get(group)
      first = future is None
      if first:
        future = self._held[group] = concurrent.futures.Future()
        while len(self._held) > self._limit:
          self._held.popitem(last=False)
      self._held.move_to_end(group)
    if first:
      try:
        future.set_result(self._read(group))
      except BaseException as error:
        with self._lock:
          self._held.pop(group, None)
        future.set_exception(error)
    return future.result()

  def _read(self, group: int):
    from pyarrow import ArrowException, parquet

    file, number = self._groups[group]
    try:
      with parquet.ParquetFile(self._paths[file]) as opened:
        table = opened.read_row_group(
          number, columns=[self._column], use_threads=False
        )
    except (ArrowException, FileNotFoundError) as error:
      raise decode.CorruptImage(str(error).splitlines()[0]) from error
    column = table.column(0).combine_chunks()
    return column.field("bytes") if hasattr(column, "field") else column


def _columns(path: str) -> tuple[str, str, tuple[str, ...]]:
  """The columns of pictures and of labels ("" for none), and class names."""
  from pyarrow import types

  schema = _open(path).schema_arrow
  name = next((each for each in _IMAGES if each in schema.names), None)
  if name is None:
    raise UserError(
      f"{path} has no column `image`; it has {', '.join(schema.names)}."
    )
  kind = schema.field(name).type
  column = f"{name}.bytes" if types.is_struct(kind) else name
  label = next(
    (
      each
      for each in _LABELS
      if each in schema.names and types.is_integer(schema.field(each).type)
    ),
    "",
  )
  return column, label, _class_names(schema.metadata or {}, label)


def _class_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
  """Those that the hub's own writer put beside the schema."""
  try:
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    return tuple(map(str, features[label]["names"]))
  except (KeyError, ValueError, TypeError):
    return ()


def _facts(path, column, label) -> tuple[list[int], np.ndarray | None]:
  """Rows of each row group, and all labels; an absent label is -1."""
  opened = _open(path)
  with opened:
    facts = opened.metadata
    counts = [
      facts.row_group(each).num_rows for each in range(facts.num_row_groups)
    ]
    names = opened.schema_arrow.names
    for each in (column.partition(".")[0], label):
      if each and each not in names:
        raise UserError(f"{path} has no column `{each}` as other files have.")
    if not label:
      return counts, None
    values = opened.read(columns=[label]).column(0).fill_null(-1)
    return counts, values.to_numpy().astype(np.int32)


def _open(path: str):
  from pyarrow import ArrowException, parquet

  try:
    return parquet.ParquetFile(path)
  except (ArrowException, OSError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(f"{path} cannot be read as Parquet ({reason}).") from error
