"""Canvases: squares of one size with a picture in the upper left corner.

A picture keeps its own pixels; one that is larger than the canvas is shrunk to
fit, its aspect kept. The rest is black and no view ever reads it. Two sizes go
with a canvas, (height, width) each: the true one, in whose pixels crops are
drawn and described, and the stored one, which says where the picture ends.
"""

import math

import numpy as np
from PIL import Image

Size = tuple[int, int]


def rule(image_size: int) -> int:
  """Side of the canvas for views of `image_size`: 16/7 x, a multiple of 32.

  At 224 that is 512, which most of ImageNet's pictures fit into as they are, so
  that their views are those of the full picture.
  """
  return math.ceil(image_size * 16 / 7 / 32) * 32


def fitted(size: Size, side: int) -> Size:
  """The size at which a picture is stored: its own, or the largest that fits.

  Args:
    size: true (height, width) in pixels.
    side: of the canvas, in pixels.
  """
  longest = max(size)
  if longest <= side:
    return size
  height, width = (max(round(each * side / longest), 1) for each in size)
  return height, width


def shrunk(image: Image.Image, side: int) -> Image.Image:
  """A picture whose sides are at most `side`: itself, or shrunk to fit.

  Antialiased bilinear, which is also how views are resampled.
  """
  height, width = fitted((image.height, image.width), side)
  if (width, height) == image.size:
    return image
  return image.resize((width, height), Image.Resampling.BILINEAR)


def fill(canvas: np.ndarray, pixels: np.ndarray) -> Size:
  """Puts a picture into the corner and black beside it, in place.

  Args:
    canvas: [S, S, 3] uint8, whatever was on it.
    pixels: [h, w, 3] uint8, h and w at most S.

  Returns:
    (h, w), the stored size.
  """
  height, width = pixels.shape[:2]
  canvas[:height, :width] = pixels
  canvas[:height, width:] = 0
  canvas[height:] = 0
  return height, width
