"""Opens sources by name; folders and TFDS sets have files of their own."""

import json
import os
import zipfile

import numpy as np

from cassle_jax.data import (
  decode,
  folder,
  parquet,
  prepared,
  shards,
  tars,
  tfds_source,
)
from cassle_jax.data.source import ArraySource, Source
from cassle_jax.errors import UserError, unknown

KINDS = (
  "bundled:earth",
  "folder:PATH",
  "npy:PATH",
  "tfds:NAME",
  "prepared:PATH",
  "wds:PATTERN",
  "parquet:PATTERN",
)
# Kind -> the ending of its files in a folder, and what opens them.
_SHARDS = {
  "wds": (".tar", tars.TarSource),
  "parquet": (".parquet", parquet.ParquetSource),
}
_BUNDLED_SPLITS = ("train", "test")


def _open_bundled(which: str, split: str) -> Source:
  if which != "earth":
    raise unknown("bundled set", which, ("earth",))
  if split not in _BUNDLED_SPLITS:
    raise unknown("split of bundled:earth", split, _BUNDLED_SPLITS)
  place = os.path.join(os.path.dirname(__file__), "earth")
  with open(os.path.join(place, "labels.json"), encoding="utf-8") as file:
    facts = json.load(file)
  tile, columns = facts["tile"], facts["columns"]
  with open(os.path.join(place, f"{split}.jpg"), "rb") as file:
    mosaic = np.asarray(decode.picture(file.read()))
  rows = mosaic.shape[0] // tile
  tiles = mosaic.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
  tiles = tiles.reshape(rows * columns, tile, tile, 3)
  return ArraySource(
    tiles[: facts[split]["count"]],
    np.array(facts[split]["labels"]),
    name="bundled:earth",
    split=split,
    class_names=facts["classes"],
  )


def _array_splits(path: str) -> dict[str, str]:
  """Split name -> file for npy:PATH; a file by itself is the split "train"."""
  if not os.path.isdir(path):
    return {"train": path}
  return {
    os.path.splitext(each)[0]: os.path.join(path, each)
    for each in sorted(os.listdir(path))
    if each.endswith((".npy", ".npz")) and not each.endswith("_labels.npy")
  }


def _open_arrays(path: str, split: str) -> Source:
  name = f"npy:{path}"
  splits = _array_splits(path)
  if split not in splits:
    raise unknown(f"split of {name}", split, splits or ("train",))
  file = splits[split]
  if not os.path.isfile(file):
    raise UserError(f"{name}: no such file; give a .npy or .npz file.")
  labels = None
  try:
    # Never with pickles: an object array could run code.
    if file.endswith(".npz"):
      # NumPy leaves a damaged file open if it opened it itself.
      with (
        open(file, "rb") as stream,
        np.load(stream, allow_pickle=False) as arrays,
      ):
        if "images" not in arrays.files:
          raise UserError(
            f"{name} holds {', '.join(arrays.files) or 'nothing'}; it must "
            "hold `images` (uint8 [N, H, W, 3]) and may hold `labels`."
          )
        images = arrays["images"]
        if "labels" in arrays.files:
          labels = arrays["labels"]
    elif file.endswith(".npy"):
      images = np.load(file, mmap_mode="r", allow_pickle=False)
      beside = file.removesuffix(".npy") + "_labels.npy"
      if os.path.exists(beside):
        labels = np.load(beside, allow_pickle=False)
    else:
      raise UserError(f"{name}: give a file ending in .npy or .npz.")
  except UserError:
    raise
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    text = str(error).splitlines()[0] if str(error) else "it is damaged"
    raise UserError(f"{name}: {file} cannot be read ({text}).") from error
  return ArraySource(images, labels, name=name, split=split)


