"""Reading ahead: threads decode straight into the rows of batches to come.

What a place of the stream holds is a function of its number alone. A batch is
one block of memory; threads take runs of its rows, decode and write each
picture where it belongs, so nothing is stacked or copied again. Decoding,
reading and copying release Python's lock: threads scale with the cores, and no
processes are needed.
"""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cassle_jax.data import decode
from cassle_jax.data.canvas import Size
from cassle_jax.data.order import Order
from cassle_jax.data.source import Source

# A run of unreadable pictures this long is a wrong folder or a lost disk.
MAX_IN_A_ROW = 1000
# Pictures that a thread decodes in a row: hand-overs hold Python's lock.
_RUN = 16

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Loader:
  """Writes the pictures of this host's endless stream into batches.

  It never raises for a picture that cannot be decoded but takes the next one
  and tells which one it wanted, so that counting and naming happen in one
  place, whatever thread read it.
  """

  source: Source
  order: Order
  canvas_size: int
  rows: np.ndarray
  replace: bool

  def wanted(self, step: int) -> np.ndarray:
    """The images of this host's rows of one step: [b] int32."""
    return self.order.batch(step)[self.rows]

  def empty(self) -> Batch:
    """Memory for one batch."""
    rows, side = len(self.rows), self.canvas_size
    return {
      "image": np.empty((rows, side, side, 3), np.uint8),
      "size": np.empty((rows, 2), np.int32),
      "stored": np.empty((rows, 2), np.int32),
      "index": np.empty(rows, np.int32),
      "wanted": np.empty(rows, np.int32),
    }

  def fill(self, batch: Batch, first: int, last: int) -> None:
    """Reads the pictures that rows first to last - 1 of a batch want."""
    part = slice(first, last)
    # Numbers are written a run at a time: NumPy holds Python's lock.
    rows = [
      self._place(wanted, canvas)
      for wanted, canvas in zip(
        batch["wanted"][part].tolist(), batch["image"][part], strict=True
      )
    ]
    names = ("index", "size", "stored")
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
      batch[name][part] = values

  def _place(self, wanted: int, canvas: np.ndarray) -> tuple[int, Size, Size]:
    """Puts a picture or its stand-in on a canvas: which, and its sizes."""
    total = len(self.source)
    tries = min(total, MAX_IN_A_ROW) if self.replace else 1
    for offset in range(tries):
      index = (wanted + offset) % total
      try:
        return index, *self.source.place(index, canvas)
      except decode.CorruptImage:
        continue
    return -1, (1, 1), (1, 1)


class Ahead:
  """An endless iterator of batches, some of which are filled ahead.

  A batch that `next` returned is the caller's for good, unless it comes back by
  `give_back`: its memory is then filled anew.
  """

  def __init__(self, loader: Loader, step: int, *, threads: int, prefetch: int):
    """Starts to read.

    Args:
      loader: of the pictures.
      step: of the first batch.
      threads: that read.
      prefetch: batches that are being filled or wait.
    """
    self._loader, self._step = loader, step
    self._pool = concurrent.futures.ThreadPoolExecutor(threads, "pictures")
    self._run = min(_RUN, -(-len(loader.rows) // threads))
    self._waiting = collections.deque()
    self._free: list[Batch] = []
    for _ in range(prefetch):
      self._submit()

  def __next__(self) -> Batch:
    batch, parts = self._waiting.popleft()
    self._submit()
    for part in parts:
      part.result()
    return batch

  def give_back(self, batch: Batch, copied: Any) -> None:
    """Takes a batch's memory back once nothing reads it any more.

    Args:
      batch: from `next`; the caller keeps no part of it.
      copied: what it was copied to, a tree of JAX arrays. This waits until the
        copies are complete. An array that is no copy but shares the memory, as
        arrays on a CPU may, keeps it.
    """
    if not _shares_memory(copied, batch):
      self._free.append(batch)

  def close(self) -> None:
    """Ends the threads; they finish the pictures that they are at."""
    self._pool.shutdown(cancel_futures=True)

  def _submit(self) -> None:
    batch = self._free.pop() if self._free else self._loader.empty()
    batch["wanted"][:] = self._loader.wanted(self._step)
    self._step += 1
    rows = len(self._loader.rows)
    parts = [
      self._pool.submit(
        self._loader.fill, batch, first, min(first + self._run, rows)
      )
      for first in range(0, rows, self._run)
    ]
    self._waiting.append((batch, parts))


def _shares_memory(arrays: Any, batch: Batch) -> bool:
  """Waits for arrays; whether one of them lies in a batch's memory."""
  import jax

  held = [
    (each.ctypes.data, each.ctypes.data + each.nbytes)
    for each in batch.values()
  ]
  for array in jax.tree.leaves(jax.block_until_ready(arrays)):
    for shard in array.addressable_shards:
      if shard.device.platform == "cpu":
        place = shard.data.unsafe_buffer_pointer()
        if any(first <= place < last for first, last in held):
          return True
  return False


def ordered(
  function: Callable[[int], Any],
  items: Iterable[int],
  threads: int,
  ahead: int = 0,
) -> Iterator[Any]:
  """Yields function(item) in order, computed a little ahead in threads.

  Args:
    function: of an item.
    items: in the order wanted.
    threads: that compute.
    ahead: results that may wait; 0 takes four a thread.
  """
  ahead = ahead or 4 * threads
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    waiting = collections.deque()
    try:
      for item in items:
        waiting.append(pool.submit(function, int(item)))
        if len(waiting) > ahead:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for each in waiting:
        each.cancel()
