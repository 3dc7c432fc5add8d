"""Retrieval against its twin, and what is drawn where."""

import numpy as np
import pytest

from cassle_jax.errors import UserError
from cassle_jax.evaluation import retrieval


def features(count, seed):
  draw = np.random.default_rng(seed)
  return draw.normal(size=(count, 6)).astype(np.float32)


def twin(queries, bank, k):
  """Indices and cosines of the k nearest, one query at a time, float64."""
  found = []
  for query in queries.astype(np.float64):
    cosines = []
    for index, row in enumerate(bank.astype(np.float64)):
      length = np.sqrt((query @ query) * (row @ row))
      cosines.append((query @ row / length, index))
    found.append(sorted(cosines, key=lambda pair: (-pair[0], pair[1]))[:k])
  return (
    np.array([[index for _, index in row] for row in found]),
    np.array([[cosine for cosine, _ in row] for row in found]),
  )


def test_nearest_equal_their_float64_twin():
  asked, bank = features(20, 0), features(31, 1)
  found = retrieval.measure(asked, bank, queries=5, k=7, seed=3)
  neighbours, scores = twin(asked[found.queries], bank, 7)
  np.testing.assert_array_equal(found.neighbours, neighbours)
  np.testing.assert_allclose(found.scores, scores, atol=1e-6)
  # There are no more than 31 to find.
  assert retrieval.measure(asked, bank, k=40).neighbours.shape == (8, 31)


def test_queries_are_a_function_of_the_seed():
  first = retrieval.choose(100, queries=6, seed=1)
  np.testing.assert_array_equal(first, retrieval.choose(100, queries=6, seed=1))
  assert not np.array_equal(first, retrieval.choose(100, queries=6, seed=2))
  assert len(set(first)) == 6 and np.all(np.diff(first) > 0)
  # More queries keep the ones there were.
  assert set(first) <= set(retrieval.choose(100, queries=9, seed=1))
  assert len(retrieval.choose(3, queries=6)) == 3


@pytest.mark.parametrize(
  "images, options", [(4, dict(k=0)), (4, dict(queries=0)), (0, {})]
)
def test_nothing_to_find_is_an_error(images, options):
  with pytest.raises(UserError, match="must be at least 1"):
    retrieval.measure(features(images, 0), features(images, 1), **options)


def test_panel_shows_the_neighbours_in_their_frames():
  result = retrieval.Retrieval(
    np.array([0]), np.array([[2, 1]]), np.array([[0.9, 0.5]], np.float32)
  )
  colors = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
  pictures = [np.full((20, 20, 3), color, np.uint8) for color in colors]
  pictures[1] = pictures[1][:10]  # A wide one keeps its aspect.
  names = ["lake", "road", "lake"]
  sheet = retrieval.panel(result, pictures, names, title="nearest")
  pixels = np.asarray(sheet)

  def columns(color):
    return np.flatnonzero(np.all(pixels == color, axis=-1).any(axis=0))

  def rows(color):
    return np.flatnonzero(np.all(pixels == color, axis=-1).any(axis=1))

  query, second, nearest = (columns(color) for color in colors)
  assert query[-1] < nearest[0] and nearest[-1] < second[0]
  assert len(query) == len(nearest) == len(second) == len(rows(colors[0]))
  assert len(rows(colors[1])) == len(rows(colors[0])) // 2
  # The neighbour of the same class has a green frame, the other a red one.
  assert np.all(pixels[rows(colors[2])[0], nearest[0] - 1] == retrieval._SAME)
  assert np.all(pixels[rows(colors[1])[0], second[0] - 1] == retrieval._OTHER)


def test_panel_grows_with_what_it_shows():
  x, pictures = features(12, 0), np.zeros((12, 8, 8, 3), np.uint8)

  def panel(label="road", title="", **options):
    found = retrieval.measure(x, x, **options)
    return retrieval.panel(found, pictures, [label] * 12, title=title)

  small, rows = panel(queries=2, k=3), panel(queries=4, k=3)
  columns = panel(queries=2, k=5)
  titled = panel(
    "a very long name of a class that does not fit",
    "a title that is much longer than the page is wide, by far " * 3,
    queries=2,
    k=3,
  )
  assert rows.width == small.width and rows.height > small.height
  assert columns.width > small.width and columns.height == small.height
  assert titled.width == small.width and titled.height > small.height
  # Nothing is drawn over the margin.
  margin = np.asarray(titled)[:, -20:]
  assert np.all(margin == 255)
