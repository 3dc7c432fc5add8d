"""TFDS sets prepared as array_record, without TensorFlow."""

import contextlib
import io
import json
import os
import pickle
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from cassle_jax import data
from cassle_jax.data import tfds_source
from cassle_jax.errors import UserError

NAMES = ("ant", "bee", "cat")


def _image(row):
  height = 20 + row
  pixels = np.random.default_rng(row).integers(0, 256, (height, 30, 3))
  return Image.fromarray(np.uint8(pixels))


def _encoded(row):
  """PNGs of several modes; the value of row 4 is cut off in the middle."""
  image, buffer = _image(row), io.BytesIO()
  if row % 3 == 1:
    image = image.quantize(32)
  if row % 3 == 2:
    image = image.convert("CMYK")
  image.save(buffer, "TIFF" if image.mode == "CMYK" else "PNG")
  return buffer.getvalue()[: 60 if row == 4 else None]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A folder that holds the builder `tiny`, 20 train and 6 test records."""
  import tensorflow_datasets as tfds

  class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "mask": tfds.features.Image(shape=(None, None, 1)),
        "label": tfds.features.ClassLabel(names=list(NAMES)),
        "row": np.int64,
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, manager):
      del manager
      return {
        "train": self._generate_examples(0, 20),
        "test": self._generate_examples(20, 26),
      }

    def _generate_examples(self, first, last):
      for row in range(first, last):
        yield (
          row,
          {
            "image": io.BytesIO(_encoded(row)),
            "mask": io.BytesIO(_encoded(row)),
            "label": row % 3,
            "row": row,
          },
        )

  folder = tmp_path_factory.mktemp("tfds")
  with contextlib.redirect_stderr(io.StringIO()):
    builder = Tiny(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
  return str(folder)


def _rows(source):
  """The row each record came from: TFDS stores them in the order of a hash."""
  return [int(source._record(i)["row"]) for i in range(len(source))]


def test_records_are_decoded_as_pillow_does(prepared):
  source = data.open_source("tfds:tiny", data_dir=prepared)
  rows = _rows(source)
  assert len(source) == 20 and sorted(rows) == list(range(20))
  assert source.class_names == NAMES
  for index, row in enumerate(rows):
    if row == 4:
      with pytest.raises(data.CorruptImage):
        source.get(index)
      continue
    image, label = source.get(index)
    reference = Image.open(io.BytesIO(_encoded(row))).convert("RGB")
    np.testing.assert_array_equal(image, np.asarray(reference))
    assert label == row % 3 == source.label(index)
  np.testing.assert_array_equal(source.labels, np.array(rows) % 3)
  assert "tensorflow" not in sys.modules


def test_splits_versions_and_folders(prepared):
  options = {"data_dir": prepared}
  for name in ("tiny", "tiny:1.2.0", f"{prepared}/tiny/1.2.0"):
    assert len(data.open_source(f"tfds:{name}", "test", **options)) == 6
  sliced = data.open_source("tfds:tiny", "train[:50%]+test", **options)
  assert len(sliced) == 16
  assert set(data.split_names("tfds:tiny", **options)) == {"train", "test"}
  assert data.labeled_splits("tfds:tiny", **options) == ("train", "test")
  both = data.labeled_splits("tfds:tiny", "train+test", **options)
  assert both == ("train", "test")


def test_class_list_filters_and_renumbers(prepared, tmp_path):
  chosen = tmp_path / "classes.txt"
  chosen.write_text("cat\nant\n")
  source = data.open_source(
    "tfds:tiny", data_dir=prepared, class_list=str(chosen)
  )
  rows = _rows(source)
  assert sorted(rows) == [row for row in range(20) if row % 3 != 1]
  expected = [{2: 0, 0: 1}[row % 3] for row in rows]
  np.testing.assert_array_equal(source.labels, expected)
  assert [source.get(i)[1] for i in range(len(rows))] == expected
  assert source.class_names == ("cat", "ant")
  chosen.write_text("cat\nante\n")
  with pytest.raises(UserError, match="'ante' .*Did you mean 'ant'"):
    data.open_source("tfds:tiny", data_dir=prepared, class_list=str(chosen))


def test_labels_of_slow_sets_are_cached(prepared, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  expected = data.open_source("tfds:tiny", data_dir=prepared).labels
  assert not os.listdir(tmp_path)
  monkeypatch.setattr(tfds_source, "_SLOW_SCAN_SECONDS", -1)
  data.open_source("tfds:tiny", data_dir=prepared).labels  # noqa: B018
  (file,) = (tmp_path / "cassle_jax").iterdir()
  np.testing.assert_array_equal(np.load(file), expected)
  np.save(file, expected + 1)
  again = data.open_source("tfds:tiny", data_dir=prepared).labels
  np.testing.assert_array_equal(again, expected + 1)


def test_pipeline_reads_it(prepared):
  arguments = {
    "source": "tfds:tiny",
    "data_dir": prepared,
    "image_size": 16,
    "batch_size": 8,
  }
  resident = data.build(**arguments)
  streamed = data.build(**arguments, resident_bytes=0)
  ours, other = resident.batches(1), streamed.batches(1)
  for _ in range(4):
    index, batch = next(ours)["index"], next(other)
    np.testing.assert_array_equal(index, batch["index"])
    np.testing.assert_array_equal(
      resident.resident["image"][index], batch["image"]
    )
  resident.close()
  streamed.close()
  assert resident.skipped == 1


def test_source_can_be_pickled(prepared):
  source = data.open_source("tfds:tiny", data_dir=prepared)
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy.get(2)[0], source.get(2)[0])


@pytest.mark.parametrize(
  ("name", "split", "message"),
  [
    ("tinny", "train", r"TFDS builder 'tinny'\. Did you mean 'tiny'"),
    ("cifar01", "train", "Did you mean 'cifar10'"),
    ("cifar10", "train", "not prepared in .*tfds build cifar10 --file_format"),
    ("tiny:2.0.0", "train", "not prepared"),
    ("tiny", "trian", r"Did you mean 'train'\? Valid: test, train"),
    ("tiny", "train[", "unknown split"),
    ("", "train", "unknown data.source"),
  ],
)
def test_mistakes_are_one_line(prepared, name, split, message, monkeypatch):
  def ask(*_):
    raise AssertionError("somebody was asked over the network")

  monkeypatch.setattr(socket.socket, "connect", ask)
  with pytest.raises(UserError, match=message) as caught:
    data.open_source(f"tfds:{name}", split, data_dir=prepared)
  assert "\n" not in str(caught.value)


def _copy(prepared, root, change):
  """A copy of the prepared builder with its dataset_info.json changed."""
  source, target = os.path.join(prepared, "tiny", "1.2.0"), root / "1.2.0"
  target.mkdir(parents=True)
  for name in os.listdir(source):
    with open(os.path.join(source, name), "rb") as file:
      (target / name).write_bytes(file.read())
  info = target / "dataset_info.json"
  info.write_text(json.dumps(change(json.loads(info.read_text()))))


def test_tfrecord_is_explained(prepared, tmp_path):
  _copy(
    prepared,
    tmp_path / "tiny",
    lambda info: {**info, "fileFormat": "tfrecord"},
  )
  with pytest.raises(UserError, match="tfrecord.*tfds convert_format"):
    data.open_source("tfds:tiny", data_dir=str(tmp_path))


def test_configs(prepared, tmp_path):
  def same(info):
    return info

  _copy(prepared, tmp_path / "tiny" / "small", same)
  options = {"data_dir": str(tmp_path)}
  assert len(data.open_source("tfds:tiny", **options)) == 20
  _copy(prepared, tmp_path / "tiny" / "large", same)
  assert len(data.open_source("tfds:tiny/small", **options)) == 20
  with pytest.raises(UserError, match="tiny/CONFIG: large, small"):
    data.open_source("tfds:tiny", **options)


def test_damaged_builder(prepared, tmp_path):
  _copy(prepared, tmp_path / "tiny", lambda info: info)
  (tmp_path / "tiny" / "1.2.0" / "features.json").write_text("{")
  with pytest.raises(UserError, match="cannot be read"):
    data.open_source("tfds:tiny", data_dir=str(tmp_path))
