"""A map of pictures as one HTML file, which `page.html` lays out.

The file holds all that it shows and asks no server for anything. Jinja escapes
what comes from data, in the script's data too.
"""

import base64
import io
import math

import jinja2
import numpy as np
from PIL import Image

from cassle_jax.embed.picture import Map, colors


def render(found: Map) -> str:
  """The whole page."""
  side = found.thumbnails[0].shape[0]
  columns = math.ceil(math.sqrt(len(found.thumbnails)))
  data = {
    "points": np.round(found.points, 4).tolist(),
    "neighbours": found.neighbours.tolist(),
    "labels": found.labels.tolist(),
    "names": list(found.names),
    "colors": colors(len(found.names)),
    # Odd bytes of old disks have no place in UTF-8.
    "paths": [path.encode(errors="replace").decode() for path in found.paths],
    "side": side,
    "columns": columns,
  }
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("cassle_jax.embed", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  return environment.get_template("page.html").render(
    title=found.title,
    subtitle=found.subtitle,
    data=data,
    sprite=base64.b64encode(_sprite(found, side, columns)).decode(),
  )


def _sprite(found: Map, side: int, columns: int) -> bytes:
  """All thumbnails as one picture, row by row."""
  rows = math.ceil(len(found.thumbnails) / columns)
  sheet = np.zeros((rows * side, columns * side, 3), np.uint8)
  for place, image in enumerate(found.thumbnails):
    row, column = divmod(place, columns)
    top, left = row * side, column * side
    sheet[top : top + side, left : left + side] = image
  buffer = io.BytesIO()
  Image.fromarray(sheet).save(buffer, "WEBP", quality=82, method=4)
  return buffer.getvalue()
