"""A progress bar, and images per second of a device that runs ahead.

Nothing here waits for the device: rates are measured on results that have
already arrived.
"""

import collections
import sys
import time
from typing import Any

import jax

from cassle_jax.runs.logs import say


class Throughput:
  """Images per second over the steps that the device finished lately.

  JAX returns from a step before the device has run it, so the time between two
  calls says nothing. Each step hands in one of its outputs; the clock is read
  when that output is found ready, never by waiting for it.
  """

  def __init__(self, batch_size: int, *, window_seconds: float = 20.0):
    """Starts with no measurement.

    Steps count for so many seconds; the batch is that of all devices.
    """
    self._batch_size = batch_size
    self._window = window_seconds
    self._pending: collections.deque = collections.deque()
    self._finished: collections.deque = collections.deque()
    self.latest: tuple[int, Any] | None = None

  def add(self, step: int, output: Any = None) -> None:
    """Notes that `step` was started; `output` is an array it will produce."""
    self._pending.append((step, output))
    self.poll()

  def poll(self) -> None:
    """Notes the time of the steps that have finished since the last call."""
    now = time.monotonic()
    while self._pending and _ready(self._pending[0][1]):
      self.latest = self._pending.popleft()
      self._finished.append((self.latest[0], now))
    while len(self._finished) > 2 and now - self._finished[1][1] > self._window:
      self._finished.popleft()

  def restart(self) -> None:
    """Forgets the past, after a pause that was not training."""
    self._finished.clear()

  @property
  def steps_per_second(self) -> float | None:
    """Steps per second, or None before two steps have finished."""
    if len(self._finished) < 2:
      return None
    (first, begin), (last, end) = self._finished[0], self._finished[-1]
    return (last - first) / (end - begin) if end > begin else None

  @property
  def images_per_second(self) -> float | None:
    """Images per second over all devices, or None as yet."""
    rate = self.steps_per_second
    return None if rate is None else rate * self._batch_size


class ProgressBar:
  """Loss, images per second and time left, on a terminal or in a log file.

  On a terminal it is a tqdm bar. Elsewhere it prints a whole line for the
  first step, then one about every `interval` seconds, then one for the last.
  """

  def __init__(
    self,
    total_steps: int,
    *,
    batch_size: int,
    initial: int = 0,
    interval: float = 30.0,
    noun: str = "step",
  ):
    """Opens the bar.

    Args:
      total_steps: steps in the whole run.
      batch_size: images in a step, over all devices.
      initial: steps done before this process started.
      interval: seconds between lines where stderr is no terminal.
      noun: what is counted.
    """
    self.throughput = Throughput(batch_size)
    self._total = total_steps
    self._step = initial
    self._interval = interval
    self._noun = noun
    self._shown_step = None
    self._next_line = 0.0
    self._enabled = jax.process_index() == 0  # Else it only measures.
    self._bar = None
    if self._enabled and sys.stderr.isatty():
      from tqdm import tqdm

      self._bar = tqdm(
        total=total_steps,
        initial=initial,
        file=sys.stderr,
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
      )

  def update(self, step: int, loss: Any = None) -> None:
    """Notes that `step` steps were started.

    Args:
      step: steps started so far, this one included.
      loss: scalar array of the step. It is shown once the device has made it.
    """
    self._step = step
    self.throughput.add(step, loss)
    now = time.monotonic()
    if not self._enabled or now < self._next_line:
      return
    # Until the first result is there, a line would have nothing to say.
    if self._bar is None and self.throughput.latest is None:
      return
    self._next_line = now + (self._interval if self._bar is None else 0.1)
    self._show()

  def close(self) -> None:
    """Shows the last step and closes the bar; a second call does nothing."""
    if not self._enabled:
      return
    self._enabled = False
    self.throughput.poll()
    if self._bar is not None:
      self._show()
      self._bar.close()
    elif self._shown_step != self._step and self.throughput.latest:
      self._show()

  def __enter__(self) -> "ProgressBar":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _show(self) -> None:
    # The step whose loss is shown, which the device may be ahead of.
    step = self.throughput.latest[0] if self.throughput.latest else self._step
    parts = []
    if self.throughput.latest and self.throughput.latest[1] is not None:
      parts.append(f"loss {float(self.throughput.latest[1]):.4f}")
    rate = self.throughput.images_per_second
    if rate is not None:
      left = (self._total - step) / self.throughput.steps_per_second
      parts += [f"{_count(rate)} images/s", f"ETA {duration(left)}"]
    text = "  ".join(parts)
    if self._bar is not None:
      self._bar.n = step
      self._bar.set_postfix_str(text)
    else:
      share = 100 * step / max(self._total, 1)
      say(f"{self._noun} {step}/{self._total} ({share:.0f}%)  {text}".rstrip())
    self._shown_step = step


def _ready(output: Any) -> bool:
  return not isinstance(output, jax.Array) or output.is_ready()


def _count(rate: float) -> str:
  return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def duration(seconds: float) -> str:
  """Hours, minutes and seconds: "1:02:03"."""
  minutes, second = divmod(round(max(seconds, 0.0)), 60)
  hours, minute = divmod(minutes, 60)
  return f"{hours}:{minute:02d}:{second:02d}"
