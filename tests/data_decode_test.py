"""Bytes to RGB as Pillow converts them, the canvas, the evaluation view."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from absl import logging
from PIL import Image

from cassle_jax.data import canvas, decode, pipeline
from cassle_jax.data.source import ArraySource
from cassle_jax.errors import UserError


def _noise(*shape, high=256, dtype=np.uint8):
  return np.random.default_rng(0).integers(0, high, shape, dtype=dtype)


def _smooth(height, width):
  y, x = np.mgrid[:height, :width]
  waves = [np.sin(x / 5 + y / 9), np.cos(x / 7), np.sin(y / 4)]
  return np.uint8(127.5 + 120 * np.stack(waves, -1))


def _encode(image, format_name, **options):
  buffer = io.BytesIO()
  image.save(buffer, format_name, **options)
  return buffer.getvalue()


def _files():
  rgb = Image.fromarray(_smooth(37, 53))
  alpha = Image.fromarray(_noise(37, 53, 4))
  palette = rgb.quantize(16)
  exif = Image.Exif()
  exif[0x0112] = 6
  return {
    "rgb.jpg": _encode(rgb, "JPEG", quality=80),
    "progressive.jpg": _encode(rgb, "JPEG", progressive=True),
    "grey.jpg": _encode(rgb.convert("L"), "JPEG"),
    "cmyk.jpg": _encode(rgb.convert("CMYK"), "JPEG"),
    "rotated.jpg": _encode(rgb, "JPEG", exif=exif),
    "rgb.png": _encode(rgb, "PNG"),
    "rgba.png": _encode(alpha, "PNG"),
    "la.png": _encode(alpha.convert("LA"), "PNG"),
    "bit.png": _encode(rgb.convert("1"), "PNG"),
    "palette.png": _encode(palette, "PNG"),
    "palette_index.png": _encode(palette, "PNG", transparency=3),
    "palette_bytes.png": _encode(palette, "PNG", transparency=b"\0\x80\xff"),
    "rgb_transparent.png": _encode(rgb, "PNG", transparency=(1, 2, 3)),
    "grey16.png": _encode(
      Image.fromarray(_noise(37, 53, high=600, dtype=np.uint16)), "PNG"
    ),
    "rgb.webp": _encode(rgb, "WEBP", quality=90),
    "rgba.webp": _encode(alpha, "WEBP", lossless=True),
    "palette.gif": _encode(palette, "GIF"),
    "rgb.bmp": _encode(rgb, "BMP"),
    "rgb.tif": _encode(rgb, "TIFF"),
    "rgb.ppm": _encode(rgb, "PPM"),
  }


FILES = _files()


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_convert(name):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Pillow's about transparency.
    reference = Image.open(io.BytesIO(FILES[name])).convert("RGB")
  ours = decode.picture(FILES[name])
  assert ours.mode == "RGB"
  np.testing.assert_array_equal(np.asarray(ours), np.asarray(reference))
  assert np.asarray(ours).shape == (37, 53, 3)  # EXIF's rotation is ignored.


def test_known_pixels():
  pixels = np.array([[[10, 20, 30, 0], [200, 100, 50, 255]]], np.uint8)
  ours = decode.picture(_encode(Image.fromarray(pixels), "PNG"))
  np.testing.assert_array_equal(np.asarray(ours), pixels[..., :3])
  cmyk = Image.fromarray(np.zeros((8, 8, 4), np.uint8), "CMYK")
  ours = decode.picture(_encode(cmyk, "TIFF"))
  assert (np.asarray(ours) == 255).all()


def test_16_bits_per_channel():
  values = np.array([[0, 100, 255, 256, 65535]], np.uint16)
  grey = decode.picture(_encode(Image.fromarray(values), "PNG"))
  expected = [0, 100, 255, 255, 255]  # Clipped, as convert("RGB") does.
  np.testing.assert_array_equal(np.asarray(grey)[0, :, 1], expected)

  def chunk(kind, data):
    body = kind + data
    return (
      struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    )

  # Pillow writes no 16-bit colour PNG: one row of 2 pixels by hand.
  row = b"\0" + struct.pack(">6H", 0x1234, 0xFFFF, 0, 0x80FF, 0x8000, 0x00FF)
  data = b"\x89PNG\r\n\x1a\n"
  data += chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
  data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
  high_bytes = [[[0x12, 0xFF, 0], [0x80, 0x80, 0]]]
  np.testing.assert_array_equal(np.asarray(decode.picture(data)), high_bytes)


def test_16_bit_grey_is_announced(monkeypatch):
  said = []
  monkeypatch.setattr(logging, "log_first_n", lambda *all: said.append(all[1]))
  decode.picture(FILES["grey.jpg"])
  assert not said
  decode.picture(FILES["grey16.png"])
  assert "16-bit grey" in said[0]


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "empty file"),
    (b"this is a text file, not a picture", "not a picture"),
    (FILES["rgb.jpg"][:-300], "truncated"),
    (FILES["rgb.png"][:-200], "truncated"),
    (FILES["rgb.webp"][:40], "."),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
  ],
  ids=["empty", "text", "jpeg", "png", "webp", "eps"],
)
def test_damaged_files(data, message):
  with pytest.raises(decode.CorruptImage, match=message):
    decode.picture(data)


def test_bit_flips_either_decode_or_are_corrupt():
  generator = np.random.default_rng(3)
  for name in ("rgb.jpg", "rgb.png", "rgb.webp", "palette.gif", "rgb.tif"):
    for _ in range(40):
      data = bytearray(FILES[name])
      data[generator.integers(len(data))] ^= 1 << generator.integers(8)
      try:
        assert decode.picture(bytes(data)).mode == "RGB"
      except decode.CorruptImage as error:
        assert str(error)


@pytest.mark.parametrize("limit", [37 * 53 - 1, 37 * 53 // 3])
def test_decompression_bombs(monkeypatch, limit):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
  for action in ("error", "ignore"):
    with warnings.catch_warnings():
      warnings.simplefilter(action)
      with pytest.raises(decode.CorruptImage):
        decode.picture(FILES["rgb.png"])


def test_missing_file(tmp_path):
  with pytest.raises(decode.CorruptImage, match="No such file"):
    decode.read_bytes(str(tmp_path / "gone.jpg"))


def _triangle_matrix(size_in, size_out):
  """Antialiased linear interpolation: [size_out, size_in] float64."""
  scale = size_in / size_out
  support = max(scale, 1.0)
  centres = (np.arange(size_out) + 0.5) * scale
  places = np.arange(size_in) + 0.5
  weights = 1 - np.abs(places[None] - centres[:, None]) / support
  weights = np.maximum(weights, 0)
  return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("side", "stored"), [(16, (11, 16)), (52, (36, 52))])
def test_large_pictures_are_shrunk_to_fit(side, stored):
  """37 x 53 by hand: the longer side becomes the canvas's."""
  pixels = _noise(37, 53, 3)
  board = _noise(side, side, 3)
  ours = ArraySource(pixels[None]).place(0, board)
  assert ours == ((37, 53), stored)
  rows, columns = (
    _triangle_matrix(n, m) for n, m in zip((37, 53), stored, strict=True)
  )
  expected = np.einsum("ih,hwc,jw->ijc", rows, pixels, columns)
  np.testing.assert_allclose(board[: stored[0]], expected, atol=1.01)
  assert (board[stored[0] :] == 0).all()


