"""What a run tells its user: metrics files, a progress bar, one-line notes.

Only process 0 writes. Nothing here waits for the device: rates are measured on
results that have already arrived.
"""

import collections
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

_PACKAGES = (
  "cassle_jax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "numpy",
)
METRICS = "metrics.jsonl"
# Bytes of lines that wait for space on a full disk.
_WAITING = 2**24


def say(text: str) -> None:
  """Prints one line on stderr, above a progress bar if there is one."""
  if jax.process_index() == 0:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def atomic_write_json(path: str, value: Any) -> None:
  """Writes JSON so that a reader sees the old file or the new one.

  Args:
    path: the file; its folder must exist.
    value: what `json` takes, numpy and JAX scalars, and NaN (becomes null).
  """
  text = json.dumps(plain(value), indent=2, allow_nan=False) + "\n"
  atomic_write_text(path, text)


def atomic_write_text(path: str, text: str) -> None:
  """Writes text so that a reader sees the old file or the new one."""
  _atomic_write(path, text.encode())


def plain(value: Any) -> Any:
  """Turns numbers and containers into what strict JSON can hold.

  NaN and infinities become None: JSON has no word for them.
  """
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, jax.Array | np.ndarray | np.generic):
    return plain(np.asarray(value).astype(object).tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


class MetricsLogger:
  """Appends metrics to `metrics.jsonl` and to TensorBoard's event files.

  A line is one JSON object that starts with "step" and is written by one call,
  so a killed run leaves at most a broken last line. Log a step before saving
  its checkpoint: then a resumed file holds the lines of an uninterrupted one.
  A full disk ends no run: lines wait until there is space again.
  """

  def __init__(
    self,
    run_folder: str,
    *,
    tensorboard: bool = True,
    resume_step: int | None = None,
  ):
    """Opens the files of a run.

    Args:
      run_folder: the run's folder; created if need be.
      tensorboard: whether to write event files too; without the package
        tensorboardX one line says so and the run goes on.
      resume_step: the step of the restored checkpoint: lines of later steps
        are dropped. None starts a new file. Lines with "goodput" stay in
        either case: the time was spent.
    """
    self._file = None
    self._writer = None
    self._waiting = b""
    self._full = False
    if jax.process_index() != 0:
      return
    os.makedirs(run_folder, exist_ok=True)
    path = os.path.join(run_folder, METRICS)
    kept = _lines_until(path, -1 if resume_step is None else resume_step)
    _atomic_write(path, b"".join(kept))
    self._file = open(path, "ab", buffering=0)
    if tensorboard:
      self._writer, self._events = _event_writer(
        os.path.join(run_folder, "tensorboard"), resume_step
      )

  def log(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes one line.

    Args:
      step: training steps done.
      metrics: name -> Python, numpy or JAX number (fetching a JAX one waits
        for it), or a string.
    """
    if self._file is None:
      return
    record = {"step": int(step)} | plain(metrics)
    line = json.dumps(record, allow_nan=False) + "\n"
    self._waiting = (self._waiting + line.encode())[-_WAITING:]
    self._flush()
    if self._writer is not None and self._events.failed:
      self._writer = None  # The next start begins another file.
      say("TensorBoard's files end here: they cannot be written")
    if self._writer is not None:
      for name, value in record.items():
        number = isinstance(value, int | float) and name != "step"
        if number:
          self._writer.add_scalar(name, value, int(step))

  def close(self) -> None:
    """Closes the files; a second call does nothing."""
    if self._file is not None:
      self._flush()
      self._file.close()
      self._file = None
    if self._writer is not None:
      self._writer.close()
      self._writer = None

  def _flush(self) -> None:
    """Writes what waits, as far as there is space; says once if there is not.

    Only the part of a line that is on disk is taken off, so that the rest of
    it follows where it belongs.
    """
    try:
      while self._waiting:
        self._waiting = self._waiting[self._file.write(self._waiting) :]
      self._full = False
    except OSError as error:
      if not self._full:
        say(f"{METRICS} cannot be written ({error.strerror}); its lines wait")
      self._full = True

  def __enter__(self) -> "MetricsLogger":
    return self

  def __exit__(self, *_) -> None:
    self.close()


class Throughput:
  """Images per second over the steps that the device finished lately.

  JAX returns from a step before the device has run it, so the time between two
  calls says nothing. Each step hands in one of its outputs; the clock is read
  when that output is found ready, never by waiting for it.
  """

  def __init__(self, batch_size: int, *, window_seconds: float = 20.0):
    """Starts with no measurement.

    Args:
      batch_size: images in a step, over all devices.
      window_seconds: how far back steps count.
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
    enabled: bool = True,
  ):
    """Opens the bar.

    Args:
      total_steps: steps in the whole run.
      batch_size: images in a step, over all devices.
      initial: steps done before this process started.
      interval: seconds between lines where stderr is no terminal.
      enabled: False shows nothing but still measures.
    """
    self.throughput = Throughput(batch_size)
    self._total = total_steps
    self._step = initial
    self._interval = interval
    self._shown_step = None
    self._next_line = 0.0
    self._enabled = enabled and jax.process_index() == 0
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

  def restart_clock(self) -> None:
    """Leaves a pause (an evaluation) out of the images per second."""
    self.throughput.restart()

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
      parts += [f"{_count(rate)} images/s", f"ETA {_duration(left)}"]
    text = "  ".join(parts)
    if self._bar is not None:
      self._bar.n = step
      self._bar.set_postfix_str(text)
    else:
      share = 100 * step / max(self._total, 1)
      say(f"step {step}/{self._total} ({share:.0f}%)  {text}".rstrip())
    self._shown_step = step


def stamp() -> dict[str, Any]:
  """Describes the software and the devices that made a result.

  Returns:
    "device" (kind of the first device), "platform", "devices" and "processes"
    (counts), "python" and "versions" (package -> version).
  """
  return {
    "device": jax.devices()[0].device_kind,
    "platform": jax.default_backend(),
    "devices": jax.device_count(),
    "processes": jax.process_count(),
    "python": platform.python_version(),
    "versions": versions(_PACKAGES),
  }


def versions(packages: Sequence[str]) -> dict[str, str]:
  """Package -> version of those that are installed."""
  found = {}
  for package in packages:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[package] = importlib.metadata.version(package)
  return found


def _ready(output: Any) -> bool:
  return not isinstance(output, jax.Array) or output.is_ready()


def _count(rate: float) -> str:
  return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _duration(seconds: float) -> str:
  minutes, second = divmod(round(max(seconds, 0.0)), 60)
  hours, minute = divmod(minutes, 60)
  return f"{hours}:{minute:02d}:{second:02d}"


def _lines_until(path: str, step: int) -> list[bytes]:
  """Returns the whole lines of `path` that a run from `step` on keeps."""
  if not os.path.exists(path):
    return []
  kept = []
  with open(path, "rb") as file:
    for line in file:
      try:
        record = json.loads(line)
        recent = record["step"] > step and "goodput" not in record
      except (ValueError, KeyError, TypeError):
        continue
      if line.endswith(b"\n") and not recent:
        kept.append(line)
  return kept


def _atomic_write(path: str, data: bytes) -> None:
  """Replaces a file in one move; a full disk leaves the old one as it was."""
  folder = os.path.dirname(os.path.abspath(path))
  handle, temporary = tempfile.mkstemp(
    prefix=os.path.basename(path) + ".", suffix=".tmp", dir=folder
  )
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    # mkstemp makes private files; a run's results are as readable as others.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary, 0o666 & ~mask)
    os.replace(temporary, path)
  except BaseException:
    if os.path.exists(temporary):
      os.unlink(temporary)
    raise


class _Events:
  """TensorBoard's file, which must not raise in the thread that writes it.

  That thread would end, its queue of ten fill up, and the run hang for good.

  Attributes:
    failed: whether something could not be written.
  """

  def __init__(self, file: Any):
    self._file = file
    self.failed = False

  def __getattr__(self, name: str) -> Any:
    function = getattr(self._file, name)

    def quiet(*arguments: Any) -> Any:
      # What follows a torn record could not be read.
      if not self.failed or name == "close":
        try:
          return function(*arguments)
        except OSError:
          self.failed = True
      return None

    return quiet


def _event_writer(
  folder: str, resume_step: int | None
) -> tuple[Any, _Events | None]:
  """Opens TensorBoard's event file, or says why there is none."""
  try:
    from tensorboardX import SummaryWriter
  except ImportError:
    say("no TensorBoard files: install tensorboardX to get them")
    return None, None
  purge = None if resume_step is None else resume_step + 1
  # The suffix tells apart two files that are opened within one second.
  writer = SummaryWriter(
    folder, purge_step=purge, filename_suffix=f".{resume_step or 0}"
  )
  inner = writer.file_writer.event_writer
  events = _Events(inner._ev_writer)
  inner._ev_writer = inner._worker._record_writer = events
  return writer, events
