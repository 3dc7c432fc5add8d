"""The table of downstream sets, what is there, splits and batches."""

import numpy as np
import pytest
from PIL import Image

from cassle_jax import data
from cassle_jax.data import decode, downstream
from cassle_jax.data.downstream import splitting
from cassle_jax.errors import UserError

DATASETS = downstream.DATASETS
# What the published linear evaluation validates on.
PUBLISHED_VAL = {
  "cifar10": 5000,
  "cifar100": 5000,
  "food101": 7575,
  "mit67": 670,
  "pets": 740,
  "cars": 1144,
  "sun397": 3970,
  "cub200": 1000,
  "stl10": 500,
}


def _dtd(root):
  """Two classes, one picture of each in every part."""
  folder = root / "dtd"
  for seed, part in enumerate(("train", "val", "test")):
    names = [f"{name}/{part}.jpg" for name in ("banded", "dotted")]
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    (folder / "labels" / f"{part}1.txt").write_text("\n".join(names))
    for name in names:
      (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
      pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3))
      image = Image.fromarray(np.uint8(pixels))
      image.save(folder / "images" / name, "JPEG")
  return folder


# The table.


def test_the_table_is_whole():
  assert list(DATASETS) == (
    "cifar10 cifar100 food101 mit67 pets flowers102 caltech101 cars aircraft "
    "dtd sun397 cub200 300w stl10 imagenet100 imagenet fc100 plant_disease "
    "earth"
  ).split(" ")
  per_class = {"pets", "flowers102", "caltech101", "aircraft"}
  parts = {
    "owner": {"train", "val", "test"},
    "holdout": {"train", "test"},
    "per_class": {"all"},
    "thirds": {"all"},
    "test": {"all"},
  }
  for name, row in DATASETS.items():
    assert row.name == name
    expected = "mean_per_class" if name in per_class else "top1"
    assert row.metric == ("landmarks" if name == "300w" else expected)
    assert set(row.counts) - {"unlabeled"} == parts[row.split]
    assert not row.tfds or set(row.tfds_parts) == set(row.counts)
    assert name == "earth" or (row.folder and row.needs and row.download)
    assert row.few_shot in {"", "all", *row.counts}
  few = {name for name, row in DATASETS.items() if row.few_shot}
  assert few == {"fc100", "cub200", "plant_disease", "earth"}


@pytest.mark.parametrize("name", [each for each in DATASETS if each != "earth"])
def test_a_missing_set_says_what_to_fetch(name, tmp_path):
  with pytest.raises(UserError) as error:
    downstream.open_set(name, tmp_path / "data")
  text, row = str(error.value), DATASETS[name]
  assert text.startswith(f"{name} is not in ") and "\n" not in text
  assert row.owner in text and row.download in text
  assert str(tmp_path / "data" / row.folder) in text


def test_unknown_names():
  with pytest.raises(UserError, match="'cifar'. Did you mean 'cifar10'"):
    downstream.open_set("cifar")
  with pytest.raises(UserError, match="'valid'.* Valid: all, test, train"):
    downstream.open_set("earth", split="valid")


def test_available(tmp_path):
  assert downstream.available(tmp_path / "none") == ("earth",)
  folder = _dtd(tmp_path)
  assert downstream.available(tmp_path) == ("dtd", "earth")
  (folder / "labels" / "val1.txt").unlink()
  assert downstream.available(tmp_path) == ("earth",)
  with pytest.raises(UserError, match="not complete: labels/val1.txt is not"):
    downstream.open_set("dtd", tmp_path)


def test_counts_that_differ(tmp_path):
  _dtd(tmp_path)
  with pytest.raises(UserError) as error:
    downstream.open_set("dtd", tmp_path, counts={"train": 2, "test": 1_234})
  assert "test has 2 pictures instead of 1,234" in str(error.value)
  assert "train has" not in str(error.value)
  with pytest.raises(UserError, match="val has 2 pictures instead of 1,880"):
    downstream.open_set("dtd", tmp_path, "val")


def test_a_home_folder_is_found(tmp_path, monkeypatch):
  _dtd(tmp_path / "data")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert "dtd" in downstream.available("~/data")
  opened = downstream.open_set("dtd", "~/data", counts={})
  assert opened.get(5)[0].shape == (40, 50, 3)


# Splits.


def test_earth_is_split_in_proportion():
  opened = downstream.open_set("earth")
  drawn = downstream.splits("earth", opened=opened)
  again = downstream.splits("earth", seed=0)
  for one, other in zip(drawn[:3], again[:3], strict=True):
    np.testing.assert_array_equal(one, other)
    assert one.dtype == np.int32
  both = np.concatenate([drawn.train, drawn.val])
  np.testing.assert_array_equal(np.sort(both), np.arange(4202))
  np.testing.assert_array_equal(drawn.test, np.arange(4202, 4870))
  assert len(drawn.val) == 420
  share = np.bincount(opened.labels[:4202], minlength=9) * 420 / 4202
  held = np.bincount(opened.labels[drawn.val], minlength=9)
  assert np.abs(held - share).max() < 1
  assert "420" in drawn.rule and drawn.seed == 0
  other = downstream.splits("earth", seed=1, opened=opened)
  assert not np.array_equal(drawn.val, other.val)


