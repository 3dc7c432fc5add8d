"""Bundled tiles, folders and arrays; errors; what the import pulls in."""

import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import cassle_jax
from cassle_jax import data
from cassle_jax.data import folder, sources
from cassle_jax.errors import UserError

EARTH = os.path.join(os.path.dirname(sources.__file__), "earth")


def _pixels(value, height=6, width=8):
  generator = np.random.default_rng(value)
  return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _write(root, names, height=6, width=8):
  """Writes one PNG a name; its pixels are drawn from its place in `names`."""
  for place, name in enumerate(names):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_pixels(place, height, width)).save(path, "PNG")


# Bundled tiles.


@pytest.mark.parametrize(("split", "count"), [("train", 4202), ("test", 668)])
def test_earth_counts(split, count):
  source = data.open_source("bundled:earth", split)
  assert len(source) == len(source.labels) == count
  assert len(source.class_names) == 9 and source.class_names[0] == "water"
  assert source.shape == (32, 32)
  per_class = np.bincount(source.labels, minlength=9)
  most = 800 if split == "train" else 100
  assert len(per_class) == 9 and per_class.min() > 0
  assert per_class.max() <= most


@pytest.mark.parametrize("index", [0, 63, 64, 1000, 4201])
def test_earth_tiles_are_cut_from_the_mosaic(index):
  with Image.open(os.path.join(EARTH, "train.jpg")) as mosaic:
    left, top = 32 * (index % 64), 32 * (index // 64)
    tile = np.asarray(mosaic.crop((left, top, left + 32, top + 32)))
  image, label = data.open_source("bundled:earth").get(index)
  np.testing.assert_array_equal(image, tile)
  with open(os.path.join(EARTH, "labels.json"), encoding="utf-8") as file:
    assert label == json.load(file)["train"]["labels"][index]


def test_earth_tiles_do_not_bleed():
  # One tile recompressed alone must be the tile in the mosaic, up to JPEG's
  # rounding: its blocks are its own.
  source = data.open_source("bundled:earth")
  for index in (5, 700, 4000):
    image, _ = source.get(index)
    buffer = io.BytesIO()
    with Image.open(os.path.join(EARTH, "train.jpg")) as mosaic:
      tables = mosaic.quantization
    Image.fromarray(image).save(
      buffer, "JPEG", qtables=tables, subsampling="4:4:4"
    )
    alone = np.asarray(Image.open(buffer)).astype(int)
    assert np.abs(alone - image).mean() < 0.5


# Folders.


def test_folder_is_numbered_as_torchvision_does(tmp_path):
  # Case-sensitive order of classes and files, subfolders after their parent's
  # files; other endings, hidden folders and files outside classes left out.
  names = ["Zebra/b.PNG", "Zebra/c.jpg", "ant/1/a.png", "ant/10.png"]
  names += ["ant/2.png", ".cache/x.png", "loose.png"]
  _write(tmp_path, names)
  (tmp_path / "ant" / "notes.txt").write_text("no picture")
  source = data.open_source(f"folder:{tmp_path}")
  assert source.class_names == ("Zebra", "ant")
  found = [os.path.relpath(source.locate(i), tmp_path) for i in range(5)]
  assert found == [
    "Zebra/b.PNG",
    "Zebra/c.jpg",
    "ant/10.png",
    "ant/2.png",
    "ant/1/a.png",
  ]
  assert len(source) == 5
  np.testing.assert_array_equal(source.labels, [0, 0, 1, 1, 1])
  for index, place in enumerate([0, 1, 3, 4, 2]):
    image, label = source.get(index)
    np.testing.assert_array_equal(image, _pixels(place))
    assert label == source.labels[index]


def test_folder_splits(tmp_path):
  _write(tmp_path, ["train/a/1.png", "train/b/2.png", "val/a/3.png"])
  (tmp_path / "devkit").mkdir()
  assert folder.folder_splits(str(tmp_path)) == ("train", "val")
  assert len(data.open_source(f"folder:{tmp_path}")) == 2
  assert len(data.open_source(f"folder:{tmp_path}", "val")) == 1
  with pytest.raises(UserError, match="'vall'. Did you mean 'val'"):
    data.open_source(f"folder:{tmp_path}", "vall")
  # The split's own folder can be given, too.
  assert len(data.open_source(f"folder:{tmp_path}/train")) == 2


def test_a_class_may_be_called_train(tmp_path):
  _write(tmp_path, ["bus/1.png", "car/1.png", "train/1.png", "train/2.png"])
  source = data.open_source(f"folder:{tmp_path}")
  assert source.class_names == ("bus", "car", "train")
  assert data.split_names(f"folder:{tmp_path}") == ("train",)


def test_flat_folder_is_unlabeled(tmp_path):
  _write(tmp_path, ["b.png", "a.png"])
  source = data.open_source(f"folder:{tmp_path}")
  assert source.labels is None and not source.has_labels
  image, label = source.get(0)
  np.testing.assert_array_equal(image, _pixels(1))
  assert label == -1


def test_folder_follows_links_and_leaves_out_dead_ones(tmp_path):
  _write(tmp_path, ["real/1.png"])
  root = tmp_path / "set"
  root.mkdir()
  (root / "linked").symlink_to(tmp_path / "real")
  assert len(data.open_source(f"folder:{root}")) == 1


def test_class_list_gives_the_labels(tmp_path):
  _write(tmp_path, ["a/1.png", "b/1.png", "c/1.png", "c/2.png"])
  chosen = tmp_path / "classes.txt"
  chosen.write_text("c\na\n\n")
  source = data.open_source(f"folder:{tmp_path}", class_list=str(chosen))
  assert source.class_names == ("c", "a")
  np.testing.assert_array_equal(source.labels, [0, 0, 1])
  assert source.locate(2).endswith("a/1.png")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("a\nd\n", "class 'd' of the class list has no folder"),
    ("a\na\n", "names 'a' twice"),
    ("a\n\nb", "empty line"),
    ("", "empty line"),
  ],
)
def test_bad_class_lists(tmp_path, text, message):
  _write(tmp_path, ["a/1.png", "b/1.png"])
  chosen = tmp_path / "classes.txt"
  chosen.write_text(text)
  with pytest.raises(UserError, match=message):
    data.open_source(f"folder:{tmp_path}", class_list=str(chosen))


