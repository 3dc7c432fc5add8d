"""Odd JPEG files: every kind that cameras, scanners and failing disks make."""

import io
import itertools

import numpy as np
from PIL import Image

# (height, width): one pixel, less and more than a block, odd, and round.
SIZES = ((1, 1), (7, 9), (17, 8), (1, 40), (37, 53), (64, 48))


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
  """Waves with grain."""
  y, x = np.mgrid[:height, :width]
  waves = [np.sin(x / 5 + y / 9), np.cos(x / 7 + seed), np.sin(y / 4)]
  grain = np.random.default_rng(seed).normal(0, 20, (height, width, 3))
  values = 127.5 + 100 * np.stack(waves, -1) + grain
  return Image.fromarray(np.uint8(np.clip(values, 0, 255)))


def encode(image: Image.Image, format_name: str = "JPEG", **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, format_name, **options)
  return buffer.getvalue()


def without_app(data: bytes, number: int) -> bytes:
  """Takes out the application segments of one number."""
  result, place = data[:2], 2
  while data[place + 1] != 0xDA:  # Start of scan.
    length = 2 + int.from_bytes(data[place + 2 : place + 4])
    if data[place + 1] != 0xE0 + number:
      result += data[place : place + length]
    place += length
  return result + data[place:]


def adobe(transform: int) -> bytes:
  """An Adobe segment: 0 says RGB or CMYK, 1 YCbCr, 2 YCCK."""
  body = b"Adobe" + bytes([0, 100, 0, 0, 0, 0, transform])
  return b"\xff\xee" + (len(body) + 2).to_bytes(2) + body


def after_start(data: bytes, segment: bytes) -> bytes:
  return data[:2] + segment + data[2:]


def whole() -> dict[str, bytes]:
  """Files that can be decoded, by name."""
  files = {}
  kinds = itertools.product(
    SIZES, (0, 1, 2), ((50, {}), (95, {}), (90, {"progressive": True}))
  )
  for (height, width), chroma, (quality, options) in kinds:
    options = dict(options, quality=quality, subsampling=chroma)
    name = f"{height}x{width}-{chroma}-{quality}"
    files[name] = encode(picture(height, width, quality), **options)
  exif = Image.Exif()
  for place, size in enumerate(SIZES):
    image, name = picture(*size, place), f"{size[0]}x{size[1]}"
    files[f"grey-{name}"] = encode(image.convert("L"))
    files[f"grey-progressive-{name}"] = encode(
      image.convert("L"), progressive=True, quality=30
    )
    files[f"cmyk-{name}"] = encode(image.convert("CMYK"))
    files[f"rgb-{name}"] = encode(image, keep_rgb=True)
    files[f"restart-{name}"] = encode(image, restart_marker_blocks=1)
    files[f"restart-rows-{name}"] = encode(image, restart_marker_rows=1)
    files[f"optimised-{name}"] = encode(image, optimize=True, quality=100)
    exif[0x0112] = place + 2
    files[f"rotated-{name}"] = encode(image, exif=exif)
    files[f"comment-{name}"] = encode(
      image, comment=b"\xff\xd8 no start", dpi=(72, 300), icc_profile=b"none"
    )
    plain = encode(image, quality=70)
    files[f"trailing-{name}"] = plain + b"\0\xff\xd9 and more"
    files[f"no-jfif-{name}"] = without_app(plain, 0)
    files[f"mpo-{name}"] = encode(
      image, "MPO", save_all=True, append_images=[image.rotate(90)]
    )
    for transform in (0, 1, 2):
      files[f"adobe-{transform}-{name}"] = after_start(
        without_app(plain, 0), adobe(transform)
      )
  return files


def damaged() -> dict[str, bytes]:
  """Files that are broken somewhere; some decoders make something of some."""
  files = {}
  start = encode(picture(64, 48, 3))
  progressive = encode(picture(64, 48, 4), progressive=True)
  for share in (0.01, 0.05, 0.2, 0.5, 0.9, 0.99):
    files[f"cut-{share}"] = start[: int(share * len(start))]
    files[f"cut-progressive-{share}"] = progressive[
      : int(share * len(progressive))
    ]
  files["no-end"] = start[:-2]
  files["start-alone"] = start[:2]
  files["leading-zero"] = b"\0" + start
  files["zeros-before-end"] = start[:-2] + b"\0" * 9 + start[-2:]
  frame = start.index(b"\xff\xc0")
  for name, place, value in (
    ("12-bit", 4, 12),
    ("no-height", 6, 0),
    ("taller", 6, start[frame + 6] + 16),
    ("wider", 8, start[frame + 8] + 16),
    ("two-components", 9, 2),
    ("lossless", 1, 0xC3),
    ("arithmetic", 1, 0xC9),
    ("extended", 1, 0xC1),
    ("sampling", 11, 0x41),
    ("component-name", 10, ord("R")),
  ):
    changed = bytearray(start)
    changed[frame + place] = value
    files[name] = bytes(changed)
  generator = np.random.default_rng(0)
  for number in range(30):
    changed = bytearray(progressive if number % 4 == 0 else start)
    changed[generator.integers(2, len(changed))] ^= 1 << generator.integers(8)
    files[f"flipped-{number}"] = bytes(changed)
  return files
