"""Files that are whole: a reader sees the old one or the new one."""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
  """A file to write into that takes the place of `path` at the end.

  An error in between, of a full disk say, leaves the old file as it was.

  Args:
    path: the file; its folder must exist.
  """
  handle, temporary = tempfile.mkstemp(
    prefix=f".{os.path.basename(path)}.",
    suffix=".tmp",
    dir=os.path.dirname(os.path.abspath(path)),
  )
  try:
    with os.fdopen(handle, "wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    # mkstemp makes private files; results are as readable as others.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary, 0o666 & ~mask)
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)
    raise


def write(path: str, data: bytes) -> None:
  """Writes a file; see `replacing`."""
  with replacing(path) as file:
    file.write(data)


def write_json(path: str, value: Any) -> None:
  """Writes JSON; see `replacing`.

  Args:
    path: the file; its folder must exist.
    value: what `json` takes, numpy and JAX scalars, and NaN (becomes null).
  """
  text = json.dumps(plain(value), indent=2, allow_nan=False) + "\n"
  write(path, text.encode())


def plain(value: Any) -> Any:
  """Turns numbers and containers into what strict JSON can hold.

  NaN and infinities become None: JSON has no word for them.
  """
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if hasattr(value, "__array__"):
    return plain(np.asarray(value).astype(object).tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
