"""Positions of a vision transformer's patches, and their resizing.

A network knows one grid of positions. Pictures of another size than it was
trained on take them interpolated: their patches lie between the known places.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.errors import UserError

POSITIONS = ("sincos", "learned")
RESIZES = ("antialias", "bicubic")


def sincos_positions(rows: int, columns: int, size: int) -> np.ndarray:
  """Makes fixed 2-D positions for a [cls] token and a grid of patches.

  The first half of the numbers encodes the row, the second the column, each as
  the sines and then the cosines of size/4 frequencies. (The reference builds
  its grid transposed; on square grids the result is this one.)

  Args:
    rows: height of the grid.
    columns: width of the grid.
    size: numbers per token, a multiple of 4.

  Returns:
    [1, 1 + rows * columns, size] float32; the [cls] token's are 0.

  Raises:
    UserError: when size is not a multiple of 4.
  """
  if size % 4:
    raise UserError(
      f"a ViT of width {size} has no 2-D sine-cosine positions: the width must"
      " be a multiple of 4."
    )
  quarter = size // 4
  frequencies = 1.0 / 10000 ** (np.arange(quarter) / quarter)
  row, column = np.divmod(np.arange(rows * columns), columns)
  row_angles = row[:, None] * frequencies[None]
  column_angles = column[:, None] * frequencies[None]
  grid = np.concatenate(
    [
      np.sin(row_angles),
      np.cos(row_angles),
      np.sin(column_angles),
      np.cos(column_angles),
    ],
    axis=1,
  )
  cls = np.zeros((1, size))
  return np.concatenate([cls, grid])[None].astype(np.float32)


def resized(
  positions: jax.Array, grid: int, rows: int, columns: int, *, resize: str
) -> jax.Array:
  """Interpolates the positions of a square grid to another one.

  "antialias" is the rule of timm and of DINOv2's networks with registers:
  bicubic (a = -0.5), smoothed where the grid becomes coarser. "bicubic" is
  that of DINO and of DINOv2's without registers: torch's bicubic (a = -0.75)
  with a scale of (n + 0.1) / grid and no smoothing. The rules differ by tenths
  of the positions' deviation: each network is to keep its own.

  Args:
    positions: [1, 1 + grid * grid, d] float32, [cls] first.
    grid: side of their grid.
    rows: height of the new one.
    columns: width of the new one.
    resize: one of RESIZES.

  Returns:
    [1, 1 + rows * columns, d] float32; [cls] keeps its own.
  """
  if (rows, columns) == (grid, grid):
    return positions
  cls, patches = positions[:, :1], positions[:, 1:]
  size = patches.shape[-1]
  square = patches.reshape(grid, grid, size)
  if resize == "antialias":
    shape = (rows, columns, size)
    new = jax.image.resize(square, shape, "cubic", antialias=True)
  else:
    new = jnp.einsum(
      "ri,cj,ijd->rcd",
      _bicubic(grid, rows),
      _bicubic(grid, columns),
      square,
      precision=jax.lax.Precision.HIGHEST,
    )
  return jnp.concatenate([cls, new.reshape(1, rows * columns, size)], axis=1)


def _bicubic(old: int, new: int) -> np.ndarray:
  """torch's weights [new, old] of DINO's call, with its offset of 0.1."""
  scale = (new + 0.1) / old
  source = (np.arange(new) + 0.5) / scale - 0.5
  first = np.floor(source).astype(int)
  matrix = np.zeros((new, old))
  for tap in range(-1, 3):
    x = np.abs(source - first - tap)
    a = -0.75
    weight = np.where(
      x <= 1,
      (a + 2) * x**3 - (a + 3) * x**2 + 1,
      a * (x**3 - 5 * x**2 + 8 * x - 4),
    )
    column = np.clip(first + tap, 0, old - 1)
    np.add.at(matrix, (np.arange(new), column), weight)
  return matrix.astype(np.float32)
