"""A table of features as a map: which pictures, where, and into which file."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cassle_jax import data
from cassle_jax.config import cli
from cassle_jax.embed import layout, page, picture, tables
from cassle_jax.embed.picture import Map
from cassle_jax.embed.pictures import Pictures
from cassle_jax.errors import UserError
from cassle_jax.runs import files

# Side of thumbnails in pixels; smaller pictures are shown as they are.
_SIDE = 64


def map_of(
  table: str,
  pictures: Pictures,
  *,
  count: int,
  method: str,
  title: str,
  told: Mapping[str, Any],
) -> Map:
  """Makes a map of some pictures of a table, the same at every call.

  Args:
    table: file of features.
    pictures: that they are of.
    count: at most so many pictures, drawn at random.
    method: see `layout.place`.
    title: of the map.
    told: what the features are of, from `extraction.job_of`.

  Raises:
    UserError: fewer than two pictures, or as of `layout.place`.
  """
  places = tables.places(table)
  if len(places) < 2:
    raise UserError(f"a map needs 2 pictures or more; {table} has 1.")
  chosen = np.random.default_rng(0).permutation(len(places))[:count]
  rows = np.sort(chosen)
  side = min(_SIDE, *(pictures.shape or (_SIDE,)))
  found = list(data.views(pictures, places[rows].tolist(), side))
  # What is gone since is not on the map.
  rows = rows[np.isin(places[rows], [place for place, _, _ in found])]
  features = tables.take(table, rows)
  where = layout.place(features, method=method)
  labels = np.array([label for _, _, label in found], np.int64)
  last = max(labels.max() + 1, len(pictures.class_names))
  names = [tables.class_name(pictures.class_names, n) for n in range(last)]
  return Map(
    title=title,
    subtitle=_subtitle(where, labels, told, len(places)),
    points=where.points,
    neighbours=where.neighbours,
    labels=labels,
    names=names,
    paths=[pictures.locate(int(place)) for place in places[rows]],
    thumbnails=[image for _, image, _ in found],
  )


def write(path: str, found: Map) -> None:
  """Writes a map as a page or a picture, by the file's ending.

  Raises:
    UserError: it cannot be written.
  """
  try:
    if path.endswith(".html"):
      files.write(path, page.render(found).encode())
      return
    with files.replacing(path) as file:
      picture.draw(found).save(file, "PNG")
  except OSError as error:
    raise cli.unwritable("--plot", path, error) from error


def _subtitle(
  where: layout.Layout,
  labels: np.ndarray,
  told: Mapping[str, Any],
  total: int,
) -> str:
  shown = len(labels)
  of = "" if shown == total else f" of {total:,}"
  text = (
    f"{told['method']} ({told['awareness']}), {told['backbone']}, step"
    f" {told['step']:,}; {shown:,}{of} pictures; {where.words} of"
    f" {told['features']:,} features"
  )
  same, chance = layout.agreement(where.neighbours, labels)
  if math.isnan(same):
    return text
  k = where.neighbours.shape[1]
  return (
    f"{text}; of the {k} nearest {100 * same:.0f} % are of the picture's class,"
    f" by chance {100 * chance:.0f} %"
  )
