"""Batches: same for any number of hosts, threads and restarts."""

import itertools
import time

import jax
import numpy as np
import pytest
from absl import logging
from PIL import Image

from cassle_jax import data
from cassle_jax.data import canvas, decode, jpeg, loading
from cassle_jax.errors import UserError

COUNT = 23
BAD = (3, 4, 5, 22)  # Empty, cut off, text, cut off.


@pytest.fixture(
  autouse=True,
  params=["simplejpeg", pytest.param("pillow", marks=pytest.mark.slow)],
)
def decoder(request, monkeypatch):
  """Everything holds with Pillow alone, too."""
  if request.param == "pillow":
    monkeypatch.setattr(jpeg, "simplejpeg", None)


def _pixels(place):
  generator = np.random.default_rng(place)
  shape = (generator.integers(20, 60), generator.integers(20, 60), 3)
  return generator.integers(0, 256, shape, dtype=np.uint8)


def _tree(root, bad=()):
  """A folder of 23 JPEGs in two classes, some of them unreadable."""
  for place in range(COUNT):
    path = root / ("a" if place < 9 else "b") / f"{place:02}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_pixels(place)).save(path)
    if place in bad:
      whole = path.read_bytes()
      path.write_bytes((b"", whole[: len(whole) // 2], b"text")[place % 3])
  return f"folder:{root}"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
  return _tree(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def bad_tree(tmp_path_factory):
  return _tree(tmp_path_factory.mktemp("bad"), BAD)


def _batches(source, start=0, count=6, **options):
  options = {
    "image_size": 16,
    "batch_size": 8,
    "seed": 3,
    "resident_bytes": 0,
    **options,
  }
  built = data.build(source=source, **options)
  try:
    return list(itertools.islice(built.batches(start), count))
  finally:
    built.close()


def _assert_same(ours, others):
  assert len(ours) == len(others)
  for one, other in zip(ours, others, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key])


@pytest.fixture(scope="module")
def expected(tree):
  return _batches(tree, canvas_size=32)


def _placed(source, index, side):
  """A picture in the corner of a black canvas, and its size there."""
  image = canvas.shrunk(source.picture(index), side)
  board = np.zeros((side, side, 3), np.uint8)
  board[: image.height, : image.width] = np.asarray(image)
  return board, (image.height, image.width)


def test_content(tree, expected):
  source = data.open_source(tree)
  order = data.Order(COUNT, 8, 3)
  assert data.build(source=tree, batch_size=8).steps_per_epoch == 2
  for step, batch in enumerate(expected):
    assert batch["image"].dtype == np.uint8
    assert batch["image"].shape == (8, 32, 32, 3)
    assert batch["size"].dtype == batch["index"].dtype == np.int32
    np.testing.assert_array_equal(batch["index"], order.batch(step))
    for row, index in enumerate(batch["index"]):
      image, stored = _placed(source, index, 32)
      np.testing.assert_array_equal(batch["image"][row], image)
      assert tuple(batch["stored"][row]) == stored
      assert tuple(batch["size"][row]) == _pixels(index).shape[:2]


def test_epochs_do_not_repeat_and_differ(expected):
  epochs = [
    np.concatenate([expected[i]["index"], expected[i + 1]["index"]])
    for i in (0, 2, 4)
  ]
  assert all(len(set(each.tolist())) == 16 for each in epochs)
  assert epochs[0].tolist() != epochs[1].tolist()


@pytest.mark.parametrize("resident_bytes", [0, 2**30])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_the_global_batch(tree, hosts, resident_bytes):
  whole = _batches(tree, resident_bytes=resident_bytes)
  parts = [
    _batches(
      tree,
      rows=np.arange(8).reshape(hosts, -1)[host],
      resident_bytes=resident_bytes,
    )
    for host in range(hosts)
  ]
  joined = [
    {key: np.concatenate([part[key] for part in step]) for key in step[0]}
    for step in zip(*parts, strict=True)
  ]
  _assert_same(joined, whole)


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_change_nothing(tree, expected, threads):
  ours = _batches(tree, canvas_size=32, threads=threads, prefetch=3)
  _assert_same(ours, expected)


@pytest.mark.parametrize("start", [1, 3, 5])
def test_resumes_in_the_middle_of_an_epoch(tree, expected, start):
  ours = _batches(tree, canvas_size=32, start=start, count=6 - start)
  _assert_same(ours, expected[start:])


def test_starts_far_into_a_run(tree):
  (late,) = _batches(tree, start=10**7, count=1)
  order = data.Order(COUNT, 8, 3)
  np.testing.assert_array_equal(late["index"], order.batch(10**7))


def test_seeds_differ(tree, expected):
  other = _batches(tree, seed=4)
  assert any(
    ours["index"].tolist() != theirs["index"].tolist()
    for ours, theirs in zip(other, expected, strict=True)
  )


def test_resident_equals_streamed(bad_tree):
  built = data.build(source=bad_tree, image_size=16, batch_size=8, seed=3)
  assert built.resident["image"].shape == (COUNT, 64, 64, 3)
  batches = itertools.islice(built.batches(1), 6)
  for ours, other in zip(batches, _batches(bad_tree, start=1), strict=True):
    assert set(ours) == {"index"}
    index = ours["index"]
    np.testing.assert_array_equal(index, other["index"])
    for key in ("image", "size", "stored"):
      np.testing.assert_array_equal(built.resident[key][index], other[key])
  assert built.skipped == 4 and built.corrupt == set(BAD)


def test_the_resident_limit_counts_bytes():
  options = {"source": "bundled:earth", "batch_size": 100}
  size = 4202 * 32 * 32 * 3
  assert data.build(**options, resident_bytes=size - 1).resident is None
  resident = data.build(**options, resident_bytes=size).resident
  source = data.open_source("bundled:earth")
  np.testing.assert_array_equal(resident["image"], source.images)
  for key in ("size", "stored"):
    np.testing.assert_array_equal(resident[key], np.full((4202, 2), 32))


@pytest.mark.parametrize(
  ("image_size", "side"), [(224, 512), (96, 224), (32, 96), (1, 32)]
)
def test_canvas_rule(tree, image_size, side):
  assert data.canvas_rule(image_size) == side
  built = data.build(
    source=tree, image_size=image_size, batch_size=8, resident_bytes=0
  )
  assert built.canvas_size == side


def test_small_pictures_of_one_size_keep_it(tmp_path):
  images = np.zeros((9, 40, 24, 3), np.uint8)
  np.save(tmp_path / "a.npy", images)
  options = {"source": f"npy:{tmp_path}/a.npy", "batch_size": 3}
  assert data.build(**options, image_size=224).canvas_size == 40
  assert data.build(**options, image_size=14).canvas_size == 32
  assert data.build(**options, canvas_size=48).canvas_size == 48
  (batch,) = _batches(options["source"], count=1, batch_size=3, image_size=32)
  np.testing.assert_array_equal(batch["size"], [[40, 24]] * 3)


def test_unreadable_pictures_are_replaced_named_and_counted(
  bad_tree, monkeypatch
):
  said = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: said.append(text % values)
  )
  built = data.build(
    source=bad_tree, image_size=16, batch_size=8, seed=3, resident_bytes=0
  )
  source = data.open_source(bad_tree)
  # By hand: 3, 4 and 5 become 6; 22, the last, becomes 0.
  instead = {3: 6, 4: 6, 5: 6, 22: 0}
  order, seen = data.Order(COUNT, 8, 3), set()
  for step, batch in enumerate(itertools.islice(built.batches(0), 8)):
    wanted = order.batch(step).tolist()
    seen.update(wanted)
    assert batch["index"].tolist() == [instead.get(i, i) for i in wanted]
    for row, index in enumerate(batch["index"]):
      image, _ = _placed(source, index, 64)
      np.testing.assert_array_equal(batch["image"][row], image)
  assert seen.issuperset(BAD)
  assert built.skipped == 4 and built.corrupt == set(BAD)
  # Once each, by path, with the reason.
  assert sorted(each.split(": ")[0] for each in said) == sorted(
    f"Skipped {source.locate(i)}" for i in BAD
  )
  assert any("truncated" in each for each in said)
  built.close()


@pytest.mark.parametrize("resident_bytes", [0, 2**30])
def test_stop_names_the_file(bad_tree, resident_bytes):
  with pytest.raises(UserError, match=r"unreadable picture /.*\.jpg") as caught:
    _batches(bad_tree, on_error="stop", resident_bytes=resident_bytes)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resident_bytes", [0, 2**30])
def test_nothing_but_unreadable_pictures(tmp_path, resident_bytes):
  source = _tree(tmp_path, range(COUNT))
  with pytest.raises(UserError, match="all 23 pictures of .* the first /"):
    _batches(source, resident_bytes=resident_bytes)


def test_long_runs_of_unreadable_pictures_stop(bad_tree, monkeypatch):
  monkeypatch.setattr(loading, "MAX_IN_A_ROW", 2)
  with pytest.raises(UserError, match="2 in a row of the 23 pictures"):
    _batches(bad_tree, count=9)


def test_a_failing_disk_is_no_corrupt_picture(tree, monkeypatch):
  def fail(path):
    raise OSError(5, "Input/output error", path)

  monkeypatch.setattr(decode, "read_bytes", fail)
  with pytest.raises(OSError, match="Input/output error"):
    _batches(tree)


def test_close_ends_threads(tree):
  import threading

  before = set(threading.enumerate())
  built = data.build(source=tree, image_size=16, batch_size=8, resident_bytes=0)
  batches = built.batches(0)
  next(batches)
  built.close()
  with pytest.raises(StopIteration):
    next(batches)
  deadline = time.monotonic() + 60
  while set(threading.enumerate()) - before:
    assert time.monotonic() < deadline, threading.enumerate()
    time.sleep(0.05)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch_size": 24}, "batch_size 24 is more than the 23 images"),
    ({"on_error": "ignore"}, "unknown data.on_error 'ignore'"),
    ({"canvas_size": -1}, "data.canvas_size=-1 must be at least 0"),
    ({"image_size": 0}, "data.image_size=0 must be at least 1"),
    ({"prefetch": 0}, "data.prefetch=0 must be at least 1"),
    ({"split": "test"}, "unknown split"),
  ],
)
def test_bad_options(tree, options, message):
  with pytest.raises(UserError, match=message) as caught:
    data.build(**{"source": tree, "batch_size": 8, **options})
  assert "\n" not in str(caught.value)


