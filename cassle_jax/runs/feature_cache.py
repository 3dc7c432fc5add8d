"""Features of a data set, extracted once for a step and kept in the run.

RUN/eval/features/STEP/NAME-SIZE-TYPE.npz holds the features of all pictures
that could be read, and their places in the set; what was computed in another
precision than float32 says so in its name. A file that is not whole, of an
earlier version, or of other weights or pictures, is made again.
"""

import os
import time
import zipfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np

from cassle_jax.errors import UserError, unknown
from cassle_jax.runs import files, logs

TYPES = ("float32", "bfloat16")
# Of how pictures become features: raised when the same weights and pictures
# give others, so that files of before are made again.
VERSION = 1


class Features(NamedTuple):
  """Features of a set.

  Attributes:
    features: [n, d] float32; rounded to bfloat16 where they were kept so.
    answers: [n] int32 labels, or [n, t] float32 targets.
    places: [n] int32, ascending: which pictures of the set these are.
  """

  features: np.ndarray
  answers: np.ndarray
  places: np.ndarray

  def rows(self, places: np.ndarray) -> np.ndarray:
    """Rows of those of `places` that could be read, ascending."""
    return np.flatnonzero(np.isin(self.places, places))

  def take(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and answers of those of `places` that could be read."""
    rows = self.rows(places)
    return self.features[rows], self.answers[rows]


def path_of(
  folder: str,
  step: int,
  name: str,
  size: int,
  dtype: str,
  *,
  precision: str = "float32",
) -> str:
  """Where the features of a set are kept below a run's folder."""
  computed = "" if precision == "float32" else f"-by-{precision}"
  return os.path.join(
    folder,
    "eval",
    "features",
    str(step),
    f"{name}-{size}-{dtype}{computed}.npz",
  )


def cached(
  path: str | None,
  extract: Callable[[np.ndarray], np.ndarray],
  batches: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
  answers: np.ndarray,
  *,
  dtype: str = "float32",
  key: str = "",
) -> Features:
  """Reads the features of a set, or extracts and keeps them.

  Args:
    path: from `path_of`; its folder is made. None keeps nothing.
    extract: images [b, s, s, 3] uint8 -> features [b, d].
    batches: () -> (images, their places in the set), in ascending order.
    answers: [N] or [N, t], of the whole set.
    dtype: what features are kept in, "float32" or "bfloat16" (half the bytes).
    key: tells these weights and pictures from others.

  Raises:
    UserError: unknown type, or no picture can be read.
  """
  if dtype not in TYPES:
    raise unknown("dtype of features", dtype, TYPES)
  key = f"{VERSION} {len(answers)} {key}"
  kept = _read(path, key) if path else None
  if kept is None:
    kept = _extract(extract, batches, dtype)
    if path and jax.process_index() == 0:
      try:
        _write(path, *kept, key=key)
      except OSError as error:
        logs.say(
          f"{path} cannot be written ({error.strerror}): these features are"
          " used, and not kept for the next time"
        )
  features, places = kept
  return Features(features.astype(np.float32), answers[places], places)


def _extract(
  extract: Callable[[np.ndarray], np.ndarray], batches: Callable, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
  kind = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
  parts, places, told = [], [], time.time()
  count = 0
  for images, indices in batches():
    parts.append(np.asarray(extract(images)).astype(kind))
    places.append(indices)
    count += len(indices)
    if time.time() - told > 10:
      logs.say(f"features of {count:,} pictures so far")
      told = time.time()
  if not parts:
    raise UserError("no picture of the set can be read; download it again.")
  return np.concatenate(parts), np.concatenate(places).astype(np.int32)


def _read(path: str, key: str) -> tuple[np.ndarray, np.ndarray] | None:
  if not os.path.isfile(path):
    return None
  try:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
      features, places = arrays["features"], arrays["places"]
      before = str(arrays["key"]) if "key" in arrays else None
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    logs.say(f"{path} is damaged ({error}); it is made again")
    return None
  if before is None:
    logs.say(f"{path} is of an earlier version; it is made again")
    return None
  if before != key:
    logs.say(f"{path} is of other weights or pictures; it is made again")
    return None
  if features.dtype == np.uint16:
    features = features.view(ml_dtypes.bfloat16)
  return features, places


def _write(
  path: str, features: np.ndarray, places: np.ndarray, *, key: str
) -> None:
  os.makedirs(os.path.dirname(path), exist_ok=True)
  if features.dtype == ml_dtypes.bfloat16:
    features = features.view(np.uint16)  # numpy's files have no such type.
  with files.replacing(path) as file:
    np.savez(file, features=features, places=places, key=key)
