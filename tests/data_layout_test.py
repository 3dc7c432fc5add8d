"""Which folders are splits, which are classes, and how a tree is walked."""

import errno
import os
import re

import numpy as np
import pytest
from PIL import Image

from cassle_jax import data
from cassle_jax.data import layout
from cassle_jax.errors import UserError

META = ["meta/train.txt"]
FLAT = ["train/1.png", "train/2.png", "val/3.png"]


def write(root, names):
  """Empty files but for the endings' sake; folders end in a slash."""
  for name in names:
    path = root / name
    if name.endswith("/"):
      path.mkdir(parents=True)
      continue
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".png"):
      Image.new("RGB", (4, 4)).save(path)
    else:
      path.write_text("no picture")
  return f"folder:{root}"


@pytest.mark.parametrize(
  "names, count, classes, splits",
  [
    (META + FLAT, 2, (), ("train", "val")),
    (FLAT, 2, (), ("train", "val")),
    (["Train/a/1.png", "Val/a/2.png"], 1, ("a",), ("Train", "Val")),
    (["TRAIN/a/1.png", "TEST/a/2.png"], 1, ("a",), ("TRAIN", "TEST")),
    (["train2017/1.png", "val2017/2.png"], 1, (), ("train2017", "val2017")),
    (
      ["train/a/1.png", "test/a/2.png", "unlabeled/3.png", "unlabeled/4.png"],
      1,
      ("a",),
      ("train", "test", "unlabeled"),
    ),
    (
      ["training_set/a/1.png", "test_set/a/2.png"],
      1,
      ("a",),
      ("training_set", "test_set"),
    ),
    (["cars_train/1.png", "cars_test/2.png"], 1, (), None),
    (["train_images/1.png", "test_images/2.png", "doc/x.txt"], 1, (), None),
    (["bounding_box_train/1.png", "bounding_box_test/2.png"], 1, (), None),
    (["labeled/a/1.png", "unlabeled/2.png"], 1, ("a",), None),
    (["train/1.png", "docs/x.txt"], 1, (), ("train",)),
    (["train/a/1.png", "extra/2.png"], 1, ("a",), ("train", "extra")),
    # Classes, whatever they are called.
    (["bus/1.png", "train/1.png"], 2, ("bus", "train"), ()),
    (["exam/1.png", "test/1.png"], 2, ("exam", "test"), ()),
    (["test_tube/1.png", "train_station/1.png"], 2, None, ()),
    (["train_station/1.png", "bus_station/1.png"], 2, None, ()),
    (["query/1.png", "answer/1.png"], 2, ("answer", "query"), ()),
    (["training_shoe/1.png", "tested/1.png", "validity/1.png"], 3, None, ()),
  ],
)
def test_customary_names_are_splits(tmp_path, names, count, classes, splits):
  where = write(tmp_path, names)
  opened = data.open_source(where)
  assert len(opened) == count
  if classes is not None:
    assert opened.class_names == classes
    assert opened.has_labels == bool(classes)
  if splits is None:
    splits = {name.split("/")[0] for name in names if name.endswith("png")}
    assert set(data.split_names(where)) == splits
  else:
    assert data.split_names(where) == (splits or ("train",))
  for split in splits:
    assert data.open_source(where, split).split == split


def test_what_is_left_aside_is_told(tmp_path):
  where = write(tmp_path, [*META, *FLAT, "train/a/1.png", "loose.png"])
  assert data.open_source(where).aside == (
    "2 pictures beside the class folders",
    "val (other splits)",
    "meta (no split's name)",
  )


@pytest.mark.parametrize(
  "names, split, words",
  [
    (
      ["images/train/1.png", "images/val/2.png"],
      "train",
      "give folder:.*images",
    ),
    (["cat/train/1.png", "cat/val/2.png"], "train", "'cat' holds splits"),
    (["train2014/1.png", "train2017/2.png", "val/3.png"], "train", "train2014"),
    (["val/a/1.png"], "train", "the split 'val' alone; give .*folder:.*val"),
    (["val/1.png", "test/2.png"], "train", "split of folder.*'train'.*test"),
    (FLAT, "vall", "Did you mean 'val'"),
  ],
)
def test_what_could_be_two_things_is_refused(tmp_path, names, split, words):
  where = write(tmp_path, names)
  with pytest.raises(UserError, match=words) as error:
    data.open_source(where, split)
  assert "\n" not in str(error.value)