def test_common_shape(tmp_path):
  _write(tmp_path, ["a/1.png", "a/2.png"], 6, 8)
  assert data.open_source(f"folder:{tmp_path}").shape == (6, 8)
  (tmp_path / "a" / "3.png").write_bytes(b"")
  assert data.open_source(f"folder:{tmp_path}").shape == (6, 8)
  _write(tmp_path, ["a/4.png"], 6, 9)
  assert data.open_source(f"folder:{tmp_path}").shape is None


# Arrays.


def _arrays(count=7):
  images = np.stack([_pixels(place) for place in range(count)])
  return images, np.arange(count, dtype=np.int64) % 3


def test_npy_is_memory_mapped(tmp_path):
  images, labels = _arrays()
  np.save(tmp_path / "set.npy", images)
  source = data.open_source(f"npy:{tmp_path}/set.npy")
  assert isinstance(source.images, np.memmap) and source.labels is None
  np.save(tmp_path / "set_labels.npy", labels)
  source = data.open_source(f"npy:{tmp_path}/set.npy")
  np.testing.assert_array_equal(source.labels, labels)
  image, label = source.get(5)
  np.testing.assert_array_equal(image, images[5])
  assert label == 2 and source.labels.dtype == np.int32


def test_npz_and_folder_of_arrays(tmp_path):
  images, labels = _arrays()
  np.savez(tmp_path / "train.npz", images=images, labels=labels)
  np.save(tmp_path / "test.npy", images[:2])
  np.save(tmp_path / "test_labels.npy", labels[:2])
  source = data.open_source(f"npy:{tmp_path}/train.npz")
  np.testing.assert_array_equal(source.images, images)
  np.testing.assert_array_equal(source.labels, labels)
  assert data.split_names(f"npy:{tmp_path}") == ("test", "train")
  assert len(data.open_source(f"npy:{tmp_path}")) == 7
  assert len(data.open_source(f"npy:{tmp_path}", "test")) == 2