@pytest.mark.parametrize("side", [53, 64])
def test_pictures_that_fit_keep_their_pixels(side):
  pixels = _noise(37, 53, 3)
  board = _noise(side, side, 3)
  ours = ArraySource(pixels[None]).place(0, board)
  assert ours == ((37, 53), (37, 53))
  np.testing.assert_array_equal(board[:37, :53], pixels)
  assert (board[37:] == 0).all() and (board[:, 53:] == 0).all()


@pytest.mark.parametrize(
  ("size", "stored"),
  [
    ((513, 300), (512, 299)),
    ((512, 1), (512, 1)),
    ((4, 4096), (1, 512)),
    ((375, 500), (375, 500)),
  ],
)
def test_sizes_on_a_canvas(size, stored):
  assert canvas.fitted(size, 512) == stored


@pytest.mark.parametrize(
  ("height", "width", "size", "resized", "corner"),
  [
    # (width, height) after the resize; (left, top) of the crop, by hand.
    (40, 60, 28, (48, 32), (10, 2)),
    (61, 40, 28, (32, 48), (2, 10)),
    (10, 10, 28, (32, 32), (2, 2)),
    # int(256 * 500 / 375) = 341, round(117 / 2) = 58 (half to even).
    (375, 500, 224, (341, 256), (58, 16)),
  ],
)
def test_evaluation_crop(height, width, size, resized, corner):
  image = Image.fromarray(_smooth(height, width))
  left, top = corner
  reference = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
  reference = reference[top : top + size, left : left + size]
  ours = decode.evaluation_crop(image, size)
  np.testing.assert_array_equal(ours, reference)


