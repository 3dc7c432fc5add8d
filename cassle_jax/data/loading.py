"""Reading ahead: one picture after the other, in threads or processes.

Grain's Dataset API does the work; what a place of the stream holds is a
function of its number alone.
"""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator

import numpy as np

from cassle_jax.data import decode
from cassle_jax.data.order import Order
from cassle_jax.data.source import Source

# A run of unreadable pictures this long is a wrong folder or a lost disk.
MAX_IN_A_ROW = 1000


@dataclasses.dataclass(frozen=True)
class Loader:
  """Picture number `place` of this host's endless stream, on a canvas.

  It never raises for a picture that cannot be decoded but takes the next one
  and tells which one it wanted, so that counting and naming happen in one
  place, whatever thread or process read it.
  """

  source: Source
  order: Order
  canvas_size: int
  rows: np.ndarray
  replace: bool

  def wanted(self, step: int) -> np.ndarray:
    """The images of this host's rows of one step: [b] int32."""
    return self.order.batch(step)[self.rows]

  def __call__(self, place: int) -> dict[str, np.ndarray]:
    step, row = divmod(place, len(self.rows))
    wanted = int(self.order.batch(step)[self.rows[row]])
    total = len(self.source)
    tries = min(total, MAX_IN_A_ROW) if self.replace else 1
    for offset in range(tries):
      index = (wanted + offset) % total
      image = np.empty((self.canvas_size, self.canvas_size, 3), np.uint8)
      try:
        size, stored = self.source.place(index, image)
      except decode.CorruptImage:
        continue
      return _element(image, size, stored, index, wanted)
    blank = np.zeros((self.canvas_size, self.canvas_size, 3), np.uint8)
    return _element(blank, (1, 1), (1, 1), -1, wanted)


def _element(image, size, stored, index, wanted) -> dict[str, np.ndarray]:
  return {
    "image": image,
    "size": np.array(size, np.int32),
    "stored": np.array(stored, np.int32),
    "index": np.int32(index),
    "wanted": np.int32(wanted),
  }


def batches(
  loader: Loader, step: int, *, threads: int, prefetch: int, workers: int
) -> Iterator[dict[str, np.ndarray]]:
  """Endless stacked batches of a loader's rows; to be closed.

  Args:
    loader: of the pictures.
    step: of the first batch.
    threads: that read, in each worker process if there are any.
    prefetch: finished batches that wait (in each worker).
    workers: worker processes; 0 reads in threads alone.
  """
  import grain
  from absl import flags

  local = len(loader.rows)
  images = grain.MapDataset.range(step * local, 2**62).map(loader)
  if workers:
    # Grain hands absl flags to its workers and refuses if nobody parsed them.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    # Whole batches cross the process boundary: one copy each, and Grain
    # hands them back in order whatever the number of workers.
    ahead = (
      images.batch(local)
      .to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
      )
      .mp_prefetch(
        grain.MultiprocessingOptions(
          num_workers=workers, per_worker_buffer_size=prefetch
        ),
        worker_init_fn=_start_worker,
      )
    )
  else:
    options = grain.ReadOptions(
      num_threads=threads, prefetch_buffer_size=max(64, 4 * threads)
    )
    ahead = grain.experimental.ThreadPrefetchIterDataset(
      images.to_iter_dataset(options).batch(local),
      prefetch_buffer_size=prefetch,
    )
  return iter(ahead)


def _start_worker(index: int, count: int) -> None:
  """Set-up of a Grain worker process."""
  del index, count
  import signal
  import sys

  # A scheduler signals the whole group; the trainer decides when to end.
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  if "jax" in sys.modules:
    # Should anything touch a device here, it must not take the accelerator.
    sys.modules["jax"].config.update("jax_platforms", "cpu")
  parent = os.getppid()

  def watch():
    # Killed with SIGKILL, a trainer cannot stop its workers.
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
