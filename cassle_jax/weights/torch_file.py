"""Files of torch.save, without torch: the zip format and the one before it.

Zip (torch 1.6 and later): NAME/data.pkl, NAME/data/KEY with the raw numbers,
NAME/byteorder. Legacy: pickles in a row (magic number, protocol, the writer's
system, the object, the keys), then for each key a count and the raw numbers.
"""

import io
import math
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cassle_jax.weights import pickled, tensor
from cassle_jax.weights.tensor import BFLOAT16, Damaged, Tensor, Weights

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# How often a file's bytes may be seen through tensors that share them.
_SHARED = 4

_TYPES = {
  "Float": np.dtype("<f4"),
  "Double": np.dtype("<f8"),
  "Half": np.dtype("<f2"),
  "BFloat16": BFLOAT16,
  "Long": np.dtype("<i8"),
  "Int": np.dtype("<i4"),
  "Short": np.dtype("<i2"),
  "Char": np.dtype("i1"),
  "Byte": np.dtype("u1"),
  "Bool": np.dtype("bool"),
  "ComplexFloat": np.dtype("<c8"),
  "ComplexDouble": np.dtype("<c16"),
}
STORAGES = {f"torch.{name}Storage": kind for name, kind in _TYPES.items()}
STORAGES |= {f"torch.cuda.{name}Storage": kind for name, kind in _TYPES.items()}
STORAGES["torch.storage.UntypedStorage"] = np.dtype("u1")
# What torch.dtype objects are pickled as.
DTYPES = {
  f"torch.{name}": np.dtype(kind)
  for name, kind in {
    "float32": "<f4",
    "float64": "<f8",
    "float16": "<f2",
    "bfloat16": BFLOAT16,
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint8": "u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "bool": "bool",
  }.items()
}


class Storage(NamedTuple):
  """A run of numbers in the file that tensors are views of."""

  key: str
  dtype: np.dtype
  count: int


# (storage) -> its bytes.
ReadStorage = Callable[[Storage], bytes]


