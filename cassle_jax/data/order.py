"""Which image is where: the order of a run as a function of seed and step.

Every epoch is one permutation of the set, cut into whole batches; what is left
over at its end is dropped, so that each epoch starts at a batch boundary. The
number of hosts, threads and worker processes, and where a run was resumed,
never enter: the batch of a step is a function of (seed, step) alone.
"""

import dataclasses
import functools
import threading

import numpy as np

from cassle_jax.errors import UserError

_lock = threading.Lock()


@functools.lru_cache(maxsize=4)
def _cached(num_examples: int, seed: int, epoch: int) -> np.ndarray:
  key = np.array([seed % 2**64, epoch], np.uint64)
  # `Generator.permutation` may change with NumPy's version. The raw stream of
  # a bit generator does not, and a stable sort of it has one answer.
  draws = np.random.Philox(key=key).random_raw(num_examples)
  order = np.argsort(draws, kind="stable").astype(np.int32)
  order.flags.writeable = False
  return order


def permutation(
  num_examples: int, *, seed: int = 0, epoch: int = 0
) -> np.ndarray:
  """The order of one epoch.

  Args:
    num_examples: size N of the set, below 2**31.
    seed: the run's seed, any integer.
    epoch: number of the epoch, from 0.

  Returns:
    [N] int32, read-only: a permutation of range(N), the same under any version
    of NumPy.
  """
  # Without the lock every reading thread would sort a new epoch for itself.
  with _lock:
    return _cached(num_examples, seed, epoch)


@functools.lru_cache(maxsize=4)
def _windowed(
  ends: tuple[int, ...], window: int, seed: int, epoch: int
) -> np.ndarray:
  ends = np.asarray(ends)
  sizes = np.diff(ends, prepend=0)
  blocks = _cached(len(ends), seed, epoch)
  sizes, first = sizes[blocks], (ends - sizes)[blocks]
  before = np.cumsum(sizes) - sizes
  total = int(ends[-1])
  rows = np.repeat(first - before, sizes) + np.arange(total)
  # Another stream than the blocks': epochs stay below 2**63.
  key = np.array([seed % 2**64, epoch + 2**63], np.uint64)
  draws = np.random.Philox(key=key).random_raw(total)
  place = np.repeat(before // window, sizes)
  # The last key sorts first; equal draws stay as they are.
  order = rows[np.lexsort((draws, place))].astype(np.int32)
  order.flags.writeable = False
  return order


def windowed(
  ends: tuple[int, ...], window: int, *, seed: int = 0, epoch: int = 0
) -> np.ndarray:
  """The order of one epoch of a set that is read in blocks.

  Blocks come in random order, and pictures are shuffled among the blocks that
  begin in the same window: an honest shuffle buffer whose order is known
  beforehand.

  Args:
    ends: where each block of the set ends, rising.
    window: pictures of a window.
    seed: the run's seed, any integer.
    epoch: number of the epoch, from 0.

  Returns:
    [N] int32, read-only: a permutation of range(ends[-1]).
  """
  with _lock:
    return _windowed(ends, window, seed, epoch)


@dataclasses.dataclass(frozen=True)
class Order:
  """Maps (step, place in the batch) to the index of an image.

  Attributes:
    num_examples: size of the set.
    batch_size: global batch, over all hosts.
    seed: the run's seed.
    blocks: None, or where blocks end that are read as a whole; see `windowed`.
  """

  num_examples: int
  batch_size: int
  seed: int
  blocks: tuple[int, ...] | None = None

  def __post_init__(self):
    if self.batch_size < 1:
      raise UserError(
        f"batch_size {self.batch_size} must be at least 1; e.g. 256."
      )
    if self.batch_size > self.num_examples:
      raise UserError(
        f"batch_size {self.batch_size} is more than the {self.num_examples} "
        f"images of the set; use at most {self.num_examples}."
      )

  @property
  def steps_per_epoch(self) -> int:
    return self.num_examples // self.batch_size

  @property
  def window(self) -> int:
    """Pictures of a window, where there are blocks."""
    return max(4096, 4 * self.batch_size)

  @property
  def blocks_at_once(self) -> int:
    """At most so many blocks have pictures in two windows that meet."""
    sizes = np.sort(np.diff(self.blocks, prepend=0))
    # The most that begin in two windows are the smallest.
    return int(np.searchsorted(np.cumsum(sizes), 2 * self.window)) + 2

  def batch(self, step: int) -> np.ndarray:
    """The images of the global batch of one step: [batch_size] int32."""
    epoch, row = divmod(int(step), self.steps_per_epoch)
    if self.blocks is None:
      order = permutation(self.num_examples, seed=self.seed, epoch=epoch)
    else:
      order = windowed(self.blocks, self.window, seed=self.seed, epoch=epoch)
    return order[row * self.batch_size : (row + 1) * self.batch_size]
