"""CIFAR, FC100 and STL-10 from the owners' binary files."""

import numpy as np
import pytest

from cassle_jax.data import downstream
from cassle_jax.errors import UserError

COARSE = ("aquatic_mammals", "fish")


def _images(count, side, seed):
  generator = np.random.default_rng(seed)
  return generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def _records(images, *labels):
  """CIFAR's bytes, written pixel by pixel as its page describes them."""
  data = bytearray()
  for place, image in enumerate(images):
    data += bytes(each[place] for each in labels)
    for channel in range(3):
      for row in image:
        data += bytes(row[:, channel])
  return bytes(data)


def _names(path, names):
  path.write_text("\n".join(names) + "\n\n")


def _cifar10(root):
  folder = root / "cifar-10-batches-bin"
  folder.mkdir()
  images, labels = _images(12, 32, 0), np.arange(12) * 7 % 10
  for batch in range(5):
    rows = slice(2 * batch, 2 * batch + 2)
    path = folder / f"data_batch_{batch + 1}.bin"
    path.write_bytes(_records(images[rows], labels[rows]))
  (folder / "test_batch.bin").write_bytes(_records(images[10:], labels[10:]))
  _names(folder / "batches.meta.txt", [f"class {i}" for i in range(10)])
  return images, labels


def test_cifar10(tmp_path):
  images, labels = _cifar10(tmp_path)
  counts = {"train": 10, "test": 2}
  opened = downstream.open_set("cifar10", tmp_path, counts=counts)
  assert opened.shape == (32, 32) and opened.class_names[9] == "class 9"
  np.testing.assert_array_equal(opened.labels, labels)
  for place, image in enumerate(images):
    found, label = opened.get(place)
    np.testing.assert_array_equal(found, image)
    assert label == labels[place]
  test = downstream.open_set("cifar10", tmp_path, "test", counts=counts)
  np.testing.assert_array_equal(test.get(1)[0], images[11])


def test_cifar_counts_and_cut_files(tmp_path):
  _cifar10(tmp_path)
  with pytest.raises(UserError) as error:
    downstream.open_set("cifar10", tmp_path)
  assert (
    "train has 10 pictures instead of 50,000; test has 2 pictures instead of "
    "10,000" in str(error.value)
  )
  path = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(UserError, match="data_batch_3.bin is cut off"):
    downstream.open_set("cifar10", tmp_path, counts={})
  path.unlink()
  with pytest.raises(UserError, match="cannot be read .*data_batch_3.bin"):
    downstream.open_set("cifar10", tmp_path, counts={})


def test_a_label_without_a_name(tmp_path):
  _cifar10(tmp_path)
  _names(tmp_path / "cifar-10-batches-bin" / "batches.meta.txt", ["a", "b"])
  with pytest.raises(UserError, match="label 9, but 2 class names"):
    downstream.open_set("cifar10", tmp_path, counts={})


def test_pickles_are_refused(tmp_path):
  (tmp_path / "cifar-10-batches-py").mkdir()
  with pytest.raises(UserError, match="batches-py is the Python version, pick"):
    downstream.open_set("cifar10", tmp_path)
  assert downstream.available(tmp_path) == ("earth",)


def _cifar100(root):
  """24 pictures; the 20 of FC100 among them, in a drawn order."""
  # Coarse labels of the fine classes that FC100 takes, and four others.
  fine = [2, 4, 6, 7, 11, 14, 18, 24, 30, 34, 35, 46, 55, 63, 64, 66, 72, 75]
  coarse = [14, 0, 7, 7, 14, 7, 7, 7, 0, 12, 14, 14, 0, 12, 12, 12, 0, 12]
  fine += [95, 98] + [0, 1, 53, 99]
  coarse += [0, 14] + [4, 1, 4, 13]
  order = np.random.default_rng(1).permutation(24)
  fine, coarse = np.array(fine)[order], np.array(coarse)[order]
  images = _images(24, 32, 2)
  folder = root / "cifar-100-binary"
  folder.mkdir()
  for file, rows in (("train.bin", slice(16)), ("test.bin", slice(16, 24))):
    data = _records(images[rows], coarse[rows], fine[rows])
    (folder / file).write_bytes(data)
  _names(folder / "fine_label_names.txt", [f"fine {i}" for i in range(100)])
  return images, coarse, fine


def test_cifar100_takes_the_fine_labels(tmp_path):
  images, _, fine = _cifar100(tmp_path)
  counts = {"train": 16, "test": 8}
  opened = downstream.open_set("cifar100", tmp_path, counts=counts)
  np.testing.assert_array_equal(opened.labels, fine)
  assert len(opened.class_names) == 100
  for place in (0, 15, 16, 23):
    np.testing.assert_array_equal(opened.get(place)[0], images[place])


def test_fc100_is_cut_from_cifar100(tmp_path):
  images, coarse, fine = _cifar100(tmp_path)
  opened = downstream.open_set("fc100", tmp_path, counts={"all": 20})
  taken = [i for i in range(24) if coarse[i] in (0, 7, 12, 14)]
  classes = sorted(set(fine[taken]))
  assert opened.class_names == tuple(f"fine {i}" for i in classes)
  assert len(classes) == downstream.DATASETS["fc100"].classes
  expected = [classes.index(fine[i]) for i in taken]
  np.testing.assert_array_equal(opened.labels, expected)
  for place, row in enumerate(taken):
    np.testing.assert_array_equal(opened.get(place)[0], images[row])
  drawn = downstream.splits("fc100", opened=opened)
  assert not len(drawn.train) and not len(drawn.val)
  np.testing.assert_array_equal(drawn.test, np.arange(20))


def test_stl10(tmp_path):
  folder = tmp_path / "stl10_binary"
  folder.mkdir()
  images = {"train": 5, "test": 3, "unlabeled": 2}
  labels = {"train": [1, 10, 3, 2, 2], "test": [4, 1, 9]}
  for seed, (part, count) in enumerate(images.items()):
    images[part] = _images(count, 96, seed)
    data = bytearray()
    for image in images[part]:
      for channel in range(3):
        for column in range(96):
          data += bytes(image[:, column, channel])
    (folder / f"{part}_X.bin").write_bytes(data)
    if part in labels:
      (folder / f"{part}_y.bin").write_bytes(bytes(labels[part]))
  _names(folder / "class_names.txt", [f"class {i}" for i in range(10)])
  counts = {part: len(each) for part, each in images.items()}
  opened = downstream.open_set("stl10", tmp_path, counts=counts)
  assert len(opened) == 8 and opened.shape == (96, 96)
  expected = np.array(labels["train"] + labels["test"]) - 1
  np.testing.assert_array_equal(opened.labels, expected)
  for place in range(5):
    np.testing.assert_array_equal(opened.get(place)[0], images["train"][place])
  np.testing.assert_array_equal(opened.get(7)[0], images["test"][2])
  loose = downstream.open_set("stl10", tmp_path, "unlabeled", counts=counts)
  assert loose.labels is None and len(loose) == 2
  np.testing.assert_array_equal(loose.get(1)[0], images["unlabeled"][1])
  with pytest.raises(UserError, match="unlabeled.* has no labels"):
    next(downstream.batches(loose, 96))
  (folder / "train_y.bin").write_bytes(b"\x01\x02")
  with pytest.raises(UserError, match="labels"):
    downstream.open_set("stl10", tmp_path, counts={})
  (folder / "test_X.bin").write_bytes(b"")
  with pytest.raises(UserError, match="test_X.bin is cut off"):
    downstream.open_set("stl10", tmp_path, "test", counts={})
