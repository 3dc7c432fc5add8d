"""Bytes to pixels, for every source and every format.

All pictures become RGB exactly as `PIL.Image.convert("RGB")` makes them, which
is also what torchvision's folder loader does: CMYK and YCCK are converted,
palettes are looked up, alpha is dropped without blending, grey is repeated, an
EXIF rotation is ignored, the first frame of an animation is taken. 16-bit RGB
keeps its high byte. 16-bit *grey* is clipped at 255, not scaled: such pictures
come out nearly white, here as there, and a warning says so once. Deviation:
floats in [0, 1] are scaled to 255, where torchvision's turn out black.

Pillow decodes; where training needs pixels fast, in `place`, `jpeg` does what
it can, to the same bits.
"""

import io
import os
import warnings

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

# Pillow's own limit, more or less: a picture takes three bytes for each.
MAX_PIXELS = 89_478_485
# What is too large is refused here, in words; Pillow would warn as well.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Beyond this aspect a picture is cut before it is resized as a whole.
_THIN = 8


def limit_pixels(count: int | None) -> None:
  """Sets how many pixels a picture may have, in this process; None: MAX_PIXELS.

  Larger ones are unreadable: a file of a few bytes may claim to be as large as
  the memory.
  """
  Image.MAX_IMAGE_PIXELS = count or MAX_PIXELS


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
    CorruptImage: not a picture, truncated, damaged, or larger than
      `limit_pixels` allows.
  """
  # Pillow's readers raise whatever a damaged file leads them to: OSError,
  # SyntaxError, ValueError, struct.error, KeyError, IndexError, ...
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
      raise CorruptImage(
        f"{image.width}x{image.height} pixels are more than the {limit:,} that"
        " a picture may have; --config.data.max_pixels="
        f"{image.width * image.height} lifts the limit"
      )
    image.load()
    if image.mode == "F":
      image = _from_floats(image)
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
  except Image.DecompressionBombError as error:
    raise CorruptImage(
      f"{error.args[0].partition(' exceeds')[0]}: more than twice the limit of"
      f" {Image.MAX_IMAGE_PIXELS:,}; --config.data.max_pixels=N lifts it"
    ) from error
  except Exception as error:
    # Pillow's text names the address of the buffer, which tells nobody a thing.
    text = str(error) or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
      text = "not a picture" if data else "empty file"
    raise CorruptImage(text) from error


def _from_floats(image: Image.Image) -> Image.Image:
  """A picture of floats as bytes: those in [0, 1] scaled, others clipped."""
  values = np.nan_to_num(np.asarray(image), nan=0.0)
  unit = values.min() >= 0 and values.max() <= 1
  logging.log_first_n(
    logging.WARNING,
    "A float picture: values from 0 to 1 are scaled to 255, all others clipped"
    " to 0 to 255. Save such files as 8 bits to decide yourself.",
    1,
  )
  values = np.round(255 * values if unit else values)
  return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


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


def short_side_of(size: int) -> int:
  """What the short side is resized to before a crop of size x size px."""
  return round(size * 256 / 224)


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
      `short_side_of(s)`, the usual one on ImageNet.

  Returns:
    [s, s, 3] uint8; a picture that is s x s already comes back as it is.
  """
  if image.size == (size, size):
    return np.asarray(image)
  short = short_side or short_side_of(size)
  width, height = image.size
  if width <= height:
    width, height = short, int(short * height / width)
  else:
    width, height = int(short * width / height), short
  left = round((width - size) / 2)
  top = round((height - size) / 2)
  if max(width, height) > _THIN * short:
    # The same, of the middle alone: the whole would take a multiple of it.
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, (left + size) * x, (top + size) * y)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image)
  image = image.resize((width, height), Image.Resampling.BICUBIC)
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
