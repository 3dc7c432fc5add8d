"""Files that torch.load reads, weights_only=True too, written without torch.

A zip of stored members, as torch has saved since 1.6: the raw bytes of arrays,
and a pickle that names them. That is put together opcode by opcode: it holds
strings, numbers, dicts and tensors, and nothing else can get into it.
"""

import struct
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

_STORAGES = {
  "float16": "HalfStorage",
  "float32": "FloatStorage",
  "float64": "DoubleStorage",
  "int32": "IntStorage",
  "int64": "LongStorage",
}
# One time for all members, so that equal weights give equal files.
_DATE = (1980, 1, 1, 0, 0, 0)
_ROOT = "archive"
# torch aligns storages, so that files can be mapped into memory.
_ALIGNMENT = 64


def write(file: BinaryIO, value: Any) -> None:
  """Writes what torch.load will return.

  Args:
    file: to write into, at its start.
    value: dicts with string keys, lists, str, bool, int, float, None, and
      arrays of the types of `_STORAGES`, which become tensors; of any size.

  Raises:
    TypeError: there is anything else in it.
  """
  arrays: list[np.ndarray] = []
  data = b"\x80\x02" + _pickled(value, arrays) + b"."
  with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
    _add(archive, file, "data.pkl", data)
    _add(archive, file, "byteorder", b"little")
    for key, array in enumerate(arrays):
      little = array.astype(array.dtype.newbyteorder("<"), copy=False)
      _add(archive, file, f"data/{key}", little.tobytes())
    _add(archive, file, "version", b"3\n")


def _add(
  archive: zipfile.ZipFile, file: BinaryIO, name: str, data: bytes
) -> None:
  member = zipfile.ZipInfo(f"{_ROOT}/{name}", _DATE)
  # Local header: 30 bytes, the name, and an extra field of 4 bytes and padding.
  start = file.tell() + 30 + len(member.filename) + 4
  padding = -start % _ALIGNMENT
  member.extra = struct.pack("<2sH", b"FB", padding) + padding * b"Z"
  archive.writestr(member, data)


def _pickled(value: Any, arrays: list[np.ndarray]) -> bytes:
  """Opcodes of protocol 2 that leave the value on the stack."""
  if value is None:
    return b"N"
  if isinstance(value, bool):
    return b"\x88" if value else b"\x89"
  if isinstance(value, int):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + struct.pack("<B", len(data)) + data
  if isinstance(value, float):
    return b"G" + struct.pack(">d", value)
  if isinstance(value, str):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data
  if isinstance(value, Mapping):
    items = [
      (_pickled(k, arrays), _pickled(v, arrays)) for k, v in value.items()
    ]
    return b"}(" + b"".join(k + v for k, v in items) + b"u"
  if isinstance(value, list | tuple):
    inner = b"".join(_pickled(item, arrays) for item in value)
    return b"](" + inner + b"e"
  if isinstance(value, np.ndarray):
    return _tensor(value, arrays)
  raise TypeError(f"no place for a {type(value).__name__} in a torch file")


def _tensor(array: np.ndarray, arrays: list[np.ndarray]) -> bytes:
  """torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, {})."""
  if array.dtype.name not in _STORAGES:
    raise TypeError(f"no torch storage for arrays of {array.dtype}")
  key = str(len(arrays))
  arrays.append(np.ascontiguousarray(array))
  strides = [1]
  for side in reversed(array.shape[1:]):
    strides.insert(0, strides[0] * side)
  storage = (
    b"("
    + _pickled("storage", [])
    + b"ctorch\n"
    + _STORAGES[array.dtype.name].encode()
    + b"\n"
    + _pickled(key, [])
    + _pickled("cpu", [])
    + _pickled(int(array.size), [])
    + b"tQ"
  )
  return (
    b"ctorch._utils\n_rebuild_tensor_v2\n("
    + storage
    + _pickled(0, [])
    + _tuple(array.shape)
    + _tuple(strides[: array.ndim])
    + b"\x89"
    + b"ccollections\nOrderedDict\n)R"
    + b"tR"
  )


def _tuple(numbers) -> bytes:
  return b"(" + b"".join(_pickled(int(n), []) for n in numbers) + b"t"
