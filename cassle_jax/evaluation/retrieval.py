"""Nearest neighbours of a few images, as numbers and as a picture.

Which images are asked for is a function of the seed alone, so that panels of
different runs show the same queries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cassle_jax.errors import UserError
from cassle_jax.methods import contrast

_INK = (28, 30, 34)
_LABEL = (108, 114, 122)
_PAPER = (255, 255, 255)
_SAME, _OTHER = (20, 140, 90), (214, 72, 36)
_TILE, _MARGIN, _GAP, _LINE = 104, 24, 10, 17


class Retrieval(NamedTuple):
  """Queries and what they found.

  Attributes:
    queries: [Q] int64, indices into the images that were asked for.
    neighbours: [Q, k] int64, indices into the bank, nearest first; of equally
      near ones the lower index.
    scores: [Q, k] float32, cosines, falling.
  """

  queries: np.ndarray
  neighbours: np.ndarray
  scores: np.ndarray


def choose(count: int, *, queries: int = 8, seed: int = 0) -> np.ndarray:
  """Draws which images to ask for: [min(queries, count)] indices, rising.

  Args:
    count: number of images to choose from.
    queries: how many.
    seed: of the draw.
  """
  order = np.random.default_rng(seed).permutation(count)
  return np.sort(order[:queries])


def measure(
  query_features: np.ndarray,
  bank_features: np.ndarray,
  *,
  queries: int = 8,
  k: int = 8,
  seed: int = 0,
) -> Retrieval:
  """Finds the nearest images of the bank for some queries.

  Args:
    query_features: [M, d], of which `choose` takes some.
    bank_features: [N, d], of other images.
    queries: how many to ask for, Q; at most M.
    k: neighbours of each; at most as many as there are to find.
    seed: of the choice.

  Raises:
    UserError: there is nothing to ask for or to find, or k or queries is below
      1.
  """
  found = len(bank_features)
  if min(queries, k, found, len(query_features)) < 1:
    raise UserError(
      f"retrieval with queries={queries}, k={k} among {found} images: each must"
      " be at least 1."
    )
  chosen = choose(len(query_features), queries=queries, seed=seed)
  cosine = jnp.einsum(
    "qd,nd->qn",
    contrast.normalize(jnp.asarray(query_features)[chosen]),
    contrast.normalize(jnp.asarray(bank_features)),
    precision=jax.lax.Precision.HIGHEST,
  )
  scores, neighbours = jax.lax.top_k(cosine, min(k, found))
  return Retrieval(chosen, np.asarray(neighbours, np.int64), np.asarray(scores))


def panel(
  result: Retrieval,
  images: Sequence[np.ndarray],
  labels: Sequence[str],
  *,
  title: str = "",
) -> Image.Image:
  """Draws a row for each query: the query, then its neighbours.

  Args:
    result: of `measure`, its indices into the following images.
    images: [H, W, 3] uint8 each, of any size.
    labels: a class name for each; neighbours of the query's class have a green
      frame and others a red one.
    title: a line on top.

  Returns:
    An RGB image. Below each neighbour is its cosine, and its class.
  """
  font, bold = ImageFont.load_default(13), ImageFont.load_default(18)
  rows, columns = result.neighbours.shape
  # The query stands apart from what it found.
  step, apart = _TILE + _GAP, 2 * _GAP
  row = _TILE + 6 + 2 * _LINE + _GAP
  top = _MARGIN + (32 if title else 0) + 22
  page = (
    2 * _MARGIN + _TILE + apart + columns * step - _GAP,
    top + rows * row + _LINE + _MARGIN - _GAP,
  )
  sheet = Image.new("RGB", page, _PAPER)
  pen = ImageDraw.Draw(sheet)
  if title:
    text = _fitted(pen, title, bold, page[0] - 2 * _MARGIN)
    pen.text((_MARGIN, _MARGIN - 6), text, fill=_INK, font=bold)
  first = _MARGIN + _TILE + apart
  pen.text((_MARGIN, top - 22), "query", fill=_LABEL, font=font)
  text = _fitted(pen, "nearest first, cosine", font, columns * step - _GAP)
  pen.text((first, top - 22), text, fill=_LABEL, font=font)

  for line, query in enumerate(result.queries):
    y = top + line * row
    _paste(sheet, images[query], (_MARGIN, y), _INK)
    text = _fitted(pen, labels[query], font, _TILE)
    pen.text((_MARGIN, y + _TILE + 6), text, fill=_INK, font=font)
    for place, index in enumerate(result.neighbours[line]):
      x = first + place * step
      color = _SAME if labels[index] == labels[query] else _OTHER
      _paste(sheet, images[index], (x, y), color)
      text = f"{result.scores[line, place]:.3f}"
      pen.text((x, y + _TILE + 6), text, fill=_INK, font=font)
      text = _fitted(pen, labels[index], font, _TILE)
      pen.text((x, y + _TILE + 6 + _LINE), text, fill=color, font=font)
  text = "green: the query's class; red: another"
  text = _fitted(pen, text, font, page[0] - 2 * _MARGIN)
  pen.text((_MARGIN, top + rows * row), text, fill=_LABEL, font=font)
  return sheet


def _fitted(pen, text, font, width) -> str:
  """The text, cut off with an ellipsis where it is wider than `width`."""
  if pen.textlength(text, font=font) <= width:
    return text
  while text and pen.textlength(text + "...", font=font) > width:
    text = text[:-1]
  return text + "..."


def _paste(sheet, image, corner, color) -> None:
  """Puts a picture into its tile, its aspect kept, and a frame around it."""
  picture = Image.fromarray(np.asarray(image, np.uint8))
  grows = 2 * max(picture.size) <= _TILE
  smooth = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
  picture = ImageOps.contain(picture, (_TILE, _TILE), smooth)
  picture = ImageOps.expand(picture, 2, color)
  x, y = (
    start + (_TILE - side) // 2
    for start, side in zip(corner, picture.size, strict=True)
  )
  sheet.paste(picture, (x, y))
