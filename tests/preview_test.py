"""The preview: what is drawn where, and the command."""

import os

import numpy as np
import pytest
from PIL import Image

from cassle_jax import errors, preview
from cassle_jax.augment import omega

CONFIG = os.path.join(os.path.dirname(__file__), "../configs/quickstart.py")

VANILLA = "--config.awareness.name=vanilla"


def described(count, **values):
  """A neutral omega with some fields changed, for every image."""
  fields = {
    name: np.asarray(value)
    for name, value in omega.neutral((count,), omega.FIELDS).items()
  }
  for name, value in values.items():
    fields[name] = np.asarray([value] * count, np.float32)
  return fields


@pytest.mark.parametrize(
  "field,value,text,applied",
  [
    ("blur", [1.5], "1.50", True),
    ("blur", [0.0], "no", False),
    ("color", [0.25, -0.5, 0.0, 0.1], "+.25   -.50   +.00   +.10", True),
    ("color", [0.0] * 4, "no", False),
    ("color_diff", [-0.25, 0.5, 0.0], "-.25   +.50   +.00", True),
    ("crop", [0.5, 0.25, 1.0, 0.5], "0.50, 0.25   1.00 x 0.50", True),
    ("crop", [0.5, 0.5, 1.0, 1.0], "0.50, 0.50   1.00 x 1.00", False),
    ("flip", [1.0], "yes", True),
    ("grayscale", [0.0], "no", False),
    ("rotation", [0.0, 0.0, 1.0, 0.0], "2", True),
    ("rotation", [1.0, 0.0, 0.0, 0.0], "0", False),
    ("solarize", [0.4], "0.40", True),
    ("solarize", [1.0], "no", False),
  ],
)
def test_text_of_every_field(field, value, text, applied):
  assert preview.text_of(field, np.asarray(value)) == (text, applied)


def test_draw_places_pictures_views_and_boxes():
  red, green = (200, 10, 10), (10, 200, 10)
  picture = np.full((40, 80, 3), red, np.uint8)
  views = np.full((2, 16, 16, 3), green, np.uint8)
  # A box on the right half; the view was flipped, so omega mirrors it.
  told = described(2, crop=[0.5, 0.25, 1.0, 0.5], flip=[1.0])
  sheet = preview.draw([picture] * 2, [(views, told)], ["crop", "flip"])
  assert sheet.mode == "RGB"
  pixels = np.asarray(sheet)
  is_green = np.all(pixels == green, axis=-1)
  is_red = np.all(pixels == red, axis=-1)
  # Two views of one tile each, both of 216 x 216 pixels.
  assert is_green.sum() == 2 * 216 * 216
  assert is_red.any(1).sum() == 2 * 108
  frame = np.all(pixels == preview._FRAMES[0], axis=-1)
  columns = np.flatnonzero(is_red.any(0))
  left, right = columns[0], columns[-1]
  inside = frame[:, left : right + 1].any(0)
  assert not inside[: (right - left) // 2 - 4].any()
  assert inside[(right - left) // 2 + 4 :].all()


def test_draw_grows_with_what_it_shows():
  views = (np.zeros((1, 8, 8, 3), np.uint8), described(1))
  picture = [np.zeros((8, 8, 3), np.uint8)]
  one = preview.draw(picture, [views], ["flip"])
  two = preview.draw(picture, [views] * 2, ["flip"])
  more = preview.draw(
    picture, [views], list(omega.FIELDS), title="a", names="b"
  )
  assert two.width > one.width and two.height == one.height
  assert more.height > one.height and more.width == one.width


def test_to_pixels_undoes_the_normalisation():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (2, 5, 5, 3), np.uint8)
  mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
  view = (image / 255 - mean) / std
  np.testing.assert_array_equal(preview.to_pixels(view, mean, std), image)


def test_command_writes_a_file(tmp_path, capsys):
  out = tmp_path / "views.png"
  arguments = [f"--config={CONFIG}", "--images=2", "--draws=1"]
  assert preview.main([*arguments, f"--out={out}"]) == 0
  printed = capsys.readouterr()
  assert "blur, color, color_diff, crop" in printed.out
  # As training says it.
  assert printed.err == "bundled:earth, train: 4,202 pictures in 9 classes\n"
  with Image.open(out) as sheet:
    assert sheet.size[0] > 3 * 216
  assert preview.main([*arguments, f"--out={out}", VANILLA]) == 0
  assert "projector is told: nothing" in capsys.readouterr().out
  # Found by the encoder, at the end.
  with pytest.raises(errors.UserError, match="unknown file extension"):
    preview.main([*arguments, f"--out={tmp_path}/views.nope"])


@pytest.mark.parametrize(
  "cell, columns", [("mocov2/looc", 4), ("simclr/ai", 3 * 2)]
)
def test_command_draws_all_views_and_descriptors(tmp_path, cell, columns):
  """LooC has a query and three keys; AI shows each of its descriptors."""
  grid = os.path.join(os.path.dirname(CONFIG), "grid.py")
  out = tmp_path / "views.png"
  arguments = [f"--config={grid}:{cell}", "--images=1", "--draws=1"]
  assert preview.main([*arguments, f"--out={out}"]) == 0
  with Image.open(out) as sheet:
    assert sheet.size[0] == 2 * 24 + (1 + columns) * 216 + columns * 16


@pytest.mark.parametrize(
  "argument,message",
  [
    ("--images=0", "at least 1"),
    ("--draws=0", "at least 1"),
    ("--config.augment.blur_kernel=99", "too small for blur_kernel 99"),
    ("--out=/nope/x.png", "--out=/nope/x.png: .*no folder '/nope'"),
    ("--out=/", "existing folder"),
    ("--config.augment.preset=casle", "Did you mean 'cassle'"),
  ],
)
def test_command_refuses_bad_values(argument, message):
  with pytest.raises(errors.UserError, match=message):
    preview.main([f"--config={CONFIG}", argument])


@pytest.mark.parametrize("shape", [(1, 3000, 3), (3000, 1, 3), (1, 1, 3)])
def test_thin_pictures_have_frames(shape):
  box = np.array([[0.5, 0.5, 1.0, 0.001]], np.float32)
  view = np.zeros((1, 8, 8, 3), np.uint8)
  sheet = preview.draw(
    [np.zeros(shape, np.uint8)], [(view, {"crop": box})], ["crop"]
  )
  assert sheet.height > 200
