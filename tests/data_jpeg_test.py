"""simplejpeg's pixels are Pillow's; what Pillow alone judges stays with it."""

import jpeg_corpus
import numpy as np
import pytest
from PIL import Image

from cassle_jax.data import decode, jpeg

WHOLE, DAMAGED = jpeg_corpus.whole(), jpeg_corpus.damaged()


@pytest.fixture
def reading(monkeypatch):
  """Places a picture with simplejpeg and without."""
  pytest.importorskip("simplejpeg")

  def read(data, side=80):
    results = []
    for module in (jpeg.simplejpeg, None):
      canvas = np.full((side, side, 3), 7, np.uint8)
      with monkeypatch.context() as patch:
        patch.setattr(jpeg, "simplejpeg", module)
        try:
          results.append((*decode.place(data, canvas), canvas.tobytes()))
        except decode.CorruptImage as error:
          results.append(str(error))
    return results

  return read


def test_the_corpus_is_of_200_files():
  assert len(WHOLE) + len(DAMAGED) == 200


@pytest.mark.parametrize(
  "share",
  [8, pytest.param(1, marks=pytest.mark.slow)],
)
def test_bits_are_the_same_with_and_without(reading, share):
  for name, data in list((WHOLE | DAMAGED).items())[::share]:
    ours, other = reading(data)
    assert ours == other, name
    assert name not in WHOLE or not isinstance(ours, str)
    # Shrunk to fit.
    ours, other = reading(data, side=24)
    assert ours == other, name


def test_it_decodes_what_is_usual_and_leaves_the_rest(monkeypatch):
  pytest.importorskip("simplejpeg")
  usual = ("37x53-0-95", "37x53-2-90", "grey-37x53", "rgb-37x53")
  for name in (*usual, "restart-37x53", "trailing-37x53", "rotated-37x53"):
    pixels = jpeg.decode(WHOLE[name])
    assert pixels.shape == (37, 53, 3)
    np.testing.assert_array_equal(pixels, decode.picture(WHOLE[name]))
  png = jpeg_corpus.encode(jpeg_corpus.picture(9, 9), "PNG")
  for data in (WHOLE["cmyk-37x53"], DAMAGED["cut-0.5"], png, b""):
    assert jpeg.decode(data) is None
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 37 * 53 - 1)
  assert jpeg.decode(WHOLE["37x53-0-95"]) is None


def test_a_thread_decodes_into_memory_of_its_own():
  pytest.importorskip("simplejpeg")
  first = jpeg.decode(WHOLE["37x53-0-95"])
  second = jpeg.decode(WHOLE["7x9-0-95"])
  assert np.shares_memory(first, second)
