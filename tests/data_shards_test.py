"""WebDataset tars and Parquet: which files, which pictures, in which order."""

import io
import itertools
import json
import tarfile

import jpeg_corpus
import numpy as np
import pytest

from cassle_jax import data
from cassle_jax.data import order, preparing, shards
from cassle_jax.errors import UserError

COUNT = 14


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _jpeg(place):
  return jpeg_corpus.encode(jpeg_corpus.picture(20 + place, 30, place))


def _tar(path, places):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w") as tar:
    for place in places:
      for ending, content in (
        ("jpg", _jpeg(place)),
        ("cls", f"{place % 3}\n".encode()),
        ("json", b'{"width": 30}'),
      ):
        member = tarfile.TarInfo(f"train/{place:04}.{ending}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _parquet(path, places, *, group=3, column="image"):
  pyarrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")

  path.parent.mkdir(parents=True, exist_ok=True)
  images = [{"bytes": _jpeg(place), "path": f"{place}.jpg"} for place in places]
  table = pyarrow.table({column: images, "label": [p % 3 for p in places]})
  names = {"label": {"names": ["x", "y", "z"], "_type": "ClassLabel"}}
  facts = json.dumps({"info": {"features": names}})
  table = table.replace_schema_metadata({"huggingface": facts})
  parquet.write_table(table, path, row_group_size=group)


def _set(kind, root):
  """14 pictures in two files of a split, and 3 in another's."""
  if kind == "wds":
    write, name = _tar, "in-{split}-{number:04}.tar"
  else:
    write, name = _parquet, "data/{split}-{number:05}-of-00002.parquet"
  write(root / name.format(split="train", number=0), range(8))
  write(root / name.format(split="train", number=1), range(8, COUNT))
  write(root / name.format(split="validation", number=0), range(20, 23))
  return f"{kind}:{root}"


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_pictures_and_labels(kind, tmp_path):
  name = _set(kind, tmp_path)
  assert set(data.split_names(name)) == {"train", "validation"}
  source = data.open_source(name)
  assert len(source) == COUNT
  assert source.labels.tolist() == [place % 3 for place in range(COUNT)]
  assert source.class_names == (("x", "y", "z") if kind == "parquet" else ())
  for place in (0, 7, 8, COUNT - 1):
    assert source.encoded(place) == _jpeg(place)
    assert str(tmp_path) in source.locate(place)
  held_out = data.open_source(name, "validation")
  assert held_out.encoded(2) == _jpeg(22)
  assert data.labeled_splits(name) == ("train", "validation")


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_batches_are_a_function_of_seed_and_step(kind, tmp_path):
  name = _set(kind, tmp_path)
  options = dict(
    source=name, image_size=16, batch_size=4, seed=3, resident_bytes=0
  )

  def batches(start, count, **more):
    built = data.build(**options, **more)
    made = list(itertools.islice(built.batches(start), count))
    built.close()
    return made

  whole = batches(0, 7)
  for step, batch in enumerate(batches(3, 4, threads=3)):
    for key, value in batch.items():
      np.testing.assert_array_equal(value, whole[3 + step][key])
  shown = np.concatenate([each["index"] for each in whole[:3]])
  assert len(set(shown.tolist())) == 12
  for batch in whole:
    np.testing.assert_array_equal(batch["size"][:, 0], 20 + batch["index"])


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_they_can_be_prepared(kind, tmp_path):
  source = data.open_source(_set(kind, tmp_path / "in"))
  preparing.prepare(source, str(tmp_path / "out" / "train"))
  ours = data.open_source(f"prepared:{tmp_path}/out")
  np.testing.assert_array_equal(ours.labels, source.labels)
  assert [ours.encoded(i) for i in range(COUNT)] == [
    _jpeg(i) for i in range(COUNT)
  ]


def test_patterns(tmp_path):
  assert shards.expand("a-{08..11}.{tar,x}") == [
    f"a-{number}.{ending}"
    for number in ("08", "09", "10", "11")
    for ending in ("tar", "x")
  ]
  for name in ("a-0.tar", "a-1.tar", "b.tar"):
    _tar(tmp_path / name, range(2))
  assert len(data.open_source(f"wds:{tmp_path}/a-{{0..1}}.tar")) == 4
  assert len(data.open_source(f"wds:{tmp_path}/?.tar")) == 2
  assert len(data.open_source(f"wds:{tmp_path}")) == 6
  with pytest.raises(UserError, match=r"there is no file .*a-2\.tar"):
    data.open_source(f"wds:{tmp_path}/a-{{0..2}}.tar")
  with pytest.raises(UserError, match="holds no file ending in .parquet"):
    data.open_source(f"parquet:{tmp_path}")


def test_a_split_is_a_word_of_the_path(tmp_path):
  for name in ("train/0000", "my-test-trained/x", "test/0000", "readme"):
    path = tmp_path / "default" / f"{name}.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  found = shards.splits("wds", str(tmp_path / "default"), ".tar")
  assert {key: len(value) for key, value in found.items()} == {
    "train": 1,
    "test": 2,
  }
  with pytest.raises(UserError, match="unknown split .* 'val'. .*test, train"):
    shards.of_split("wds", str(tmp_path / "default"), ".tar", "val")


def test_a_tar_is_looked_through_once(tmp_path, monkeypatch):
  _tar(tmp_path / "a.tar", range(3))
  name = f"wds:{tmp_path}/a.tar"
  before = data.open_source(name)
  with monkeypatch.context() as patch:
    patch.setattr(tarfile, "open", None)
    again = data.open_source(name)
  assert again.encoded(2) == before.encoded(2) == _jpeg(2)
  # Another file of that name is another tar.
  _tar(tmp_path / "a.tar", range(5))
  assert len(data.open_source(name)) == 5


def test_damaged_tars(tmp_path, monkeypatch):
  _tar(tmp_path / "a.tar", range(3))
  source = data.open_source(f"wds:{tmp_path}/a.tar")
  whole = (tmp_path / "a.tar").read_bytes()
  (tmp_path / "a.tar").write_bytes(whole[: source._samples[2]["offset"] + 9])
  with pytest.raises(data.CorruptImage, match="ends within the picture"):
    source.picture(2)
  for content in (b"no tar at all" * 99, b"\x1f\x8b compressed"):
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a tar"):
      data.open_source(f"wds:{tmp_path}/b.tar")
  with tarfile.open(tmp_path / "c.tar", "w"):
    pass
  with pytest.raises(UserError, match="there is no picture in 1 tar"):
    data.open_source(f"wds:{tmp_path}/c.tar")


def test_more_tars_than_stay_open(tmp_path, monkeypatch):
  monkeypatch.setattr("cassle_jax.data.tars._OPEN", 1)
  for number in range(3):
    _tar(tmp_path / f"{number}.tar", [number])
  source = data.open_source(f"wds:{tmp_path}")
  assert [source.encoded(i) for i in (2, 0, 1)] == [_jpeg(i) for i in (2, 0, 1)]
  assert len(source._files) == 1


def test_columns_of_other_names(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")

  _parquet(tmp_path / "a.parquet", range(4), column="img")
  assert data.open_source(f"parquet:{tmp_path}/a.parquet").encoded(1) == _jpeg(
    1
  )
  plain = pyarrow.table({"image": [_jpeg(0), None], "label": [1, None]})
  parquet.write_table(plain, tmp_path / "b.parquet")
  source = data.open_source(f"parquet:{tmp_path}/b.parquet")
  assert source.encoded(0) == _jpeg(0)
  assert source.labels.tolist() == [1, -1]
  with pytest.raises(data.CorruptImage, match="no bytes"):
    source.picture(1)
  parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "c.parquet")
  with pytest.raises(UserError, match="no column `image`; it has x"):
    data.open_source(f"parquet:{tmp_path}/c.parquet")
  (tmp_path / "d.parquet").write_bytes(b"PAR1 and no more")
  with pytest.raises(UserError, match="cannot be read as Parquet"):
    data.open_source(f"parquet:{tmp_path}/d.parquet")


def test_a_row_group_is_read_once_while_it_is_held(tmp_path, monkeypatch):
  _parquet(tmp_path / "a.parquet", range(COUNT), group=2)
  source = data.open_source(f"parquet:{tmp_path}/a.parquet")
  reads, read = [], source._read
  source._read = lambda group: (reads.append(group), read(group))[1]
  for index in (0, 1, 2, 3, 0, 4, 6, 8, 1, 2):
    source.encoded(index)
  # Four are held; the first was used again in between.
  assert reads == [0, 1, 2, 3, 4, 1]


def test_windows_of_blocks():
  ends = tuple(np.cumsum([5, 1, 7, 3, 4, 6, 2, 8]).tolist())
  first = order.windowed(ends, 10, seed=1, epoch=0)
  assert sorted(first.tolist()) == list(range(36))
  blocks = np.searchsorted(ends, first, side="right")
  # A block's pictures lie within the window in which it begins and a block's
  # length behind it.
  for block in range(8):
    places = np.flatnonzero(blocks == block)
    assert places[-1] - places[0] < 10 + 8
  for other in (dict(seed=2), dict(epoch=1)):
    again = order.windowed(ends, 10, **{"seed": 1, "epoch": 0, **other})
    assert again.tolist() != first.tolist()
  # Known numbers: the order of old runs must never change.
  assert order.windowed((2, 4, 6), 4, seed=0, epoch=0).tolist() == [
    4,
    1,
    0,
    5,
    3,
    2,
  ]


def test_so_many_blocks_are_needed_at_once():
  ends = tuple(np.cumsum([100] * 1000).tolist())
  ours = data.Order(100_000, 64, 0, ends)
  assert ours.window == 4096 and ours.blocks_at_once == 83
  assert data.Order(100_000, 2048, 0, ends).window == 8192
  seen = [
    np.searchsorted(ends, ours.batch(step), "right") for step in range(128)
  ]
  # 128 batches are two windows.
  assert len(np.unique(seen)) <= ours.blocks_at_once
