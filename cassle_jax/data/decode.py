"""Bytes to pixels, for every source and every format.

All pictures become RGB exactly as `PIL.Image.convert("RGB")` makes them, which
is also what torchvision's folder loader does: CMYK and YCCK are converted,
palettes are looked up, alpha is dropped without blending, grey is repeated, an
EXIF rotation is ignored, the first frame of an animation is taken. 16-bit RGB
keeps its high byte. 16-bit *grey* is clipped at 255, not scaled: such pictures
come out nearly white, here as there, and a warning says so once.

Pillow decodes; where training needs pixels fast, in `place`, `jpeg` does what
it can, to the same bits.
"""

import io
import os

import numpy as np
from absl import logging
from PIL import Image

from cassle_jax.data import canvas as canvas_lib
from cassle_jax.data import jpeg
from cassle_jax.data.canvas import Size

# Pictures are recognised by content, not by name. Pillow's list of formats is
# longer, but some of its readers start other programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")

# The endings that torchvision's ImageFolder accepts: the same files, so the
# same indices.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif") + (
  ".tiff",
  ".webp",
)


class CorruptImage(ValueError):
  """Bytes that are no picture, or only a part of one."""


def read_bytes(path: str) -> bytes:
  """Reads a picture's file.

  Raises:
    CorruptImage: the file is gone or may not be read. A failing disk or
      network (any other OSError) is not the picture's fault and passes through.
  """
  try:
    with open(path, "rb") as file:
      return file.read()
  except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
    raise CorruptImage(error.strerror) from error


def picture(data: bytes) -> Image.Image:
  """Decodes one encoded picture at full resolution.

  Args:
    data: a whole file's bytes in one of `FORMATS`.

  Returns:
    A loaded Pillow image of mode RGB.

  Raises:
    CorruptImage: not a picture, truncated, damaged, or so large (more pixels
      than Pillow's limit, 89 million) that it looks like a decompression bomb.
  """
  # Pillow's readers raise whatever a damaged file leads them to: OSError,
  # SyntaxError, ValueError, struct.error, KeyError, IndexError, ...
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
      raise CorruptImage(f"{image.width}x{image.height} pixels are too many")
    image.load()
    if image.mode.startswith("I"):
      logging.log_first_n(
        logging.WARNING,
        "A 16-bit grey picture: its values are clipped at 255 as by "
        'convert("RGB"), so it will look white. Rescale such files to 8 bits.',
        1,
      )
    # RGB has no transparency, so this changes no pixel, only spares a warning
    # for each palette picture.
    image.info.pop("transparency", None)
    return image.convert("RGB")
  except (CorruptImage, MemoryError):
    raise
  except Exception as error:
    # Pillow's text names the address of the buffer, which tells nobody a thing.
    text = str(error) or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
      text = "not a picture" if data else "empty file"
    raise CorruptImage(text) from error


def place(data: bytes, canvas: np.ndarray) -> tuple[Size, Size]:
  """Decodes a picture onto a canvas; see `canvas`.

  Args:
    data: as of `picture`.
    canvas: [S, S, 3] uint8, whatever was on it.

  Returns:
    The true (height, width) and the stored one.

  Raises:
    CorruptImage: as `picture`; the canvas holds anything.
  """
  pixels = jpeg.decode(data)
  if pixels is not None and max(pixels.shape) <= len(canvas):
    return pixels.shape[:2], canvas_lib.fill(canvas, pixels)
  return draw(picture(data) if pixels is None else pixels, canvas)


def draw(
  image: Image.Image | np.ndarray, canvas: np.ndarray
) -> tuple[Size, Size]:
  """Puts a decoded picture of any size onto a canvas, as `place` does."""
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  pixels = np.asarray(canvas_lib.shrunk(image, len(canvas)))
  return (image.height, image.width), canvas_lib.fill(canvas, pixels)


def header_size(path: str) -> tuple[int, int] | None:
  """(height, width) by a file's header alone; None if it cannot be read."""
  try:
    with Image.open(path, formats=FORMATS) as image:
      return image.height, image.width
  except Exception:
    return None


def evaluation_crop(
  image: Image.Image, size: int, *, short_side: int = 0
) -> np.ndarray:
  """The deterministic view of evaluation: bicubic resize, then centre crop.

  Rounding of the long side and of the crop's corner are torchvision's (Resize,
  CenterCrop).

  Args:
    image: mode RGB, any size.
    size: side s of the result in pixels.
    short_side: what the short side is resized to, at least s; 0 stands for
      round(s * 256 / 224), the usual one on ImageNet.

  Returns:
    [s, s, 3] uint8; a picture that is s x s already comes back as it is.
  """
  if image.size == (size, size):
    return np.asarray(image)
  short = short_side or round(size * 256 / 224)
  width, height = image.size
  if width <= height:
    width, height = short, int(short * height / width)
  else:
    width, height = int(short * width / height), short
  image = image.resize((width, height), Image.Resampling.BICUBIC)
  left = round((width - size) / 2)
  top = round((height - size) / 2)
  return np.asarray(image.crop((left, top, left + size, top + size)))


def cores() -> int:
  """How many cores this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def default_threads() -> int:
  """Two reading threads for each core this process may use, at most 32.

  Twice the cores, for some wait for a disk or network.
  """
  return min(32, 2 * cores())
