"""What a run tells its user: metrics files and one-line notes.

Only process 0 writes.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cassle_jax.errors import UserError
from cassle_jax.runs import files

_PACKAGES = (
  "cassle_jax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "pillow",
  "numpy",
)
METRICS = "metrics.jsonl"
# Bytes of lines that wait for space on a full disk.
_WAITING = 2**24


def say(text: str) -> None:
  """Prints one line on stderr, above a progress bar if there is one."""
  if jax.process_index() == 0:
    from tqdm import tqdm

    # A terminal that was closed, or a reader of a pipe, ends no run.
    with contextlib.suppress(OSError):
      tqdm.write(text, file=sys.stderr)


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

    Raises:
      UserError: the metrics file cannot be opened, or cut where that is due.
    """
    self._file = None
    self._writer = None
    self._waiting = b""
    self._full = False
    if jax.process_index() != 0:
      return
    path = os.path.join(run_folder, METRICS)
    try:
      os.makedirs(run_folder, exist_ok=True)
      kept = _lines_until(path, -1 if resume_step is None else resume_step)
      self._file = open(path, "ab", buffering=0)
      if sum(map(len, kept)) != self._file.tell():
        self._file.close()
        files.write(path, b"".join(kept))
        self._file = open(path, "ab", buffering=0)
    except OSError as error:
      raise UserError(
        f"{path} cannot be written ({error.strerror}). Free some space, or name"
        " a folder that you can write to; the same command then continues."
      ) from error
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
    record = {"step": int(step)} | files.plain(metrics)
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

  def sync(self) -> None:
    """Waits until the lines are on disk, or in the bucket that is mounted.

    A checkpoint that outlives its machine would otherwise have steps whose
    lines did not.
    """
    if self._file is not None:
      with contextlib.suppress(OSError):
        os.fsync(self._file.fileno())

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


class _Events:
  """TensorBoard's file, which must not raise in the thread that writes it.

  That thread would end, its queue of ten fill up, and the run hang for good.
  `failed` tells that something could not be written.
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
  try:
    # The suffix tells apart two files that are opened within one second.
    writer = SummaryWriter(
      folder, purge_step=purge, filename_suffix=f".{resume_step or 0}"
    )
  except OSError as error:
    say(f"no TensorBoard files: they cannot be written ({error.strerror})")
    return None, None
  inner = writer.file_writer.event_writer
  events = _Events(inner._ev_writer)
  inner._ev_writer = inner._worker._record_writer = events
  return writer, events
