"""Batches of canvases for the train step.

A set that fits into `resident_bytes` is decoded once into one array, which the
trainer keeps on the device: batches are then indices only. Any other set is
read by threads, see `loading`, each picture decoded once an epoch. Either way a
batch is a function of (seed, step), see `order`.
"""

import concurrent.futures
import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from cassle_jax.data import canvas, decode, loading, order, sources
from cassle_jax.data.source import ArraySource, Source
from cassle_jax.errors import AT_LEAST_0, AT_LEAST_1, UserError, Words, require

# What the config section `data` may hold, apart from the set.
RULES = {
  "image_size": AT_LEAST_1,
  "canvas_size": AT_LEAST_0,
  "resident_bytes": AT_LEAST_0,
  "max_pixels": AT_LEAST_1,
  "on_error": Words(("replace", "stop")),
  "threads": AT_LEAST_0,
  "prefetch": AT_LEAST_1,
}


class Pipeline:
  """Endless batches of one set; made by `build`.

  Attributes:
    source: the set.
    num_examples: its size N.
    steps_per_epoch: whole batches in N; the rest of an epoch is dropped.
    canvas_size: side S of the canvases.
    resident: None, or {"image": [N, S, S, 3] uint8, "size": [N, 2] int32,
      "stored": [N, 2] int32} with the true (height, width) of each picture and
      those that it has on its canvas.
    corrupt: indices of the pictures found unreadable so far, in this process.
  """

  def __init__(
    self,
    loader: loading.Loader,
    *,
    resident: bool,
    threads: int,
    prefetch: int,
  ):
    self.source = loader.source
    self.num_examples = len(loader.source)
    self.steps_per_epoch = loader.order.steps_per_epoch
    self.canvas_size = loader.canvas_size
    self.corrupt: set[int] = set()
    self._loader = loader
    self._reading = dict(threads=threads, prefetch=prefetch)
    self._open = weakref.WeakSet()
    # Where an unreadable picture's turn comes, this one is shown.
    self._shown = None
    self.resident = self._decode_all() if resident else None

  @property
  def skipped(self) -> int:
    """How many pictures were found unreadable and replaced so far."""
    return len(self.corrupt)

  def batches(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches from a step on; b is the number of this host's rows.

    Args:
      start_step: number of the first batch, which is all that a resumed run
        needs to know.

    Returns:
      An iterator of {"index": [b] int32} where the set is resident, else of
      {"image": [b, S, S, 3] uint8, "size", "stored": [b, 2] int32, "index":
      [b] int32}. An index is that of the picture shown, also where it replaces
      another.

    Raises:
      UserError: (while iterating) an unreadable picture with on_error="stop",
        or nothing but unreadable pictures.
    """
    decoded = self.resident is None
    make = self._decoded_batches if decoded else self._resident_batches
    return self._opened(make(start_step))

  def device_batches(
    self, start_step: int, put: Callable[[dict[str, np.ndarray]], Any]
  ) -> Iterator[tuple[Any, np.ndarray]]:
    """As `batches`, on the device, with memory of the host that is used again.

    The memory of a batch is filled anew once its copy to the device is
    complete, which is waited for when the next batch is asked for.

    Args:
      start_step: number of the first batch.
      put: copies one of `batches` to the device, behind the caller's back if it
        likes, and returns JAX arrays.

    Returns:
      An iterator of what `put` returned, and the batch's index on the host.
    """
    decoded = self.resident is None
    make = self._recycled_batches if decoded else self._put_batches
    return self._opened(make(start_step, put))

  def _opened(self, batches):
    self._open.add(batches)
    return batches

  def close(self) -> None:
    """Stops the reading threads of all open iterators."""
    for batches in list(self._open):
      batches.close()

  def _resident_batches(self, step: int):
    while True:
      index = self._loader.wanted(step)
      yield {"index": index if self._shown is None else self._shown[index]}
      step += 1

  def _put_batches(self, step: int, put):
    for batch in self._resident_batches(step):
      yield put(batch), batch["index"]

  def _decoded_batches(self, step: int):
    with contextlib.closing(self._ahead(step)) as ahead:
      while True:
        yield self._shown_of(next(ahead))

  def _recycled_batches(self, step: int, put):
    with contextlib.closing(self._ahead(step)) as ahead:
      before = None
      while True:
        batch = next(ahead)
        shown = self._shown_of(batch)
        index = shown["index"].copy()
        copied = put(shown)
        if before is not None:
          ahead.give_back(*before)
        before = batch, copied
        yield copied, index

  def _ahead(self, step: int) -> loading.Ahead:
    return loading.Ahead(self._loader, step, **self._reading)

  def _shown_of(self, batch: loading.Batch) -> dict[str, np.ndarray]:
    """A batch without what its rows wanted, which is accounted for."""
    self._account(batch["index"], batch["wanted"])
    return {key: each for key, each in batch.items() if key != "wanted"}

  def _decode_all(self) -> dict[str, np.ndarray]:
    total, side = self.num_examples, self.canvas_size
    square = self.source.shape == (side, side)
    if square and isinstance(self.source, ArraySource):
      sizes = np.full((total, 2), side, np.int32)
      return {"image": self.source.images, "size": sizes, "stored": sizes}
    images = np.zeros((total, side, side, 3), np.uint8)
    sizes, stored = np.ones((2, total, 2), np.int32)

    def decode_one(index: int) -> bool:
      try:
        sizes[index], stored[index] = self.source.place(index, images[index])
      except decode.CorruptImage:
        return False
      return True

    with concurrent.futures.ThreadPoolExecutor(
      self._reading["threads"]
    ) as pool:
      good = np.fromiter(pool.map(decode_one, range(total)), bool, total)
    if not good.all():
      self._shown = self._replacements(good)
    return {"image": images, "size": sizes, "stored": stored}

  def _replacements(self, good: np.ndarray) -> np.ndarray:
    """[N] int32: each picture's index, or that of the next readable one."""
    if not self._loader.replace:
      self._stop(int(np.argmin(good)))
    wanted = np.arange(len(good), dtype=np.int32)
    if good.any():
      following = np.flatnonzero(good)
      place = np.searchsorted(following, wanted) % len(following)
      shown = following[place].astype(np.int32)
    else:
      shown = np.full(len(good), -1, np.int32)
    # Every host has decoded all of them.
    self._account(shown, wanted, tell=0 in self._loader.rows)
    return shown

  def _account(
    self, shown: np.ndarray, wanted: np.ndarray, *, tell: bool = True
  ) -> None:
    """Names and counts, once each, the pictures that were passed over."""
    for i in np.flatnonzero(shown != wanted):
      first, used = int(wanted[i]), int(shown[i])
      if used < 0:
        self._stop(first)
      index = first
      while index != used:
        if index not in self.corrupt:
          self.corrupt.add(index)
          if tell:
            where = self.source.locate(index)
            logging.warning("Skipped %s: %s.", where, self._reason(index))
        index = (index + 1) % self.num_examples

  def _stop(self, index: int) -> None:
    where = f"{self.source.locate(index)}: {self._reason(index)}"
    if not self._loader.replace:
      raise UserError(
        f"unreadable picture {where}. Repair or remove it, or set "
        'data.on_error="replace".'
      )
    count = min(self.num_examples, loading.MAX_IN_A_ROW)
    what = "all" if count == self.num_examples else f"{count} in a row of the"
    raise UserError(
      f"{what} {self.num_examples} pictures of {self.source.name} are "
      f"unreadable, the first {where}."
    )

  def _reason(self, index: int) -> str:
    try:
      self.source.picture(index)
    except (decode.CorruptImage, OSError) as error:
      return str(error)
    return "unreadable a moment ago"


def build(
  *,
  source: str | Source = "bundled:earth",
  split: str = "train",
  image_size: int = 32,
  canvas_size: int = 0,
  seed: int = 0,
  batch_size: int = 256,
  class_list: str = "",
  data_dir: str = "",
  resident_bytes: int = 2 * 2**30,
  on_error: str = "replace",
  max_pixels: int | None = None,
  threads: int = 0,
  prefetch: int = 2,
  allow_change: bool = False,
  rows: Sequence[int] | None = None,
) -> Pipeline:
  """Builds the input of a run.

  Args:
    source: what `open_source` opens, or an open source.
    split: which part of it.
    image_size: side of the views that will be cut from the canvases, in pixels.
    canvas_size: side of the canvases; 0 takes 16/7 x `image_size` (512 for
      224), or the pictures' own size where that is known and smaller.
      Pictures keep their pixels, larger ones are shrunk to fit.
    seed: fixes the order of all epochs.
    batch_size: global batch, over all hosts.
    class_list: text file of class names, one a line: only these are taken.
    data_dir: where TFDS sets lie; "" is TFDS's default.
    resident_bytes: a set whose canvases need at most this much is decoded once
      and kept in memory (and by the trainer on the device); 0 never.
    on_error: "replace" shows the next picture for an unreadable one, names it
      once in a warning and counts it; "stop" ends the run naming it.
    max_pixels: that a picture may have; larger ones are unreadable. None is
      89 million.
    threads: reading threads; 0 takes two a core, at most 32.
    prefetch: batches that are being filled or wait; two more are on their way
      to the device.
    allow_change: whether a run goes on where its pictures are no longer those
      that it began with. Looked at by the trainer, which knows both.
    rows: which rows of the global batch this host yields; None means all.

  Raises:
    UserError: anything that the user can put right, in one line.
  """
  del allow_change
  require(
    "data",
    RULES,
    image_size=image_size,
    canvas_size=canvas_size,
    resident_bytes=resident_bytes,
    on_error=on_error,
    max_pixels=max_pixels,
    threads=threads,
    prefetch=prefetch,
  )
  decode.limit_pixels(max_pixels)
  if isinstance(source, str):
    source = sources.open_source(
      source, split, class_list=class_list, data_dir=data_dir
    )
  side = canvas_size or canvas.rule(image_size)
  if source.shape and not source.longest and not canvas_size:
    side = min(side, max(source.shape))
  elif source.longest and not canvas_size:
    side = min(side, 32 * math.ceil(source.longest / 32))
  ordered = order.Order(len(source), batch_size, seed, source.blocks)
  if source.blocks:
    source.keep(ordered.blocks_at_once)
  loader = loading.Loader(
    source=source,
    order=ordered,
    canvas_size=side,
    rows=np.arange(batch_size) if rows is None else np.asarray(rows),
    replace=on_error == "replace",
  )
  return Pipeline(
    loader,
    resident=len(source) * side * side * 3 <= resident_bytes,
    threads=threads or decode.default_threads(),
    prefetch=prefetch,
  )