def test_a_class_list_takes_a_class_that_holds_splits(tmp_path):
  where = write(tmp_path, ["cat/train/1.png", "cat/val/2.png", "dog/1.png"])
  chosen = tmp_path / "classes.txt"
  chosen.write_text("cat\ndog\n")
  opened = data.open_source(where, class_list=str(chosen))
  assert opened.labels.tolist() == [0, 0, 1]


def test_splits_of_any_case_serve_the_evaluation(tmp_path):
  where = write(
    tmp_path, ["Train/a/1.png", "Train/b/1.png", "Val/a/1.png", "Val/b/1.png"]
  )
  assert data.labeled_splits(where) == ("train", "Val")
  for name in ("Train", "Val"):
    os.rename(tmp_path / name, tmp_path / f"{name}2017")
  assert data.labeled_splits(where) == ("train", "Val2017")


@pytest.mark.parametrize(
  "name, role",
  [
    ("train", "train"),
    ("Train_2017", "train"),
    ("trainset", "train"),
    ("val-2", "val"),
    ("validation", "val"),
    ("TEST", "test"),
    ("testing_data", "test"),
    ("unlabelled2017", "unlabeled"),
    ("trainer", None),
    ("training_shoe", None),
    ("2017", None),
    ("", None),
  ],
)
def test_roles(name, role):
  assert layout.role_of(name) == role


# Walking.


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("broken", ["b", "b/deep"])
def test_a_folder_that_cannot_be_listed_is_no_empty_one(
  tmp_path, monkeypatch, code, broken
):
  where = write(tmp_path, ["a/1.png", "b/2.png", "b/deep/3.png"])
  real, bad = os.scandir, os.path.join(tmp_path, *broken.split("/"))

  def scandir(path):
    if os.path.normpath(path) == bad:
      raise OSError(code, os.strerror(code), path)
    return real(path)

  monkeypatch.setattr(os, "scandir", scandir)
  words = f"{re.escape(bad)} cannot be read .{os.strerror(code)}"
  with pytest.raises(UserError, match=words):
    data.open_source(where)
  # The way out that the line names.
  chosen = tmp_path / "classes.txt"
  chosen.write_text("a\n")
  assert len(data.open_source(where, class_list=str(chosen))) == 1


@pytest.mark.parametrize(
  "link, target",
  [
    ("a/up", "../.."),
    ("a/here", "."),
    ("a/root", ".."),
    ("a/other", "../b"),
    ("a/deep", "../b/c"),
    ("a/circle", "circle"),
  ],
)
def test_links_that_lead_back_into_the_set_count_once(tmp_path, link, target):
  root = tmp_path / "set"
  where = write(root, ["a/1.png", "b/2.png", "b/c/3.png"])
  os.symlink(target, root / link)
  opened = data.open_source(where)
  assert sorted(opened.paths) == ["a/1.png", "b/2.png", "b/c/3.png"]


def test_links_that_lead_elsewhere_are_followed_once(tmp_path):
  root = tmp_path / "set"
  where = write(root, ["a/1.png"])
  write(tmp_path, ["other/2.png", "other/c/3.png"])
  os.symlink(tmp_path / "other", root / "a" / "other")
  os.symlink(tmp_path / "other", tmp_path / "other" / "c" / "again")
  opened = data.open_source(where)
  assert opened.paths == ["a/1.png", "a/other/2.png", "a/other/c/3.png"]


def test_what_systems_leave_behind_is_no_class(tmp_path):
  where = write(tmp_path, ["a/1.png", "__MACOSX/a/2.png", "lost+found/"])
  assert data.open_source(where).class_names == ("a",)


def test_the_order_is_that_of_os_walk(tmp_path):
  names = ["b.png", "a/x.png", "a.d/y.png", "a/b/z.png", "A/w.png", "a-b/v.png"]
  where = write(tmp_path, [f"k/{name}" for name in names])
  expected = [
    os.path.relpath(os.path.join(parent, name), tmp_path)
    for parent, _, files in sorted(os.walk(tmp_path / "k", followlinks=True))
    for name in sorted(files)
  ]
  opened = data.open_source(where)
  assert opened.paths == expected
  np.testing.assert_array_equal(opened.labels, 0)


def test_a_link_to_another_class_is_no_class(tmp_path):
  where = write(tmp_path, ["cat/1.png", "dog/2.png"])
  os.symlink("cat", tmp_path / "katze")
  opened = data.open_source(where)
  assert opened.class_names == ("cat", "dog") and len(opened) == 2
  assert opened.aside == ("katze (a link to another class)",)


def test_labels_beyond_all_classes_are_refused():
  images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.array([2**40, 1])
  with pytest.raises(UserError, match="go from 1 to 1099511627776"):
    data.ArraySource(images, labels)