def _aligned(shape):
  """Uninitialised memory as JAX takes it over on a CPU, without a copy."""
  memory = np.empty(np.prod(shape) + 64, np.uint8)
  first = -memory.ctypes.data % 64
  return memory[first : first + np.prod(shape)].reshape(shape)


@pytest.mark.parametrize("shared", [False, True])
def test_a_batch_in_flight_never_changes(tree, expected, shared, monkeypatch):
  """Memory is used again once it is copied, and never where it is shared."""
  memory, empty = [], loading.Loader.empty

  def noted(loader):
    batch = empty(loader) | {"image": _aligned((8, 32, 32, 3))}
    memory.append(batch["image"])
    return batch

  monkeypatch.setattr(loading.Loader, "empty", noted)

  def put(batch):
    # `may_alias=False` does not keep JAX from sharing NumPy's memory.
    return jax.device_put(batch if shared else jax.tree.map(np.copy, batch))

  built = data.build(
    source=tree, image_size=16, canvas_size=32, batch_size=8, seed=3,
    resident_bytes=0, prefetch=2,
  )  # fmt: skip
  batches = built.device_batches(0, put)
  held = list(itertools.islice(batches, 6))
  built.close()
  for (arrays, index), other in zip(held, expected, strict=True):
    _assert_same([jax.device_get(arrays)], [other])
    np.testing.assert_array_equal(index, other["index"])
  assert len(memory) == (8 if shared else 4)


