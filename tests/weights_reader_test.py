"""Weights files: every format, strangers' pickles, damage and lies."""

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch_save
from torch_save import Call

from cassle_jax.errors import UserError
from cassle_jax.weights import pickled, reader

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")


def write(folder, data, name="file"):
  path = folder / name
  path.write_bytes(data)
  return str(path)


def arrays(path):
  weights = reader.read(path)
  return {name: reader.array(weights, name) for name in weights.tensors}


def refused(path, *words):
  """One line, and it names all of these."""
  with pytest.raises(UserError) as caught:
    arrays(path)
  text = str(caught.value)
  assert "\n" not in text and path in text and len(text) < 400, text
  for word in words:
    assert word in text, text


@pytest.mark.parametrize("name", ["torch_zip", "torch_legacy"])
def test_reads_what_torch_wrote(name):
  """tests/golden: made by torch 2.14 of arange(20) / 8, [4, 5]."""
  path = os.path.join(GOLDEN, f"{name}.pth")
  weights, found = reader.read(path), arrays(path)
  base = np.arange(20, dtype=np.float32).reshape(4, 5) / 8
  expected = {
    "a": base,
    "transposed": base.T,
    "sliced": base[1:3, ::2],
    "half": base.astype(np.float16),
    "bfloat16": base.astype("bfloat16"),
    "bool": base > 1,
    "scalar": np.float32(3.5),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": base[:1],
    "long": np.arange(5),
  }
  for key, value in expected.items():
    actual = found[f"state_dict.{key}"]
    assert actual.dtype == value.dtype and actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, value)
  np.testing.assert_array_equal(
    found["optimizer.state.0.momentum_buffer"], base[0]
  )
  assert weights.values["arch"] == "resnet50" and weights.values["epoch"] == 3
  assert weights.foreign == ("argparse.Namespace",)


TREE = {
  "model": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": 3},
  "more": [np.float32(2.5), {"half": np.ones((2, 1), np.float16)}],
}


@pytest.mark.parametrize("kind", torch_save.FORMATS)
def test_the_tests_own_files_are_read_too(tmp_path, kind):
  path = write(tmp_path, torch_save.FORMATS[kind](TREE))
  found = arrays(path)
  assert list(found) == ["model.w", "more.0", "more.1.half"]
  np.testing.assert_array_equal(found["model.w"], TREE["model"]["w"])
  assert reader.read(path).values["model.n"] == 3


@pytest.mark.parametrize("kind", torch_save.FORMATS)
def test_a_hostile_pickle_does_nothing(tmp_path, kind):
  marker = tmp_path / "marker"
  calls = [
    Call("posix", "system", f"touch {marker}"),
    Call("builtins", "eval", f"open({str(marker)!r}, 'w')"),
    Call("builtins", "getattr", Call("os", "environ"), "clear"),
  ]
  tree = {**TREE, "calls": calls, "name": Call("torch", "hub.load", "x")}
  path = write(tmp_path, torch_save.FORMATS[kind](tree))
  weights = reader.read(path)
  assert set(weights.foreign) == {
    *("posix.system", "builtins.eval", "builtins.getattr", "os.environ"),
    "torch.hub.load",
  }
  assert "model.w" in arrays(path)
  assert not marker.exists()


