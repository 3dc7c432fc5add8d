"""Files as torch.save writes them, made without torch.

Only what checkpoints need: dicts, lists, texts, numbers, arrays, and calls of
strangers' functions. The operations are those of pickle's protocol 2.
"""

import io
import struct
import zipfile

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
  "float32": "FloatStorage",
  "float16": "HalfStorage",
  "int64": "LongStorage",
}


class Call:
  """Pickled as a call of a function, which a reader must not make."""

  def __init__(self, module, name, *arguments):
    self.module, self.name, self.arguments = module, name, arguments


class _Writer:
  def __init__(self):
    self.arrays = []

  def pickle(self, item):
    return b"\x80\x02" + self.item(item) + b"."

  def item(self, item):
    if item is None or isinstance(item, bool):
      return {None: b"N", True: b"\x88", False: b"\x89"}[item]
    if isinstance(item, int) and not -(2**31) <= item < 2**31:
      data = item.to_bytes(item.bit_length() // 8 + 1, "little", signed=True)
      return b"\x8a" + bytes([len(data)]) + data
    if isinstance(item, int):
      return b"J" + struct.pack("<i", item)
    if isinstance(item, float):
      return b"G" + struct.pack(">d", item)
    if isinstance(item, str):
      data = item.encode()
      return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(item, dict):
      pairs = b"".join(self.item(k) + self.item(v) for k, v in item.items())
      return b"}(" + pairs + b"u"
    if isinstance(item, list):
      return b"](" + b"".join(map(self.item, item)) + b"e"
    if isinstance(item, tuple):
      return b"(" + b"".join(map(self.item, item)) + b"t"
    if isinstance(item, Call):
      name = f"c{item.module}\n{item.name}\n".encode()
      return name + self.item(item.arguments) + b"R"
    return self.array(np.asarray(item))

  def array(self, array):
    key = str(len(self.arrays))
    self.arrays.append(array)
    kind = f"ctorch\n{STORAGES[array.dtype.name]}\n".encode()
    identity = b"(" + self.item("storage") + kind + self.item(key)
    identity += self.item("cpu") + self.item(array.size) + b"tQ"
    strides = tuple(n // array.itemsize for n in np.zeros_like(array).strides)
    rest = [0, array.shape, strides, False]
    hooks = self.item(Call("collections", "OrderedDict"))
    return (
      b"ctorch._utils\n_rebuild_tensor_v2\n("
      + identity
      + b"".join(map(self.item, rest))
      + hooks
      + b"tR"
    )


def zipped(tree, root="archive"):
  """The bytes of a file of torch 1.6 or later."""
  writer, stream = _Writer(), io.BytesIO()
  with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
    archive.writestr(f"{root}/data.pkl", writer.pickle(tree))
    archive.writestr(f"{root}/byteorder", "little")
    for key, array in enumerate(writer.arrays):
      archive.writestr(f"{root}/data/{key}", np.ascontiguousarray(array).data)
    archive.writestr(f"{root}/version", "3\n")
  return stream.getvalue()


def legacy(tree):
  """The bytes of a file of torch before 1.6."""
  writer = _Writer()
  system = {"protocol_version": 1001, "little_endian": True}
  data = b"".join(map(writer.pickle, (MAGIC, 1001, system, tree)))
  data += writer.pickle([str(key) for key in range(len(writer.arrays))])
  for array in writer.arrays:
    data += struct.pack("<q", array.size) + array.tobytes()
  return data


FORMATS = {"zip": zipped, "legacy": legacy}