def test_memory_comes_back_only_when_the_copy_is_complete(tree):
  """Nothing is filled anew while the device still reads it."""

  class Copy:
    def __init__(self, batch):
      self.batch, self.kept = batch, batch["image"].copy()
      self.addressable_shards = ()

    def block_until_ready(self):
      # The last moment at which a slow copy may still read.
      np.testing.assert_array_equal(self.batch["image"], self.kept)
      waited.append(self)
      return self

  waited = []
  built = data.build(
    source=tree, image_size=16, batch_size=8, seed=3, resident_bytes=0
  )
  made = [
    each for each, _ in itertools.islice(built.device_batches(0, Copy), 9)
  ]
  built.close()
  assert waited == made[:8]


def test_resident_batches_are_put_too(tree):
  built = data.build(source=tree, image_size=16, batch_size=8, seed=3)
  pairs = itertools.islice(built.device_batches(1, jax.device_put), 2)
  for (arrays, index), other in zip(pairs, built.batches(1), strict=False):
    np.testing.assert_array_equal(arrays["index"], other["index"])
    np.testing.assert_array_equal(index, other["index"])


def test_with_and_without_simplejpeg(bad_tree, monkeypatch):
  ours = _batches(bad_tree)
  monkeypatch.setattr(jpeg, "simplejpeg", None)
  _assert_same(_batches(bad_tree), ours)
