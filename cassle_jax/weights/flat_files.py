"""safetensors and npz: files of named arrays and nothing else."""

import json
import os
import struct
import zipfile

import numpy as np

from cassle_jax.weights import tensor
from cassle_jax.weights.tensor import BFLOAT16, Damaged, Tensor, Weights

# The format's own bound on its header.
_HEADER = 100_000_000
# Bytes that a compressed npz may have for each of its own: weights hardly
# shrink, and a file that claims more is made to fill the memory.
_RATIO = 20
_TYPES = {
  "F64": np.dtype("<f8"),
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "BF16": BFLOAT16,
  "I64": np.dtype("<i8"),
  "I32": np.dtype("<i4"),
  "I16": np.dtype("<i2"),
  "I8": np.dtype("i1"),
  "U64": np.dtype("<u8"),
  "U32": np.dtype("<u4"),
  "U16": np.dtype("<u2"),
  "U8": np.dtype("u1"),
  "BOOL": np.dtype("bool"),
}


def read_safetensors(path: str) -> Weights:
  """Reads safetensors: 8 bytes of length, a JSON header, the numbers.

  bfloat16, which numpy lacks, comes as jax has it.
  """
  available = os.path.getsize(path)
  with open(path, "rb") as file:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(available - 8, _HEADER):
      raise Damaged(f"its header is said to have {length:,} bytes")
    header = json.loads(file.read(length))
  if not isinstance(header, dict):
    raise Damaged("its header is no JSON object")
  start, size = 8 + length, available - 8 - length
  metadata = header.pop("__metadata__", {})
  tensors, foreign, total = {}, set(), 0
  for name, entry in header.items():
    if not isinstance(entry, dict) or set(entry) != {
      *("dtype", "shape", "data_offsets")
    }:
      raise Damaged(f"its header says nothing of {name[:60]}")
    if entry["dtype"] not in _TYPES:
      foreign.add(f"dtype {entry['dtype']!r:.20}")
      continue
    place = tensor.sizes(entry["data_offsets"], "place")
    shape = tensor.sizes(entry["shape"], "shape")
    dtype = _TYPES[entry["dtype"]]
    made = Tensor(shape, dtype, _reader(path, start + place[0], shape, dtype))
    tensor.check_fits(made, name[:60], size)
    if len(place) != 2 or place[1] > size:
      raise Damaged(f"{name[:60]} lies at {place}, beyond the end")
    if place[1] - place[0] != made.nbytes:
      raise Damaged(
        f"{name[:60]} of shape {shape} has {place[1] - place[0]} bytes"
      )
    tensors[name], total = made, total + made.nbytes
  if total > size:
    raise Damaged("its tensors overlap")
  values = {
    f"metadata.{key}": value
    for key, value in (metadata if isinstance(metadata, dict) else {}).items()
    if isinstance(value, str)
  }
  return Weights(path, "safetensors", tensors, values, tuple(sorted(foreign)))


def _reader(path, place, shape, dtype):
  def read() -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    array = np.fromfile(path, dtype, count, offset=place)
    if array.size != count:
      raise Damaged("it became shorter while it was read")
    return array.reshape(shape)

  return read


def read_npz(path: str, archive: zipfile.ZipFile) -> Weights:
  """Reads npz, compressed or not; arrays of objects are never looked at.

  Names may have slashes; they become dots as other formats have them.
  """
  available = os.path.getsize(path)
  tensors, foreign, total = {}, set(), 0
  for info in archive.infolist():
    if not info.filename.endswith(".npy"):
      continue
    name = info.filename.removesuffix(".npy").replace("/", ".")
    with archive.open(info) as member:
      shape, order, dtype = _npy_header(member)
      start = member.tell()
    if dtype.hasobject or dtype.kind not in "biufcV" or dtype.names:
      foreign.add(f"{name[:60]} of type {str(dtype):.20}")
      continue
    if dtype.kind == "V":
      if dtype.itemsize != 2:
        raise Damaged(f"{name[:60]} is of the unknown type {str(dtype):.20}")
      dtype = BFLOAT16  # numpy's files do not know it by name.
    shape = tensor.sizes(shape, "shape")
    read = _npy_reader(path, info.filename, start, shape, order, dtype)
    made = Tensor(shape, dtype.newbyteorder("<"), read)
    if made.nbytes != info.file_size - start:
      raise Damaged(
        f"{name[:60]} of shape {shape} has {info.file_size - start:,} bytes"
      )
    if name in tensors:
      raise Damaged(f"it has two arrays {name[:60]}")
    tensors[name], total = made, total + made.nbytes
  if total > _RATIO * available:
    raise Damaged(
      f"its arrays take {total:,} bytes, over {_RATIO} times the file's"
    )
  return Weights(path, "npz", tensors, {}, tuple(sorted(foreign)))


def _npy_header(member):
  version = np.lib.format.read_magic(member)
  read = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }.get(version)
  if read is None:
    raise Damaged(f"its arrays have the unknown version {version}")
  return read(member)


def _npy_reader(path, name, start, shape, order, dtype):
  def read() -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
      member.read(start)
      data = member.read(count * dtype.itemsize)
      if len(data) != count * dtype.itemsize or member.read(1):
        raise Damaged(f"its array {name[:60]} is cut")
    array = np.frombuffer(data, dtype)
    array = array.reshape(shape, order="F" if order else "C")
    return np.array(array, dtype.newbyteorder("<"), order="C")

  return read
