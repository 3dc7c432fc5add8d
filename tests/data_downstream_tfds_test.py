"""Downstream sets that TFDS prepared: which are read, which refused."""

import contextlib
import io
import sys

import numpy as np
import pytest
from PIL import Image

from cassle_jax.data import downstream
from cassle_jax.data.downstream import binaries
from cassle_jax.errors import UserError


def _prepare(folder, name, classes, parts):
  """Prepares the builder `name` with (place, label) rows for each split."""
  import tensorflow_datasets as tfds

  def info(self):
    features = {
      "image": tfds.features.Image(shape=(None, None, 3)),
      "label": tfds.features.ClassLabel(names=list(classes)),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def records(rows):
    for place, label in rows:
      buffer = io.BytesIO()
      Image.fromarray(_pixels(place)).save(buffer, "PNG")
      buffer.seek(0)
      yield place, {"image": buffer, "label": label}

  body = {
    "VERSION": tfds.core.Version("3.0.1"),
    "name": name,
    "_info": info,
    "_split_generators": lambda self, manager: {
      split: records(rows) for split, rows in parts.items()
    },
    "_generate_examples": lambda self: (),
    "__module__": __name__,
  }
  with tfds.core.registered.skip_registration():
    builder = type(name, (tfds.core.GeneratorBasedBuilder,), body)
  with contextlib.redirect_stderr(io.StringIO()):
    builder(data_dir=folder, file_format="array_record").download_and_prepare()


def _pixels(place):
  generator = np.random.default_rng(place)
  return generator.integers(0, 256, (8, 9, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  _prepare(
    folder,
    "food101",
    ("apple_pie", "waffles"),
    {"train": [(0, 0), (1, 1), (2, 1)], "validation": [(3, 1), (4, 0)]},
  )
  names = sorted({*binaries.FC100_CLASSES, "apple", "tank"})
  rows = [(place, place) for place in range(len(names))]
  _prepare(folder, "cifar100", names, {"train": rows[:12], "test": rows[12:]})
  _prepare(
    folder,
    "imagenet2012",
    ("n01440764", "n01749939", "n02869837"),
    {"train": [(0, 0), (1, 1), (2, 2)], "validation": [(3, 2), (4, 0)]},
  )
  _prepare(
    folder, "stl10", ("airplane", "bird"), {"unlabelled": [(0, -1), (1, -1)]}
  )
  _prepare(
    folder, "caltech101", ("a", "background_google"), {"train": [(0, 0)]}
  )
  return folder


def _by_pixels(opened):
  """{place of the pixels: label}: records lie in the order of a hash."""
  found = {}
  for index in range(len(opened)):
    image, label = opened.get(index)
    assert label == opened.labels[index]
    place = next(i for i in range(30) if np.array_equal(image, _pixels(i)))
    found[place] = label
  return found


def test_a_prepared_set_is_read_as_its_owners_files(prepared):
  counts = {"train": 3, "test": 2}
  opened = downstream.open_set("food101", prepared, counts=counts)
  assert opened.class_names == ("apple_pie", "waffles")
  assert _by_pixels(opened) == {0: 0, 1: 1, 2: 1, 3: 1, 4: 0}
  test = downstream.open_set("food101", prepared, "test", counts=counts)
  assert _by_pixels(test) == {3: 1, 4: 0}
  drawn = downstream.splits("food101", opened=opened)
  np.testing.assert_array_equal(drawn.test, [3, 4])
  images, labels = next(downstream.batches(opened, 8))
  assert images.shape == (5, 8, 8, 3)
  np.testing.assert_array_equal(labels, opened.labels)
  assert "tensorflow" not in sys.modules


def test_counts_of_a_prepared_set(prepared):
  with pytest.raises(UserError, match="train has 3 pictures instead of 75,750"):
    downstream.open_set("food101", prepared)


def test_fc100_takes_its_classes(prepared):
  opened = downstream.open_set("fc100", prepared, counts={"all": 20})
  assert opened.class_names == binaries.FC100_CLASSES
  names = sorted({*binaries.FC100_CLASSES, "apple", "tank"})
  expected = {
    place: binaries.FC100_CLASSES.index(name)
    for place, name in enumerate(names)
    if name in binaries.FC100_CLASSES
  }
  assert _by_pixels(opened) == expected


def test_stl10_unlabelled(prepared):
  opened = downstream.open_set("stl10", prepared, "unlabeled", counts={})
  assert _by_pixels(opened) == {0: -1, 1: -1}
  with pytest.raises(UserError, match="stl10 .unlabeled. has no labels"):
    next(downstream.batches(opened, 8))


def test_imagenet100_needs_its_list(prepared, tmp_path):
  (tmp_path / "imagenet2012").symlink_to(prepared / "imagenet2012")
  assert downstream.available(tmp_path) == ("imagenet", "earth")
  with pytest.raises(UserError, match="imagenet100 is not in"):
    downstream.open_set("imagenet100", tmp_path)
  (tmp_path / "imagenet100").mkdir()
  chosen = tmp_path / "imagenet100" / "imagenet100.txt"
  chosen.write_text("n02869837\nn01749939\n")
  assert "imagenet100" in downstream.available(tmp_path)
  opened = downstream.open_set("imagenet100", tmp_path, counts={})
  assert _by_pixels(opened) == {1: 1, 2: 0, 3: 0}


def test_owners_files_come_first(prepared, tmp_path):
  (tmp_path / "food101").symlink_to(prepared / "food101")
  assert downstream.available(tmp_path) == ("food101", "earth")
  folder = tmp_path / "food-101"
  (folder / "images" / "apple_pie").mkdir(parents=True)
  (folder / "meta").mkdir()
  for file in ("train.txt", "test.txt"):
    (folder / "meta" / file).write_text(f"apple_pie/{file[:-4]}\n")
    Image.fromarray(_pixels(9)).save(
      folder / "images" / "apple_pie" / f"{file[:-4]}.jpg", "PNG"
    )
  (folder / "meta" / "classes.txt").write_text("apple_pie\n")
  opened = downstream.open_set("food101", tmp_path, counts={})
  assert len(opened) == 2 and opened.locate(0).endswith("train.jpg")


def test_builds_with_other_data_are_refused(prepared):
  assert "caltech101" not in downstream.available(prepared)
  with pytest.raises(UserError, match="caltech101 is TFDS's .* background"):
    downstream.open_set("caltech101", prepared)
