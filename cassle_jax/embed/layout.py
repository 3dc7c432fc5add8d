"""Features on a plane: UMAP where it is installed, or PCA."""

import importlib.util
import warnings
from typing import NamedTuple

import numpy as np

from cassle_jax.errors import UserError, unknown

METHODS = ("auto", "umap", "pca")
# UMAP's neighbours; fewer pictures have no neighbourhoods to speak of.
_NEIGHBOURS = 15


class Layout(NamedTuple):
  """Where features lie.

  Attributes:
    points: [n, 2] float64, the wider axis from 0 to 1, the other in the middle
      of it: one scale for both.
    neighbours: [n, k] int32, nearest first by the cosine of the features.
    words: how the points were found.
  """

  points: np.ndarray
  neighbours: np.ndarray
  words: str


def place(
  features: np.ndarray, *, method: str = "auto", neighbours: int = 8
) -> Layout:
  """Puts features on a plane; the same ones always in the same way.

  Args:
    features: [n, d] float32, n >= 2.
    method: "umap" (McInnes et al., arXiv 1802.03426; needs umap-learn), "pca",
      or "auto": UMAP where it is installed and pictures are not too few.
    neighbours: k, at most n - 1.

  Raises:
    UserError: unknown method, or its package is not there.
  """
  chosen = choose(method, len(features))
  if chosen == "umap":
    # Its axes mean nothing: the wider one lies flat.
    points, words = pca(_umap(features))[0], "UMAP"
  else:
    points, share = pca(features)
    words = f"PCA ({100 * share:.0f} % of the variance)"
  low, high = np.min(points, axis=0), np.max(points, axis=0)
  scale = max(np.max(high - low), 1e-12)
  points = 0.5 + (points - ((low + high) / 2)[None]) / scale
  return Layout(
    points, nearest(features, min(neighbours, len(points) - 1)), words
  )


def choose(method: str, count: int) -> str:
  """The method for so many pictures, "auto" decided; see `place`."""
  if method not in METHODS:
    raise unknown("--plot_method", method, METHODS)
  there = importlib.util.find_spec("umap") is not None
  if method == "umap" and not there:
    raise UserError(
      "--plot_method=umap needs the package umap-learn: pip install umap-learn,"
      " or use --plot_method=pca."
    )
  if method == "auto":
    return "umap" if there and count > 2 * _NEIGHBOURS else "pca"
  return method


def pca(features: np.ndarray) -> tuple[np.ndarray, float]:
  """The two directions of most variance.

  Args:
    features: [n, d].

  Returns:
    [n, 2] float64, of each axis the largest number positive, and the share of
    the variance that they hold.
  """
  x = np.asarray(features, np.float64)
  x = x - np.mean(x, axis=0)[None]
  rows, columns = x.shape
  if columns <= rows:
    values, vectors = np.linalg.eigh(x.T @ x)
    points = x @ vectors[:, :-3:-1]
  else:
    values, vectors = np.linalg.eigh(x @ x.T)
    points = vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))[None]
  if points.shape[1] < 2:
    points = np.pad(points, ((0, 0), (0, 1)))
  total = max(float(np.sum(np.maximum(values, 0))), 1e-300)
  share = float(np.sum(np.maximum(values[-2:], 0))) / total
  largest = np.argmax(np.abs(points), axis=0)
  signs = np.sign(points[largest, np.arange(2)])
  return points * np.where(signs == 0, 1, signs)[None], share


def nearest(features: np.ndarray, k: int) -> np.ndarray:
  """The k nearest others by cosine, of equally near ones the lower: [n, k]."""
  x = np.asarray(features, np.float32)
  x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  found = np.empty((len(x), k), np.int32)
  for start in range(0, len(x), 512):
    rows = slice(start, min(start + 512, len(x)))
    cosine = x[rows] @ x.T
    own = np.arange(len(cosine))
    cosine[own, own + start] = -np.inf
    found[rows] = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
  return found


def agreement(
  neighbours: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
  """How often neighbours are of the same class, and how often by chance.

  Args:
    neighbours: [n, k].
    labels: [n]; those below 0 are not counted.

  Returns:
    Two shares in [0, 1]; nan where nothing is labeled.
  """
  known = labels >= 0
  if not known.any():
    return float("nan"), float("nan")
  same = labels[neighbours] == labels[:, None]
  counts = np.unique(labels[known], return_counts=True)[1]
  chance = np.sum((counts / counts.sum()) ** 2)
  return float(np.mean(same[known])), float(chance)


def _umap(features: np.ndarray) -> np.ndarray:
  with warnings.catch_warnings():
    # Of its own compiler and of a fixed seed, which costs it its threads.
    warnings.simplefilter("ignore")
    import umap

    return (
      umap.UMAP(
        n_neighbors=min(_NEIGHBOURS, len(features) - 1),
        min_dist=0.15,
        metric="cosine",
        random_state=0,
        n_jobs=1,
      )
      .fit_transform(np.asarray(features, np.float32))
      .astype(np.float64)
    )