def test_the_machine_makes_what_pickle_makes():
  """Against Python's own, for all protocols."""
  tree = {
    "a": [1, -5, 2**40, -(2**70), 2.5, True, None, "é", b"x"],
    "b": ({"c": ()}, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    3: {"shared": []},
  }
  tree["again"] = tree[3]
  for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    data = io.BytesIO(pickle.dumps(tree, protocol))
    foreign = set()
    machine = pickled.Machine({}, lambda identity: None, foreign)
    found = machine.load(data)
    if protocol < 3:  # Bytes are a call of _codecs.encode there.
      assert foreign and found["a"].pop() is pickled.INERT
      assert found["a"] == tree["a"][:-1]
      del found["a"]
    assert found == {key: tree[key] for key in found}
    assert found["again"] is found[3]


def test_objects_of_any_class_are_inert():
  class_like = Call("some.where", "Thing", 1, (2,))
  for protocol_operation in (b"b", b"s", b"a", b"e", b"u", b"\x90"):
    item = torch_save._Writer().item
    parts = {
      b"b": item({"x": 1}) + b"b",
      b"s": item("k") + item(1) + b"s",
      b"a": item(1) + b"a",
      b"e": b"(" + item(1) + b"e",
      b"u": b"(" + item("k") + item(1) + b"u",
      b"\x90": b"(" + item(1) + b"\x90",
    }
    data = item(class_like) + parts[protocol_operation] + b"."
    machine = pickled.Machine({}, lambda identity: None, set())
    assert machine.load(io.BytesIO(data)) is pickled.INERT


def test_safetensors(tmp_path):
  header = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [2], "data_offsets": [16, 20]},
    "c": {"dtype": "F8_E4M3", "shape": [0], "data_offsets": [20, 20]},
  }
  numbers = np.arange(4, dtype="<f4").tobytes()
  numbers += np.array([1.5, -2], "bfloat16").tobytes()

  def file(header, data=numbers):
    text = json.dumps(header).encode()
    return write(tmp_path, struct.pack("<Q", len(text)) + text + data)

  path = file(header)
  found = arrays(path)
  np.testing.assert_array_equal(found["a"], [[0, 1], [2, 3]])
  np.testing.assert_array_equal(found["b"].astype(np.float32), [1.5, -2])
  weights = reader.read(path)
  assert weights.values == {"metadata.format": "pt"}
  assert weights.foreign == ("dtype 'F8_E4M3'",)
  refused(file(header, numbers[:-1]), "b")
  for entry, word in (
    ({"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}, "takes"),
    ({"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}, "16 bytes"),
    ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "shape"),
    ({"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}, "bytes"),
    ({"shape": [1]}, "header"),
  ):
    refused(file({"x": entry}), word)
  refused(write(tmp_path, struct.pack("<Q", 2**60) + b"{}"), "header")


def test_npz(tmp_path):
  path = str(tmp_path / "file.npz")
  wide = np.arange(6, dtype=">f4").reshape(2, 3)
  for save in (np.savez, np.savez_compressed):
    save(
      path,
      **{
        "params/block/kernel": np.asfortranarray(wide),
        "bf16": np.array([1.5, -2], "bfloat16").view("V2"),
        "objects": np.array([{}], object),
      },
    )
    found = arrays(path)
    assert set(found) == {"params.block.kernel", "bf16"}
    np.testing.assert_array_equal(found["params.block.kernel"], wide)
    np.testing.assert_array_equal(found["bf16"].astype(np.float32), [1.5, -2])
    assert "objects" in reader.read(path).foreign[0]
  # A few kilobytes that would be a gigabyte.
  np.savez_compressed(path, zeros=np.zeros(2**20, np.float32))
  refused(path, "20 times")


def lies():
  """Files that claim what they have not: name -> (bytes, words)."""
  item = torch_save._Writer().item

  def file(tensor, **changed):
    """A zip file whose pickle is these operations."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
      archive.writestr("a/data.pkl", b"\x80\x02" + tensor + b".")
      archive.writestr("a/data/0", changed.pop("data", b"\0" * 16))
      for name, content in changed.items():
        archive.writestr(f"a/{name}", content)
    return stream.getvalue()

  def tensor(count=4, offset=0, shape=(4,), strides=(1,), kind="FloatStorage"):
    parts = b"ctorch._utils\n_rebuild_tensor_v2\n(("
    parts += item("storage") + f"ctorch\n{kind}\n".encode() + item("0")
    parts += item("cpu") + item(count) + b"tQ"
    return parts + b"".join(map(item, (offset, shape, strides))) + b"tR"

  huge = 10**10
  good = torch_save.zipped(TREE)
  old = torch_save.legacy(TREE)
  return {
    "10 GB of storage": (file(tensor(huge, shape=(huge,))), ["takes"]),
    "10 GB by strides": (
      file(tensor(shape=(huge,), strides=(0,))),
      ["takes", "the file has"],
    ),
    "beyond the storage": (file(tensor(offset=1)), ["beyond its storage"]),
    "negative offset": (file(tensor(offset=-1)), ["offset"]),
    "negative stride": (file(tensor(strides=(-1,))), ["strides"]),
    "strides too few": (file(tensor(strides=())), ["strides"]),
    "storage too short": (file(tensor(5, shape=(5,))), ["storage 0"]),
    "no storage": (file(tensor()).replace(b"a/data/0", b"a/dota/0"), ["0"]),
    "big-endian": (file(tensor(), byteorder="big"), ["big-endian"]),
    "many views": (
      file(b"(" + tensor(1024, shape=(1024,)) * 300 + b"t", data=b"\0" * 4096),
      ["times the bytes"],
    ),
    "memo of 2^32": (file(tensor() + b"r\xff\xff\xff\xff"), None),
    "text of 4 GB": (file(b"X\xff\xff\xff\xffabc"), []),
    "no end": (file(tensor())[:-1], []),
    "stack underflow": (file(b"RRR"), ["not put"]),
    "cut zip": (good[: len(good) // 2], []),
    "cut legacy": (old[:-1], ["within storage"]),
    "legacy count": (old.replace(b"\1" + b"\0" * 7, b"\x7f" * 8), []),
    "web page": (b"<!DOCTYPE html><html>quota</html>", ["web page"]),
    "empty": (b"", ["empty"]),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", ["LFS"]),
    "tar": (b"\0" * 257 + b"ustar" + b"\0" * 300, ["tar"]),
    "pickle": (pickle.dumps({"a": np.zeros(3)}), ["another program"]),
    "noise": (bytes(range(256)), ["first bytes"]),
    "picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, ["first bytes"]),
    "other zip": (_zip({"a.txt": b"x"}), ["zip"]),
    "gzip": (b"\x1f\x8b" + b"\0" * 20, ["compressed"]),
  }


def _zip(members):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w") as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return stream.getvalue()


@pytest.mark.parametrize("case", lies())
def test_lies_and_damage_are_one_line(tmp_path, case):
  data, words = lies()[case]
  path = write(tmp_path, data)
  tracemalloc.start()
  try:
    if words is None:  # Odd, but no lie.
      arrays(path)
    else:
      refused(path, *words)
    assert tracemalloc.get_traced_memory()[1] < 2e6
  finally:
    tracemalloc.stop()


def test_no_file_and_a_folder(tmp_path):
  refused(str(tmp_path), "folder")
  refused(str(tmp_path / "none"), "no weights file")
  refused(write(tmp_path, torch_save.zipped({"a": 1})), "no tensors")


def test_deep_and_long_pickles_end(tmp_path, monkeypatch):
  """Where Python's own unpickler crashes or takes minutes."""
  deep = b"]" * 100_000 + b"a" * 99_999
  nested_key = b"}" + b")" + b"\x85" * 100_000 + b"Ns"
  for operations in (deep, nested_key):
    refused(write(tmp_path, _zip({"a/data.pkl": operations + b"."})), "tensors")
  monkeypatch.setattr(pickled, "MOST_OPERATIONS", 1000)
  many = b"]" + b"N0" * 1000 + b"."
  refused(write(tmp_path, _zip({"a/data.pkl": many})), "operations")


def mutate(draw, data):
  """A few changes: bytes, cut, doubled, swapped, lengths."""
  data = bytearray(data)
  for _ in range(draw.integers(1, 5)):
    if not data:
      break
    place = int(draw.integers(len(data)))
    size = int(draw.integers(1, 9))
    kind = draw.integers(6)
    if kind == 0:
      data[place] = draw.integers(256)
    elif kind == 1:
      data[place] ^= 1 << draw.integers(8)
    elif kind == 2:
      data[place : place + size] = bytes([draw.choice([0, 0xFF, 0x7F])]) * size
    elif kind == 3:
      del data[place : place + size]
    elif kind == 4:
      data[place:place] = data[place : place + 4 * size]
    elif draw.integers(10) == 0:
      del data[place:]
  return bytes(data)


def seeds():
  """Good files of each format, small: changes should hit the structure."""
  tree = {
    "state_dict": TREE["model"],
    "calls": [Call("posix", "_exit", 3), Call("builtins", "exec", "1/0")],
  }
  stream = io.BytesIO()
  np.savez(stream, **{"a/b": np.ones((2, 3)), "c": np.int64(3)})
  header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
  text = json.dumps(header).encode()
  found = [make(tree) for make in torch_save.FORMATS.values()]
  for name in ("torch_zip", "torch_legacy"):
    with open(os.path.join(GOLDEN, f"{name}.pth"), "rb") as file:
      found.append(file.read())
  return [
    *found,
    stream.getvalue(),
    struct.pack("<Q", len(text)) + text + b"\0" * 8,
  ]


def fuzz(folder, count, seed):
  """Reads mutated files; returns how many were read and how many refused."""
  draw = np.random.default_rng(seed)
  originals = seeds()
  read = 0
  tracemalloc.start()
  try:
    for i in range(count):
      data = mutate(draw, originals[i % len(originals)])
      path = write(folder, data)
      tracemalloc.reset_peak()
      before = tracemalloc.get_traced_memory()[0]
      try:
        arrays(path)
        read += 1
      except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
      peak = tracemalloc.get_traced_memory()[1] - before
      assert peak < 2e6 + 100 * len(data), (i, peak)
  finally:
    tracemalloc.stop()
  return read, count - read


def test_mutated_files_are_read_or_refused(tmp_path):
  read, refused = fuzz(tmp_path, 300, seed=0)
  assert read > 20 and refused > 100


@pytest.mark.slow
def test_fifty_thousand_mutated_files(tmp_path):
  read, refused = fuzz(tmp_path, 50_000, seed=1)
  assert read > 5_000 and refused > 20_000
