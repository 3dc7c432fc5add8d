"""Labeled images for evaluation."""

import numpy as np
import pytest
from absl import logging
from PIL import Image

from cassle_jax import data
from cassle_jax.data import decode
from cassle_jax.errors import UserError


def _pixels(place):
  generator = np.random.default_rng(place)
  shape = (40 + place, 60, 3)
  return generator.integers(0, 256, shape, dtype=np.uint8)


def _write(root, names):
  for place, name in enumerate(names):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_pixels(place)).save(path, "PNG")
  return f"folder:{root}"


def test_tiles_come_as_they_are():
  images, labels = data.labeled_images("bundled:earth", "test", 32)
  source = data.open_source("bundled:earth", "test")
  np.testing.assert_array_equal(images, source.images)
  np.testing.assert_array_equal(labels, source.labels)
  assert images.dtype == np.uint8 and labels.dtype == np.int32


def test_other_sizes_are_resized_and_cropped():
  images, _ = data.labeled_images("bundled:earth", "test", 24, indices=[9, 3])
  source = data.open_source("bundled:earth", "test")
  for row, index in enumerate((9, 3)):
    # round(24 * 256 / 224) = 27; the crop's corner is round(1.5) = 2.
    image = source.picture(index).resize((27, 27), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(images[row], np.asarray(image)[2:26, 2:26])


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_batches_are_the_whole_set_in_order(tmp_path, batch_size, threads):
  source = _write(
    tmp_path, [f"{name}/{i}.png" for i in (1, 2) for name in "ab"]
  )
  batches = list(
    data.labeled_batches(
      source, "train", 28, batch_size=batch_size, threads=threads
    )
  )
  assert [len(each) for each, _ in batches[:-1]] == [batch_size] * (
    len(batches) - 1
  )
  images = np.concatenate([each for each, _ in batches])
  expected = [
    decode.evaluation_crop(Image.fromarray(_pixels(place)), 28)
    for place in (0, 2, 1, 3)
  ]
  np.testing.assert_array_equal(images, expected)
  labels = np.concatenate([each for _, each in batches])
  np.testing.assert_array_equal(labels, [0, 0, 1, 1])


def test_unreadable_and_unknown_ones_are_left_out(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: said.append(text % values)
  )
  source = _write(tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
  (tmp_path / "a" / "2.png").write_bytes(b"text")
  images, labels = data.labeled_images(source, "train", 28)
  np.testing.assert_array_equal(labels, [0, 1])
  assert len(images) == 2 and len(said) == 1
  assert said[0].endswith("a/2.png: not a picture.")
  np.save(tmp_path / "x.npy", np.zeros((3, 8, 8, 3), np.uint8))
  np.save(tmp_path / "x_labels.npy", np.array([1, -1, 0]))
  _, labels = data.labeled_images(f"npy:{tmp_path}/x.npy", "train", 8)
  np.testing.assert_array_equal(labels, [1, 0])


def test_stopping_early_is_fine():
  batches = data.labeled_batches("bundled:earth", "train", 32, batch_size=4)
  assert next(batches)[0].shape == (4, 32, 32, 3)
  batches.close()


def test_unlabeled_sets_are_refused(tmp_path):
  source = _write(tmp_path / "flat", ["1.png"])
  with pytest.raises(UserError, match="has no labels"):
    data.labeled_images(source)
  source = _write(tmp_path / "bad", ["a/1.png"])
  (tmp_path / "bad" / "a" / "1.png").write_bytes(b"")
  with pytest.raises(UserError, match="no labeled picture"):
    data.labeled_images(source)


def test_which_splits_serve_evaluation(tmp_path):
  assert data.labeled_splits("bundled:earth") == ("train", "test")
  assert data.labeled_splits("bundled:earth", "test") == ("test", None)
  two = _write(tmp_path / "two", ["train/a/1.png", "val/a/1.png"])
  assert data.labeled_splits(two) == ("train", "val")
  three = _write(tmp_path / "two", ["test/a/1.png"])
  assert data.labeled_splits(three) == ("train", "val")
  one = _write(tmp_path / "one", ["a/1.png"])
  assert data.labeled_splits(one) == ("train", None)
  flat = _write(tmp_path / "flat", ["1.png"])
  assert data.labeled_splits(flat) is None


def test_splits_without_the_same_classes_are_left_aside(tmp_path):
  # A flat val folder (as ImageNet's is unpacked) has no labels.
  flat = _write(tmp_path / "flat", ["train/a/1.png", "val/1.png"])
  assert data.labeled_splits(flat) == ("train", None)
  other = _write(tmp_path / "x", ["train/a/1.png", "val/b/1.png"])
  assert data.labeled_splits(other) == ("train", None)
  chosen = tmp_path / "classes.txt"
  chosen.write_text("a\n")
  same = _write(tmp_path / "y", ["train/a/1.png", "val/a/1.png", "val/b/1.png"])
  splits = data.labeled_splits(same, class_list=str(chosen))
  assert splits == ("train", "val")