def test_evaluation_crop_of_another_short_side():
  """Resized to 28 x 42 by hand, and the middle of the long side cut out."""
  image = Image.fromarray(_smooth(40, 60))
  reference = np.asarray(image.resize((42, 28), Image.Resampling.BICUBIC))
  ours = decode.evaluation_crop(image, 28, short_side=28)
  np.testing.assert_array_equal(ours, reference[:, 7:35])


def test_evaluation_crop_leaves_the_right_size_alone():
  pixels = _noise(28, 28, 3)
  ours = decode.evaluation_crop(Image.fromarray(pixels), 28)
  np.testing.assert_array_equal(ours, pixels)


def encoded(image, kind):
  buffer = io.BytesIO()
  image.save(buffer, kind)
  return buffer.getvalue()


def test_floats_in_the_unit_interval_are_scaled():
  values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
  found = decode.picture(encoded(Image.fromarray(values), "TIFF"))
  grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)
  np.testing.assert_array_equal(np.asarray(found), grey)
  values = values * 300 - 20
  values[0, 0] = np.nan
  found = decode.picture(encoded(Image.fromarray(values), "TIFF"))
  expected = np.clip(np.round(np.nan_to_num(values)), 0, 255)
  np.testing.assert_array_equal(np.asarray(found)[..., 0], expected)


# The filter of the module is none of pytest's.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_of_pixels_is_a_key(tmp_path):
  Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
  where = f"folder:{tmp_path}"
  options = dict(source=where, batch_size=1, image_size=8, on_error="stop")
  try:
    with pytest.raises(UserError, match="30x20 pixels are more than the 599"):
      pipeline.build(**options, max_pixels=599)
    # Pillow itself refuses twice the limit.
    with pytest.raises(
      UserError, match=r"600 pixels.*--config.data.max_pixels"
    ):
      pipeline.build(**options, max_pixels=200)
    pipeline.build(**options, max_pixels=600)
  finally:
    decode.limit_pixels(None)
  assert Image.MAX_IMAGE_PIXELS == decode.MAX_PIXELS


@pytest.mark.parametrize("size", [(3000, 16), (16, 3000), (3001, 17)])
def test_thin_pictures_are_cut_before_they_are_resized(size, monkeypatch):
  noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
  image = Image.fromarray(noise)
  found = decode.evaluation_crop(image, 28)
  monkeypatch.setattr(decode, "_THIN", 1e9)
  whole = decode.evaluation_crop(image, 28)
  # Pillow may take the two passes in another order, and rounds between them.
  off = np.abs(found.astype(int) - whole)
  assert off.mean() < 0.5 and off.max() <= 16


def test_a_very_thin_picture_takes_no_more_than_its_share():
  found = decode.evaluation_crop(Image.new("RGB", (1, 65000)), 224)
  assert found.shape == (224, 224, 3)