class _Objects:
  """What a checkpoint's pickle may make: dicts, and tensors of its storages."""

  def __init__(self, read: ReadStorage, available: int):
    """`available` is the size of the file, which bounds every tensor."""
    self.read, self.available = read, available
    self.seen = 0
    self.storages: dict[str, Storage] = {}
    self.foreign: set[str] = set()

  def machine(self) -> pickled.Machine:
    """A machine that knows what torch.save writes."""
    known = {
      "collections.OrderedDict": _ordered,
      "torch.Size": lambda items=(): tuple(items),
      "torch._utils._rebuild_tensor": self.tensor,
      "torch._utils._rebuild_tensor_v2": self.tensor,
      "torch._utils._rebuild_tensor_v3": self.tensor_v3,
      "torch._utils._rebuild_parameter": lambda data, *rest: data,
      "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
    }
    known |= dict.fromkeys((*STORAGES, *DTYPES), lambda *rest: pickled.INERT)
    return pickled.Machine(known, self.storage, self.foreign)

  def storage(self, identity: Any) -> Any:
    """The storage of a persistent id ('storage', class, key, place, count)."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6):
      raise Damaged("its pickle refers to something that is no storage")
    if identity[0] != "storage" or not isinstance(identity[1], pickled.Global):
      raise Damaged("its pickle refers to something that is no storage")
    if len(identity) == 6 and identity[5] is not None:
      raise Damaged(
        "its tensors are views of views, as torch wrote them before 0.4; load"
        " and save it again with a newer torch"
      )
    key, dtype = identity[2], STORAGES.get(identity[1].name)
    if not isinstance(key, str):
      raise Damaged("a storage has a key that is no text")
    if dtype is None:
      self.foreign.add(identity[1].name[:100])
      return pickled.INERT
    made = Storage(key, dtype, tensor.size(identity[4], "storage"))
    if self.storages.setdefault(key, made) != made:
      raise Damaged(f"storage {key[:40]} is described twice, and differently")
    return made

  def tensor(
    self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
  ) -> Any:
    """A view of a storage; sizes in elements, nothing read yet."""
    if storage is pickled.INERT:
      return storage
    if not isinstance(storage, Storage):
      raise Damaged("a tensor is a view of something that is no storage")
    return self._view(storage, storage.dtype, offset, shape, strides)

  def tensor_v3(
    self,
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    *rest: Any,
  ) -> Any:
    """The same of an untyped storage."""
    name = dtype.name if isinstance(dtype, pickled.Global) else ""
    if storage is pickled.INERT or name not in DTYPES:
      return pickled.INERT
    if not isinstance(storage, Storage):
      raise Damaged("a tensor is a view of something that is no storage")
    return self._view(storage, DTYPES[name], offset, shape, strides)

  def _view(
    self, storage: Storage, dtype: np.dtype, offset: Any, shape: Any, strides
  ) -> Tensor:
    shape = tensor.sizes(shape, "shape")
    strides = tensor.sizes(strides, "strides")
    offset = tensor.size(offset, "offset")
    if len(shape) != len(strides):
      raise Damaged(f"a tensor of shape {shape} has strides {strides}")
    count = storage.count * storage.dtype.itemsize // dtype.itemsize
    last = offset + sum(
      (n - 1) * stride for n, stride in zip(shape, strides, strict=True)
    )
    if math.prod(shape) and last >= count:
      raise Damaged(
        f"a tensor of shape {shape} reaches beyond its storage of {count}"
      )
    read = lambda: self._read(storage, dtype, offset, shape, strides)  # noqa: E731
    made = Tensor(shape, dtype, read)
    tensor.check_fits(made, "", self.available)
    self.seen += made.nbytes
    if self.seen > _SHARED * self.available:
      raise Damaged(
        f"its tensors take over {_SHARED} times the bytes of the file"
      )
    return made

  def _read(self, storage, dtype, offset, shape, strides) -> np.ndarray:
    if not math.prod(shape):
      return np.zeros(shape, dtype)
    flat = np.frombuffer(self.read(storage), np.uint8)
    flat = flat[: flat.size // dtype.itemsize * dtype.itemsize].view(dtype)
    view = np.lib.stride_tricks.as_strided(
      flat[offset:], shape, [n * dtype.itemsize for n in strides]
    )
    return np.array(view, order="C")


def _ordered(items: Any = ()) -> dict[Any, Any]:
  """An OrderedDict, as Python 2 wrote it with its items."""
  made = {}
  for item in items if isinstance(items, (list, tuple)) else ():
    if isinstance(item, (list, tuple)) and len(item) == 2:
      pickled.put(made, list(item))
  return made


def read_zip(path: str, archive: zipfile.ZipFile) -> Weights:
  """Reads the zip format; see `reader.read`."""
  members = {info.filename: info for info in archive.infolist()}
  available = os.path.getsize(path)
  roots = [
    name.removesuffix("data.pkl")
    for name in members
    if name == "data.pkl" or name.endswith("/data.pkl")
  ]
  if len(roots) != 1:
    raise Damaged(f"it has {len(roots)} files data.pkl instead of one")
  root = roots[0]

  def content(name: str, what: str) -> bytes:
    if name not in members:
      raise Damaged(f"it has no member {name[:60]} ({what})")
    return _stored(path, members[name], available)

  order = root + "byteorder"
  if order in members and content(order, "byte order").strip() != b"little":
    raise Damaged(
      "its numbers are big-endian; save it again on a little-endian machine"
    )

  def read(storage: Storage) -> bytes:
    data = content(f"{root}data/{storage.key}", "a storage")
    _check_length(storage, len(data))
    return data

  objects = _Objects(read, available)
  stream = io.BytesIO(content(root + "data.pkl", "the structure"))
  tree = objects.machine().load(stream)
  for storage in objects.storages.values():
    name = f"{root}data/{storage.key}"
    if name not in members:
      raise Damaged(f"it has no member {name[:60]} (a storage)")
    _check_length(storage, members[name].file_size)
  return _weights(path, "torch (zip)", tree, objects)


def _stored(path: str, info: zipfile.ZipInfo, available: int) -> bytes:
  """The bytes of a member, which torch never compresses."""
  if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
    raise Damaged(f"its member {info.filename[:60]} is compressed or encrypted")
  if info.file_size != info.compress_size or info.file_size > available:
    raise Damaged(f"its member {info.filename[:60]} is longer than the file")
  with open(path, "rb") as file:
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
      raise Damaged(f"its member {info.filename[:60]} has no header")
    name, extra = struct.unpack("<HH", header[26:30])
    file.seek(name + extra, os.SEEK_CUR)
    data = file.read(info.file_size)
  if len(data) != info.file_size:
    raise Damaged(f"it ends within its member {info.filename[:60]}")
  # torch can be told to leave the checksums out.
  if info.CRC and zlib.crc32(data) != info.CRC:
    raise Damaged(f"its member {info.filename[:60]} changed on disk")
  return data


def read_legacy(path: str) -> Weights:
  """Reads the format before zip; see `reader.read`."""
  available = os.path.getsize(path)
  places: dict[str, int] = {}

  def read(storage: Storage) -> bytes:
    with open(path, "rb") as file:
      file.seek(places[storage.key])
      data = file.read(storage.count * storage.dtype.itemsize)
    _check_length(storage, len(data))
    return data

  objects = _Objects(read, available)
  with (
    open(path, "rb") as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream,
  ):
    magic, protocol, system = (objects.machine().load(stream) for _ in range(3))
    if magic != MAGIC or protocol != _PROTOCOL:
      raise Damaged(f"it begins with {protocol!r:.40}, not with {_PROTOCOL}")
    if isinstance(system, Mapping) and not system.get("little_endian", True):
      raise Damaged(
        "its numbers are big-endian; save it again on a little-endian machine"
      )
    tree = objects.machine().load(stream)
    keys = objects.machine().load(stream)
    place = stream.tell()
    if not isinstance(keys, list):
      raise Damaged("its list of storages is none")
    for key in keys:
      storage = objects.storages.get(key) if isinstance(key, str) else None
      if storage is None or key in places:
        raise Damaged(f"its list of storages has {key!r:.40}")
      if place + 8 > available:
        raise Damaged(f"it ends before storage {key:.40}")
      (count,) = struct.unpack("<q", stream[place : place + 8])
      if count != storage.count:
        raise Damaged(
          f"storage {key:.40} has {count} numbers, not {storage.count}"
        )
      places[key] = place + 8
      place += 8 + count * storage.dtype.itemsize
      if place > available:
        raise Damaged(f"it ends within storage {key:.40}")
  for key in objects.storages:
    if key not in places:
      raise Damaged(f"it lacks storage {key:.40}")
  return _weights(path, "torch (legacy)", tree, objects)


def _check_length(storage: Storage, found: int) -> None:
  wanted = storage.count * storage.dtype.itemsize
  if found < wanted:
    raise Damaged(
      f"storage {storage.key:.40} has {found} bytes, and is to have {wanted}"
    )


def _weights(path: str, kind: str, tree: Any, objects: _Objects) -> Weights:
  tensors, values = flatten(tree)
  foreign = tuple(sorted(objects.foreign))
  return Weights(path, kind, tensors, values, foreign)


def flatten(tree: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
  """Tensors and plain values of nested dicts and lists, by dotted names.

  A dict or list that stands in several places is taken at the first.

  Raises:
    Damaged: two tensors would have one name.
  """
  tensors, values, seen = {}, {}, set()
  pending = [("", tree)]
  while pending:
    name, item = pending.pop()
    if isinstance(item, Tensor):
      if name in tensors:
        raise Damaged(f"it has two tensors {name[:60]}")
      tensors[name] = item
    elif isinstance(item, (dict, list, tuple)):
      if id(item) in seen or isinstance(item, pickled.Global):
        continue
      seen.add(id(item))
      pairs = item.items() if isinstance(item, dict) else enumerate(item)
      children = [
        (f"{name}.{key}" if name else str(key), child) for key, child in pairs
      ]
      pending += reversed(children)
    elif isinstance(item, (str, int, float, bool)):
      values[name] = item
  return tensors, values