def open_source(
  source: str = "bundled:earth",
  split: str = "train",
  *,
  class_list: str = "",
  data_dir: str = "",
) -> Source:
  """Opens a set of images.

  Args:
    source: one of

      - "bundled:earth": 32 x 32 satellite tiles, splits train and test;
      - "folder:PATH": class folders in PATH/SPLIT, or in PATH itself for
        "train" if there is no PATH/train; pictures directly inside are
        unlabeled;
      - "npy:PATH": a .npy file (uint8 [N, H, W, 3]; labels from the file beside
        it whose name ends in _labels.npy), a .npz file (`images`, `labels`) or
        a folder of SPLIT.npy / SPLIT.npz files;
      - "tfds:NAME", "tfds:NAME/CONFIG", "tfds:NAME:VERSION" or "tfds:FOLDER": a
        TFDS builder prepared as array_record, read without TensorFlow;
      - "prepared:PATH": what `python -m cassle_jax.prepare` wrote;
      - "wds:PATTERN", "parquet:PATTERN": WebDataset tars, or Parquet files of
        the Hugging Face hub; see `shards` for patterns and splits.

    split: "train", "test", ...; TFDS slices such as "train[:10%]" work.
    class_list: text file of class names, one a line: takes only these, the
      line number is the label (folder and tfds).
    data_dir: where TFDS sets lie; "" is TFDS's default.

  Raises:
    UserError: anything that the user can put right, in one line.
  """
  kind, _, rest = source.partition(":")
  if class_list and kind not in ("folder", "tfds"):
    raise UserError(
      f"class_list works with folder: and tfds: sources, not with {source!r}."
    )
  if rest and kind == "bundled":
    return _open_bundled(rest, split)
  if rest and kind == "folder":
    path = os.path.expanduser(rest)
    return folder.open_folder(path, split, class_list=class_list)
  if rest and kind == "npy":
    return _open_arrays(os.path.expanduser(rest), split)
  if rest and kind == "tfds":
    classes = folder.read_class_list(class_list) if class_list else None
    return tfds_source.open_builder(
      rest, split, data_dir=data_dir, classes=classes
    )
  if rest and kind == "prepared":
    return prepared.open_prepared(os.path.expanduser(rest), split)
  if rest and kind in _SHARDS:
    ending, opener = _SHARDS[kind]
    path = os.path.expanduser(rest)
    paths = shards.of_split(kind, path, ending, split)
    return opener(paths, name=source, split=split)
  found = _bare_path(source)
  if found:
    raise UserError(
      f"data.source={source} does not say what it is; write"
      f" --config.data.source={found}"
    )
  raise unknown("data.source", source, KINDS)


def _bare_path(source: str) -> str | None:
  """What to give as `data.source` for a path or name without its kind."""
  path = os.path.expanduser(source)
  if os.path.isdir(path):
    arrays = any(n.endswith((".npy", ".npz")) for n in os.listdir(path))
    return f"{'npy' if arrays else 'folder'}:{source}"
  if source.endswith((".npy", ".npz")):
    return f"npy:{source}"
  if f"bundled:{source}" in KINDS:
    return f"bundled:{source}"
  if source.isidentifier():
    return f"tfds:{source}, if it is a prepared TFDS builder, or folder:PATH"
  return None


def split_names(source: str, *, data_dir: str = "") -> tuple[str, ...]:
  """Names of the splits that a source has on this machine."""
  kind, _, rest = source.partition(":")
  if kind == "bundled":
    return _BUNDLED_SPLITS
  if kind == "folder":
    path = os.path.expanduser(rest)
    found = folder.folder_splits(path) if os.path.isdir(path) else ()
    return found or ("train",)
  if kind == "npy":
    return tuple(_array_splits(os.path.expanduser(rest)))
  if kind in _SHARDS:
    return tuple(
      shards.splits(kind, os.path.expanduser(rest), _SHARDS[kind][0])
    )
  if kind == "prepared":
    return prepared.split_names(os.path.expanduser(rest))
  if kind == "tfds":
    return tfds_source.split_names(rest, data_dir=data_dir)
  return ()
