"""What was found out about a set's files and took a while, for next time."""

import os

import numpy as np
from absl import logging

from cassle_jax.runs import files


def path_of(name: str) -> str:
  """Where an array of this name is kept: in the user's cache folder."""
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return os.path.join(cache, "cassle_jax", name)


def read(name: str) -> np.ndarray | None:
  """The array that was kept; None if there is none, or it is damaged."""
  try:
    return np.load(path_of(name), allow_pickle=False)
  except (OSError, ValueError, EOFError):
    return None


def keep(name: str, array: np.ndarray) -> None:
  """Keeps an array; where that cannot be, it is found out again."""
  path = path_of(name)
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with files.replacing(path) as file:
      np.save(file, array)
  except OSError as error:
    logging.info("%s could not be kept: %s", path, error)
