"""A map as one PNG: a dot for each picture, thumbnails where there is room."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

# Okabe and Ito's, which colour-blind readers can tell apart, darkest last.
_COLORS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#8c6bb1",
  "#a6761d",
  "#66a61e",
  "#e7298a",
)
_PLAIN = "#5f6368"
_INK, _FAINT, _PAPER = "#202124", "#5f6368", "#ffffff"
_SIDE, _MARGIN, _LEGEND, _ROWS = 1600, 48, 330, 30


class Map(NamedTuple):
  """What is drawn; n pictures.

  Attributes:
    title: of the drawing.
    subtitle: a line below it.
    points: [n, 2] in [0, 1].
    neighbours: [n, k] nearest others.
    labels: [n] places in `names`; -1 where a picture has none.
    names: of the classes.
    paths: [n] where each picture is.
    thumbnails: [n] images [t, t, 3] uint8.
  """

  title: str
  subtitle: str
  points: np.ndarray
  neighbours: np.ndarray
  labels: np.ndarray
  names: Sequence[str]
  paths: Sequence[str]
  thumbnails: Sequence[np.ndarray]


def colors(count: int) -> list[str]:
  """A colour for each class; beyond ten they go round the wheel."""
  extra = max(count - len(_COLORS), 0)
  wheel = [
    colorsys.hls_to_rgb((0.03 + 0.618034 * i) % 1, 0.38 + 0.2 * (i % 2), 0.6)
    for i in range(extra)
  ]
  made = ["#" + "".join(f"{round(255 * x):02x}" for x in c) for c in wheel]
  return [*_COLORS, *made][:count]


def draw(found: Map) -> Image.Image:
  """Draws a map.

  Thumbnails are laid on a grid as fine as they are wide: in each cell that has
  pictures that one is shown which is nearest to its middle, framed in the
  colour of its class. All pictures are dots.

  Returns:
    An RGB image.
  """
  palette = colors(len(found.names))
  counts = np.bincount(
    found.labels[found.labels >= 0], minlength=len(found.names)
  )
  order = [
    label for label in np.argsort(-counts, kind="stable") if counts[label]
  ]
  side = found.thumbnails[0].shape[0] if found.thumbnails else 64
  cell = max(40, min(64, side))
  width = _SIDE + 2 * _MARGIN + (_LEGEND if order else 0)
  top = _MARGIN + 76
  highest = np.max(found.points[:, 1])
  tall = (highest - np.min(found.points[:, 1])) * (_SIDE - cell) + cell
  tall = max(tall, 34 * min(len(order), _ROWS + 1))
  sheet = Image.new("RGB", (width, int(top + tall) + _MARGIN), _PAPER)
  pen = ImageDraw.Draw(sheet)
  pen.text((_MARGIN, 30), found.title, fill=_INK, font=_font(34))
  pen.text((_MARGIN, 76), found.subtitle, fill=_FAINT, font=_font(21))

  def color(row: int) -> str:
    label = found.labels[row]
    return palette[label] if label >= 0 else _PLAIN

  x = _MARGIN + cell / 2 + found.points[:, 0] * (_SIDE - cell)
  y = top + cell / 2 + (highest - found.points[:, 1]) * (_SIDE - cell)
  for row in range(len(x)):
    box = (x[row] - 4, y[row] - 4, x[row] + 4, y[row] + 4)
    pen.ellipse(box, fill=color(row))
  for row in _shown(x - _MARGIN, y - top, cell):
    image = Image.fromarray(found.thumbnails[row])
    how = Image.Resampling.BOX if side < cell else Image.Resampling.LANCZOS
    image = image.resize((cell - 10, cell - 10), how)
    image = ImageOps.expand(image, 3, color(row))
    # In its cell, so that no two overlap.
    column, line = (x[row] - _MARGIN) // cell, (y[row] - top) // cell
    corner = (int(_MARGIN + column * cell) + 2, int(top + line * cell) + 2)
    sheet.paste(image, corner)
  _legend(pen, _SIDE + 2 * _MARGIN, top, order, counts, found.names, palette)
  return sheet


def _shown(x: np.ndarray, y: np.ndarray, cell: int) -> list[int]:
  """Of each cell of the grid the point that is nearest to its middle."""
  away = np.hypot(x % cell - cell / 2, y % cell - cell / 2)
  best: dict[tuple[int, int], int] = {}
  for row in np.argsort(away, kind="stable"):
    best.setdefault((int(x[row] // cell), int(y[row] // cell)), int(row))
  return sorted(best.values())


def _legend(pen, left, top, order, counts, names, palette) -> None:
  font = _font(21)
  for line, label in enumerate(order[:_ROWS]):
    y = top + line * 34
    pen.rectangle((left, y + 4, left + 18, y + 22), fill=palette[label])
    text = f"{names[label]}  ({counts[label]:,})"
    while text and pen.textlength(text, font=font) > _LEGEND - _MARGIN - 30:
      text = text[:-2] + "…"
    pen.text((left + 30, y), text, fill=_INK, font=font)
  if len(order) > _ROWS:
    text = f"and {len(order) - _ROWS} more classes"
    pen.text((left + 30, top + _ROWS * 34), text, fill=_FAINT, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont:
  return ImageFont.load_default(size)
