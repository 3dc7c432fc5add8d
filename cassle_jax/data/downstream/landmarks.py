"""300-W: faces and their 68 landmarks."""

import os

import numpy as np
from PIL import Image

from cassle_jax.data import decode
from cassle_jax.data.downstream.listed import ListSource
from cassle_jax.data.source import Source
from cassle_jax.errors import UserError

POINTS = 68
_FOLDERS = ("01_Indoor", "02_Outdoor")


class LandmarkSource(ListSource):
  """Faces, each cut to the square of its landmarks.

  The square's upper left corner is that of the landmarks' box and its side the
  longer one of the box, rounded up; what lies outside of the picture is black
  (Ericsson et al., "Why do self-supervised models transfer?", 2021).

  Args:
    root: the folder that paths start from.
    paths: one picture each.
    points: [N, 68, 2] landmarks as (x, y) in pixels of the whole picture.

  Attributes:
    targets: [N, 136] float32: x and y of each landmark in turn, relative to the
      square, of L2 norm 1.
  """

  def __init__(self, root: str, paths: list[str], points: np.ndarray):
    super().__init__(root, paths, None)
    self.corners = points.min(1)
    self.sides = np.ceil(points.max(1) - self.corners).max(1)
    self.targets = landmark_targets(points)

  place = Source.place  # Of the square, not of the file.

  def picture(self, index: int) -> Image.Image:
    image = super().picture(index)
    left, top = map(float, self.corners[index])
    side = float(self.sides[index])
    # A damaged number must not ask for a picture of any size.
    if not 0 < side <= 2 * max(image.size):
      raise decode.CorruptImage(f"its landmarks span {side:g} pixels")
    return image.crop((left, top, left + side, top + side))


def landmark_targets(points: np.ndarray) -> np.ndarray:
  """Landmarks relative to their square, flattened, of L2 norm 1.

  Args:
    points: [N, P, 2] in pixels.

  Returns:
    [N, 2 P] float32. The size of the square drops out in the normalisation.
  """
  relative = (points - points.min(1, keepdims=True)).reshape(len(points), -1)
  norm = np.linalg.norm(relative, axis=1, keepdims=True)
  return (relative / np.maximum(norm, 1e-12)).astype(np.float32)


def faces300w(folder: str, part: str) -> LandmarkSource:
  """300-W (Sagonas et al., 2013): NAME.png and NAME.pts in two folders.

  All 600 faces, indoor first. The published evaluation loses the last one.
  """
  del part
  paths, points = [], []
  for place in _FOLDERS:
    for file in sorted(os.listdir(os.path.join(folder, place))):
      name, ending = os.path.splitext(file)
      if ending == ".pts":
        paths.append(f"{place}/{name}.png")
        points.append(read_points(os.path.join(folder, place, file)))
  if not paths:
    raise UserError(f"{folder} holds no .pts files; unpack the set again.")
  return LandmarkSource(folder, paths, np.stack(points))


def read_points(path: str) -> np.ndarray:
  """The landmarks of a .pts file: [68, 2] float64, (x, y) in pixels.

  Raises:
    UserError: it does not hold 68 pairs of numbers between { and }.
  """
  with open(path, encoding="latin-1") as file:
    inside = file.read().partition("{")[2].partition("}")[0]
  try:
    lines = [line.split() for line in inside.splitlines() if line.strip()]
    points = np.array(lines, np.float64)
  except ValueError:
    points = np.zeros(0)
  if points.shape != (POINTS, 2) or not np.isfinite(points).all():
    raise UserError(
      f"{path} must hold {POINTS} lines of two numbers between {{ and }}; "
      "unpack the set again."
    )
  return points