def _bad_arrays(root):
  images, labels = _arrays()
  np.save(root / "float.npy", images.astype(np.float32))
  np.save(root / "grey.npy", images[..., 0])
  np.save(root / "none.npy", images[:0])
  np.save(root / "short.npy", images)
  np.save(root / "short_labels.npy", labels[:3])
  np.save(root / "real.npy", images)
  np.save(root / "real_labels.npy", labels.astype(float))
  np.savez(root / "other.npz", pictures=images)
  pickled = np.array([{"run": "code"}], dtype=object)
  np.save(root / "pickle.npy", pickled, allow_pickle=True)
  np.savez(root / "pickle.npz", images=pickled)
  whole = (root / "short.npy").read_bytes()
  (root / "cut.npy").write_bytes(whole[:400])
  (root / "cut.npz").write_bytes((root / "other.npz").read_bytes()[:300])
  (root / "set.txt").write_text("1 2 3")


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("float.npy", r"float32 \[7, 6, 8, 3\]; they must be uint8"),
    ("grey.npy", r"uint8 \[7, 6, 8\]"),
    ("none.npy", "no images"),
    ("short.npy", r"labels are int64 \[3\]"),
    ("real.npy", "labels are float64"),
    ("other.npz", "holds pictures; it must hold `images`"),
    ("pickle.npy", "cannot be read"),
    ("pickle.npz", "cannot be read"),
    ("cut.npy", "cannot be read"),
    ("cut.npz", "cannot be read"),
    ("set.txt", "ending in .npy or .npz"),
    ("gone.npy", "no such file"),
  ],
)
def test_bad_arrays(tmp_path, name, message):
  _bad_arrays(tmp_path)
  with pytest.raises(UserError, match=message) as caught:
    data.open_source(f"npy:{tmp_path}/{name}")
  assert "\n" not in str(caught.value)


# Errors and imports.


@pytest.mark.parametrize(
  ("source", "split", "message"),
  [
    ("bundled:erth", "train", "Did you mean 'earth'"),
    ("bundled:earth", "val", "Valid: test, train"),
    ("earth", "train", "write --config.data.source=bundled:earth"),
    ("mars:x", "train", "Valid: bundled:earth, folder:PATH"),
    ("folder:", "train", "Did you mean 'folder:PATH'"),
    ("folder:/no/such/place", "train", "does not exist"),
    ("bundled:earth", "tset", "Did you mean 'test'"),
  ],
)
def test_bad_names(source, split, message):
  with pytest.raises(UserError, match=message) as caught:
    data.open_source(source, split)
  assert "\n" not in str(caught.value)


def test_empty_folders(tmp_path):
  for root in (tmp_path, tmp_path / "set"):
    (root / "a").mkdir(parents=True)
    (root / "a" / "notes.txt").write_text("no picture")
  with pytest.raises(UserError, match="no pictures in"):
    data.open_source(f"folder:{tmp_path}/set")
  with pytest.raises(UserError, match="is no folder"):
    data.open_source(f"folder:{tmp_path}/a/notes.txt")


def test_class_list_needs_class_names():
  with pytest.raises(UserError, match="class_list works with folder: and"):
    data.open_source("bundled:earth", class_list="x.txt")


def test_sources_can_be_pickled(tmp_path):
  _write(tmp_path, ["a/1.png", "b/1.png"])
  source = data.open_source(f"folder:{tmp_path}")
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy.get(1)[0], source.get(1)[0])


def test_import_is_light():
  code = (
    "import sys, cassle_jax.data as data; data.open_source('bundled:earth');"
    "print([each for each in ('jax', 'tensorflow', 'torch', 'grain',"
    "'tensorflow_datasets', 'flax') if each in sys.modules])"
  )
  root = os.path.dirname(os.path.dirname(cassle_jax.__file__))
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=root,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.stdout.strip() == "[]", done.stderr
