"""TFDS sets prepared as array_record, read and decoded without TensorFlow.

The bytes are taken undecoded (`SkipDecoding`): without TensorFlow, TFDS's own
decoder returns palette indices for palette PNGs and four channels for CMYK.
"""

import difflib
import hashlib
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cassle_jax.data import cache, decode
from cassle_jax.data.source import EncodedSource
from cassle_jax.errors import UserError, unknown

_SLOW_SCAN_SECONDS = 10


class TfdsSource(EncodedSource):
  """One split of a prepared TFDS builder.

  Args:
    builder: a `tfds.core.DatasetBuilder` with array_record files.
    split: a split or an expression of them, such as "train[:50%]+test".
    name: the text that opens it.
    classes: class names to take, in label order; None takes all.
  """

  def __init__(
    self,
    builder,
    split: str,
    *,
    name: str,
    classes: Sequence[str] | None = None,
  ):
    import tensorflow_datasets as tfds

    features = builder.info.features
    image = features["image"] if "image" in features else None
    if not isinstance(image, tfds.features.Image):
      raise UserError(
        f"{name} has no image feature named 'image'; its features are "
        f"{', '.join(features)}."
      )
    pictures = [
      key for key in features if isinstance(features[key], tfds.features.Image)
    ]
    try:
      self._data = builder.as_data_source(
        split, decoders={key: tfds.decode.SkipDecoding() for key in pictures}
      )
    except (ValueError, KeyError, AssertionError) as error:
      names = tuple(builder.info.splits)
      if split in names:
        raise
      raise unknown(f"split of {name}", split, names) from error
    if not len(self._data):
      raise UserError(f"{name}: split {split!r} holds no images.")
    self.name = name
    self.split = split
    height, width = image.shape[:2]
    self.shape = (height, width) if height and width else None
    self._rows = range(len(self._data))
    self._renumbered = None
    self._version = _fingerprint(builder, split, len(self._data))
    label = features["label"] if "label" in features else None
    self._labeled = isinstance(label, tfds.features.ClassLabel)
    if self._labeled:
      self.class_names = tuple(label.names or ())
    if classes is not None:
      self._take(classes)

  def __len__(self) -> int:
    return len(self._rows)

  @property
  def has_labels(self) -> bool:
    return self._labeled

  @property
  def labels(self) -> np.ndarray | None:
    """[N] int32; the first access reads through the whole split."""
    if self._labeled and self._labels is None:
      self._labels = self._scan_labels()
    return self._labels

  def encoded(self, index: int) -> bytes:
    return self._record(index)["image"]

  def label(self, index: int) -> int:
    return self._label_of(self._record(index))

  def labeled_picture(self, index: int) -> tuple[Image.Image, int]:
    record = self._record(index)
    return decode.picture(record["image"]), self._label_of(record)

  def locate(self, index: int) -> str:
    return f"record {self._rows[index]} of {self.name} ({self.split})"

  def _record(self, index: int) -> dict:
    return self._data[int(self._rows[index])]

  def _label_of(self, record: dict) -> int:
    if not self._labeled:
      return -1
    label = int(record["label"])
    return label if self._renumbered is None else self._renumbered[label]

  def _take(self, classes: Sequence[str]) -> None:
    if not self._labeled:
      raise UserError(f"{self.name} has no labels, so class_list cannot apply.")
    for each in classes:
      if each not in self.class_names:
        raise UserError(
          f"{self.name} has no class {each!r} of the class list."
          f"{_nearest(each, self.class_names)}"
        )
    renumbered = {
      self.class_names.index(each): label for label, each in enumerate(classes)
    }
    labels = self._scan_labels()
    rows = np.flatnonzero(np.isin(labels, list(renumbered))).astype(np.int32)
    if not len(rows):
      raise UserError(
        f"{self.name}: split {self.split!r} holds no image of the class list."
      )
    self._rows = rows
    self._renumbered = renumbered
    self._labels = np.array(
      [renumbered[label] for label in labels[rows].tolist()], np.int32
    )
    self.class_names = tuple(classes)

  def _scan_labels(self) -> np.ndarray:
    """Labels of all records, [N] int32.

    A record is read whole, so a large set takes minutes; then the result is
    kept in the user's cache folder.
    """
    name = f"labels-{self._version}.npy"
    total = len(self._data)
    labels = cache.read(name)
    if labels is not None:
      if labels.shape == (total,) and labels.dtype == np.int32:
        return labels
    start = time.monotonic()
    labels = np.empty(total, np.int32)
    for first in range(0, total, 256):
      rows = range(first, min(first + 256, total))
      records = self._data.__getitems__(list(rows))
      labels[first : first + 256] = [int(each["label"]) for each in records]
    if time.monotonic() - start > _SLOW_SCAN_SECONDS:
      cache.keep(name, labels)
    return labels