@pytest.mark.parametrize("name", PUBLISHED_VAL)
def test_as_many_validate_as_published(name):
  row = DATASETS[name]
  lengths = {"train": row.counts["train"], "test": row.counts["test"]}
  total = sum(lengths.values())
  labels = np.random.default_rng(0).integers(0, row.classes, total)
  drawn = splitting.draw(row, labels, lengths, seed=0)
  assert len(drawn.val) == PUBLISHED_VAL[name]
  both = np.sort(np.concatenate([drawn.train, drawn.val]))
  np.testing.assert_array_equal(both, np.arange(lengths["train"]))
  assert len(drawn.test) == lengths["test"]
  assert drawn.test[0] == lengths["train"]


def test_equal_classes_give_equally():
  row = DATASETS["sun397"]
  labels = np.tile(np.arange(397), 100)
  drawn = splitting.draw(row, labels, {"train": 19850, "test": 19850}, seed=7)
  np.testing.assert_array_equal(np.bincount(labels[drawn.val]), [10] * 397)


@pytest.mark.parametrize(
  ("sizes", "holdout", "expected"),
  # Shares of 2.1, 0.6 and 0.3; of 2.5, 1.5 and 1.
  [((7, 2, 1), 0.3, [2, 1, 0]), ((5, 3, 2), 0.5, [3, 1, 1])],
)
def test_the_largest_fractions_round_up(sizes, holdout, expected):
  labels = np.repeat([0, 1, 2], sizes)
  row = DATASETS["earth"]._replace(holdout=holdout)
  drawn = splitting.draw(row, labels, {"train": 10, "test": 0}, seed=0)
  held = np.bincount(labels[drawn.val], minlength=3)
  np.testing.assert_array_equal(held, expected)


def test_the_draw_is_by_a_stored_order():
  # The order of a seed is the library's own, so that these never change.
  labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
  row = DATASETS["earth"]._replace(holdout=0.4)
  drawn = splitting.draw(row, labels, {"train": 10, "test": 2}, seed=5)
  order = data.permutation(10, seed=5)
  expected = [
    *[i for i in order if labels[i] == 0][:2],
    *[i for i in order if labels[i] == 1][:2],
  ]
  np.testing.assert_array_equal(drawn.val, np.sort(expected))


def test_caltech_draws_30_a_class():
  row = DATASETS["caltech101"]
  labels = np.sort(np.random.default_rng(0).integers(0, 101, 8677))
  drawn = splitting.draw(row, labels, {"all": 8677}, seed=2)
  np.testing.assert_array_equal(np.bincount(labels[drawn.train]), [25] * 101)
  np.testing.assert_array_equal(np.bincount(labels[drawn.val]), [5] * 101)
  assert len(drawn.test) == 5647
  np.testing.assert_array_equal(
    np.sort(np.concatenate(drawn[:3])), np.arange(8677)
  )


def test_owners_parts_are_kept(tmp_path):
  _dtd(tmp_path)
  opened = downstream.open_set("dtd", tmp_path, counts={})
  drawn = downstream.splits("dtd", tmp_path, 9, opened=opened)
  np.testing.assert_array_equal(drawn.train, [0, 1])
  np.testing.assert_array_equal(drawn.val, [2, 3])
  np.testing.assert_array_equal(drawn.test, [4, 5])


# Batches.


def test_batches_are_the_evaluation_views(tmp_path):
  folder = _dtd(tmp_path)
  opened = downstream.open_set("dtd", tmp_path, counts={})
  found = list(downstream.batches(opened, 28, 4))
  assert [len(labels) for _, labels in found] == [4, 2]
  images = np.concatenate([images for images, _ in found])
  labels = np.concatenate([labels for _, labels in found])
  np.testing.assert_array_equal(labels, [0, 1] * 3)
  assert labels.dtype == np.int32 and images.dtype == np.uint8
  with Image.open(folder / "images/dotted/val.jpg") as image:
    view = decode.evaluation_crop(image.convert("RGB"), 28, short_side=28)
  np.testing.assert_array_equal(images[3], view)


def test_sets_are_sources_for_the_rest_of_the_library():
  opened = downstream.open_set("earth", split="test")
  ours = downstream.batches(opened, 24, 300, threads=2)
  theirs = data.labeled_batches(
    "bundled:earth", "test", 24, batch_size=300, short_side=24
  )
  for one, other in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
  whole = downstream.open_set("earth")
  images, labels = data.labeled_images(whole, image_size=32, indices=[4202, 3])
  np.testing.assert_array_equal(images[0], opened.get(0)[0])
  np.testing.assert_array_equal(labels, whole.labels[[4202, 3]])


def test_rows_follow_the_indices():
  opened = downstream.open_set("earth")
  wanted = [4869, 0, 4202, 4201]
  images, places = next(downstream.rows(opened, 32, 8, indices=wanted))
  np.testing.assert_array_equal(places, wanted)
  for image, place in zip(images, wanted, strict=True):
    np.testing.assert_array_equal(image, opened.get(place)[0])
