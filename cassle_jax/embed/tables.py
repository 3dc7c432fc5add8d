"""Files of features: .npz for NumPy, .parquet for everything else.

Both are written part by part, in memory that does not grow with the set, and
the same parts give the same bytes. Columns, or arrays of the .npz:

  path      where the picture is, e.g. "/data/pets/cat/1.jpg"
  split     of the source
  index     its place in the set, int64; unreadable pictures are left out
  label     int32, -1 where there is none
  class     the label's name, "" where there is none; .npz: class_names, which
            label counts
  features  [d] float32

and what they are of as JSON: schema metadata "cassle_jax", array "about".
"""

import itertools
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from cassle_jax.embed.parts import Part
from cassle_jax.embed.pictures import Pictures
from cassle_jax.errors import UserError

ENDINGS = (".npz", ".parquet")
_KEY = "cassle_jax"
# A zip file holds the time of each member; one time gives one file.
_DATE = (1980, 1, 1, 0, 0, 0)
_ROWS = 4096


def check_path(path: str) -> None:
  """Raises UserError for an ending that stands for no format that is there."""
  if not path.endswith(ENDINGS):
    raise UserError(
      f"--out={path} must end in {' or '.join(ENDINGS)}, which says the format."
    )
  if path.endswith(".parquet"):
    _pyarrow(path)


def write(
  file: BinaryIO,
  path: str,
  parts: Iterable[Part],
  pictures: Pictures,
  about: Mapping[str, Any],
) -> int:
  """Writes a table.

  Args:
    file: to write into.
    path: its ending says the format.
    parts: in order; gone through twice.
    pictures: that they are of.
    about: what the features are of; JSON values.

  Returns:
    The number of rows.

  Raises:
    UserError: no picture could be read.
  """
  found = [(p.index, p.labels, p.features.shape) for p in parts if len(p.index)]
  if not found:
    raise UserError(f"no picture of {pictures.name} can be read.")
  index, labels, shapes = zip(*found, strict=True)
  write = _write_parquet if path.endswith(".parquet") else _write_npz
  write(
    file,
    (part for part in parts if len(part.index)),
    pictures,
    json.dumps(about),
    np.concatenate(index),
    np.concatenate(labels),
    shapes[0][1],
  )
  return sum(rows for rows, _ in shapes)


def _write_npz(file, parts, pictures, about, index, labels, size) -> None:
  rows = len(index)
  arrays = {
    "index": index,
    "label": labels,
    "path": _strings(pictures.locate, index),
    "split": _strings(pictures.split_of, index),
    "class_names": np.array(pictures.class_names, np.str_),
    "about": np.array(about),
  }
  members = {
    name: (array.dtype, array.shape, [array]) for name, array in arrays.items()
  }
  members["features"] = (np.float32, (rows, size), (p.features for p in parts))
  with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
    for name, (kind, shape, values) in members.items():
      member = zipfile.ZipInfo(f"{name}.npy", _DATE)
      with archive.open(member, "w", force_zip64=True) as stream:
        header = {
          "descr": np.lib.format.dtype_to_descr(np.dtype(kind)),
          "fortran_order": False,
          "shape": shape,
        }
        np.lib.format.write_array_header_2_0(stream, header)
        for value in values:
          stream.write(np.ascontiguousarray(value, kind).tobytes())


def _strings(of: Callable[[int], str], index: np.ndarray) -> np.ndarray:
  return np.array([of(place) for place in index.tolist()], np.str_)


def _write_parquet(file, parts, pictures, about, index, labels, size) -> None:
  import pyarrow as pa
  from pyarrow import parquet

  word = pa.dictionary(pa.int32(), pa.string())
  schema = pa.schema(
    [
      ("path", pa.string()),
      ("split", word),
      ("index", pa.int64()),
      ("label", pa.int32()),
      ("class", word),
      ("features", pa.list_(pa.float32(), size)),
    ],
    metadata={_KEY: about},
  )
  with parquet.ParquetWriter(file, schema) as writer:
    for part in parts:
      places, names = part.index.tolist(), pictures.class_names
      words = [class_name(names, label) for label in part.labels.tolist()]
      flat = pa.array(np.ascontiguousarray(part.features).reshape(-1))
      columns = [
        pa.array([_text(pictures.locate(place)) for place in places]),
        pa.array([pictures.split_of(i) for i in places]).dictionary_encode(),
        pa.array(part.index),
        pa.array(part.labels),
        pa.array(words).dictionary_encode(),
        pa.FixedSizeListArray.from_arrays(flat, size),
      ]
      writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def class_name(names: tuple[str, ...], label: int) -> str:
  """A label's name: its number where it has none, "" without a label."""
  if label < 0:
    return ""
  return names[label] if label < len(names) else str(label)


def _text(path: str) -> str:
  """A path as UTF-8 can hold it: odd bytes of old disks become "?"."""
  return path.encode(errors="replace").decode()


def about(path: str) -> dict[str, Any] | None:
  """What a table says that it is of; None where it is no table of ours."""
  try:
    if path.endswith(".parquet"):
      from pyarrow import parquet

      found = parquet.read_schema(path).metadata[_KEY.encode()]
    else:
      with open(path, "rb") as file, np.load(file) as arrays:
        found = str(arrays["about"])
    held = json.loads(found)
    return held if isinstance(held, dict) else None
  except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
    return None


def places(path: str) -> np.ndarray:
  """The places in the set of a table's rows: [n] int64."""
  if path.endswith(".parquet"):
    from pyarrow import parquet

    return parquet.read_table(path, columns=["index"])["index"].to_numpy()
  with open(path, "rb") as file, np.load(file) as arrays:
    return arrays["index"]


def take(path: str, rows: np.ndarray) -> np.ndarray:
  """Features of some rows, ascending: [n, d] float32; in bounded memory."""
  found, start = [], 0
  chunks = _parquet_chunks if path.endswith(".parquet") else _npz_chunks
  for chunk in chunks(path):
    stop = start + len(chunk)
    found.append(chunk[rows[(rows >= start) & (rows < stop)] - start])
    start = stop
  return np.concatenate(found)


def _npz_chunks(path: str) -> Iterator[np.ndarray]:
  with zipfile.ZipFile(path) as archive:
    with archive.open("features.npy") as stream:
      np.lib.format.read_magic(stream)
      shape, _, kind = np.lib.format.read_array_header_2_0(stream)
      width = shape[1] * kind.itemsize
      for start in itertools.count(0, _ROWS):
        count = min(_ROWS, shape[0] - start)
        if count <= 0:
          return
        data = stream.read(count * width)
        yield np.frombuffer(data, kind).reshape(count, shape[1])


def _parquet_chunks(path: str) -> Iterator[np.ndarray]:
  from pyarrow import parquet

  with parquet.ParquetFile(path) as file:
    for batch in file.iter_batches(_ROWS, columns=["features"]):
      values = batch.column(0)
      yield values.flatten().to_numpy().reshape(len(values), -1)


def _pyarrow(path: str) -> None:
  try:
    import pyarrow  # noqa: F401
  except ImportError:
    raise UserError(
      f"--out={path} needs the package pyarrow: pip install pyarrow, or name a"
      " file that ends in .npz."
    ) from None