def _nearest(name: str, valid: Sequence[str]) -> str:
  near = difflib.get_close_matches(name, valid, n=1)
  return f" Did you mean {near[0]!r}?" if near else ""


def _fingerprint(builder, split: str, total: int) -> str:
  facts = builder.data_path / "dataset_info.json"
  text = f"{facts} {facts.stat().mtime} {split} {total}"
  return hashlib.sha256(text.encode()).hexdigest()[:20]


def _versions(folder) -> list:
  """The folders of the prepared versions in a builder's or config's folder."""
  from tensorflow_datasets.core.utils import version

  every = [folder / str(each) for each in version.list_all_versions(folder)]
  return [each for each in every if (each / "features.json").exists()]


def _find(name: str, data_dir: str):
  """The folder of a prepared builder.

  Raises:
    UserError: there is none; it tells what to do.
  """
  from etils import epath
  from tensorflow_datasets.core import constants

  if "/" in name or name.startswith("~"):
    direct = epath.Path(name).expanduser()
    if (direct / "features.json").exists():
      return direct
  root = epath.Path(data_dir or constants.DATA_DIR).expanduser()
  path, _, version = name.partition(":")
  builder, _, config = path.partition("/")
  folder = root / path
  if not config and not _versions(folder) and folder.is_dir():
    configs = [each for each in folder.iterdir() if _versions(each)]
    if len(configs) > 1:
      names = ", ".join(sorted(each.name for each in configs))
      raise UserError(
        f"tfds:{name} is prepared in several configs; name one as "
        f"tfds:{builder}/CONFIG: {names}."
      )
    folder = configs[0] if configs else folder
  found = [each for each in _versions(folder) if version in ("", each.name)]
  if found:
    return found[-1]
  raise _not_prepared(name, builder, root)


def _not_prepared(name: str, builder: str, root) -> UserError:
  import tensorflow_datasets as tfds

  # With the community's sets this would ask a server.
  known = tfds.list_builders(with_community_datasets=False)
  prepared = []
  if root.is_dir():
    prepared = [
      each.name
      for each in root.iterdir()
      if each.is_dir() and each.name != "downloads"
    ]
  if builder in known or builder in prepared:
    path = name.partition(":")[0]
    return UserError(
      f"tfds:{name} is not prepared in {root}. Prepare it once, in an "
      "environment of its own with TensorFlow (pip install "
      f"'cassle_jax[tfds-prepare]'): tfds build {path} "
      f"--file_format=array_record --data_dir={root}"
    )
  hint = _nearest(builder, [*known, *prepared])
  return UserError(
    f"unknown TFDS builder {builder!r}.{hint} Valid: TFDS's own "
    "(tensorflow.org/datasets/catalog) and those prepared in "
    f"{root}: {', '.join(sorted(prepared)) or 'none'}."
  )


def _builder(name: str, data_dir: str):
  import tensorflow_datasets as tfds

  folder = _find(name, data_dir)
  try:
    builder = tfds.builder_from_directory(folder)
    formats = {each.value for each in builder.info.available_file_formats()}
  except Exception as error:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(
      f"tfds:{name}: {folder} cannot be read ({text}); prepare it again."
    ) from error
  if "array_record" not in formats:
    raise UserError(
      f"tfds:{name} is prepared as {', '.join(sorted(formats))}, which needs "
      "TensorFlow to read. Convert it once, where TensorFlow is installed "
      "(pip install 'cassle_jax[tfds-prepare]'): tfds convert_format "
      f"--dataset_version_dir={folder} --out_file_format=array_record"
    )
  return builder


def open_builder(
  name: str,
  split: str = "train",
  *,
  data_dir: str = "",
  classes: Sequence[str] | None = None,
) -> TfdsSource:
  """Opens a prepared builder.

  Args:
    name: "NAME", "NAME/CONFIG", either with ":VERSION", or the folder of one
      version. The newest version that is prepared is the default.
    split: a split or an expression of them.
    data_dir: where prepared sets lie; "" is TFDS's default.
    classes: class names to take, in label order; None takes all.

  Raises:
    UserError: unknown or unprepared builder, another file format, unknown
      split or class.
  """
  builder = _builder(name, data_dir)
  return TfdsSource(builder, split, name=f"tfds:{name}", classes=classes)


def split_names(name: str, *, data_dir: str = "") -> tuple[str, ...]:
  """The splits of a prepared builder."""
  return tuple(_builder(name, data_dir).info.splits)
