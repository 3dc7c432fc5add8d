"""Opens a set where it lies, complete or not at all."""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

from cassle_jax.data import labeled
from cassle_jax.data.downstream.listed import JoinedSource, ListSource
from cassle_jax.data.downstream.row import Row
from cassle_jax.data.downstream.table import DATASETS
from cassle_jax.data.source import Source
from cassle_jax.errors import UserError, unknown


def find(name: str) -> Row:
  """The row of a set.

  Raises:
    UserError: there is no set of that name.
  """
  if name not in DATASETS:
    raise unknown("downstream data set", name, DATASETS)
  return DATASETS[name]


def evaluation_parts(row: Row) -> tuple[str, ...]:
  """The parts that an evaluation uses, in the order of `open_set`."""
  return tuple(part for part in row.counts if part != "unlabeled")


def available(data_dir: str = "") -> tuple[str, ...]:
  """Names of the sets that lie in a folder, in the table's order.

  Only looks for their folders and lists: neither pictures nor counts are read,
  so `open_set` may still find one incomplete.

  Args:
    data_dir: the folder of the data sets.
  """
  root = _root(data_dir)
  return tuple(
    row.name
    for row in DATASETS.values()
    if not _absent(row, root) or _is_prepared(row, root)
  )


def open_set(
  name: str,
  data_dir: str = "",
  split: str = "all",
  *,
  counts: Mapping[str, int] | None = None,
) -> Source:
  """Opens a set as its owners distribute it, or as TFDS prepared it.

  The owners' files come first. A TFDS builder is read where it holds the same
  data and lies in `data_dir` as array_record. Pictures are read when asked for,
  labels at once (TFDS: when asked for).

  Args:
    name: a key of `DATASETS`.
    data_dir: the folder of the data sets; "" is the current folder.
    split: a part of the set ("train", "val", "test", "unlabeled" where it has
      them), or "all": its evaluation parts one after another, which is what
      `splits` counts through.
    counts: pictures that each part must have; None takes the owners' numbers,
      a part that is not named may have any.

  Returns:
    A source with `labels` [N] int32 and `class_names`; 300w has `targets`
    [N, 136] float32 instead.

  Raises:
    UserError: unknown set or part; a set that is missing (it says what to
      download, from whom, and where to put it), incomplete (which counts
      differ) or unreadable.
  """
  row = find(name)
  parts = evaluation_parts(row)
  if split != "all":
    if split not in row.counts:
      raise unknown(f"part of {name}", split, {*row.counts, "all"})
    parts = (split,)
  root = _root(data_dir)
  read = _reader(row, root)
  sources = {}
  for part in parts:
    sources[part] = read(part)
    sources[part].name, sources[part].split = name, part
  _check_counts(row, root, sources, row.counts if counts is None else counts)
  if len(parts) == 1:
    return sources[parts[0]]
  joined = JoinedSource(list(sources.values()))
  joined.name, joined.split = name, "all"
  return joined


def rows(
  opened: Source,
  image_size: int,
  batch_size: int = 256,
  *,
  indices: Sequence[int] | np.ndarray | None = None,
  threads: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Streams pictures with their places, for features kept by place.

  The short side is resized to `image_size` (bicubic) and the middle cut out, as
  in the published evaluation; faces of 300w, which are cut to a square already,
  are resized whole, so that no landmark is lost.
  Unreadable pictures are left out with a warning.

  Args:
    opened: what `open_set` returned.
    image_size: side s in pixels.
    batch_size: pictures a batch; the last one may be smaller.
    indices: places to take, in this order; None takes all.
    threads: decoding threads; 0 takes two a core, at most 16.

  Yields:
    images [b, s, s, 3] uint8 and their places in `opened`, [b] int32.
  """
  return labeled.labeled_batches(
    _ByPlace(opened, image_size),
    image_size=image_size,
    batch_size=batch_size,
    indices=indices,
    threads=threads,
    short_side=image_size,
  )


def batches(
  opened: Source, image_size: int, batch_size: int = 256, **options
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Streams pictures with what is to be predicted, in file order.

  Args:
    opened: what `open_set` returned.
    image_size: side s in pixels.
    batch_size: pictures a batch; the last one may be smaller.
    **options: `indices`, `threads`, as of `rows`.

  Yields:
    images [b, s, s, 3] uint8 and labels [b] int32, or targets [b, 136] float32.

  Raises:
    UserError: the set has no labels.
  """
  answers = answers_of(opened)
  for images, places in rows(opened, image_size, batch_size, **options):
    yield images, answers[places]


def answers_of(opened: Source) -> np.ndarray:
  """What is to be predicted: labels [N] int32 or targets [N, 136] float32.

  Raises:
    UserError: the set has neither.
  """
  targets = getattr(opened, "targets", None)
  if targets is not None:
    return targets
  labels = opened.labels
  # TFDS labels the unlabeled part of STL-10 with -1.
  if labels is None or (labels < 0).any():
    raise UserError(
      f"{opened.name} ({opened.split}) has no labels; open another part."
    )
  return labels


class _ByPlace(Source):
  """A set whose label is a picture's place."""

  def __init__(self, opened: Source, image_size: int):
    self._opened = opened
    self._side = image_size if hasattr(opened, "targets") else 0
    self._places = np.arange(len(opened), dtype=np.int32)
    self.name, self.split = opened.name, opened.split

  def __len__(self) -> int:
    return len(self._places)

  @property
  def labels(self) -> np.ndarray:
    return self._places

  def picture(self, index: int) -> Image.Image:
    image = self._opened.picture(index)
    if self._side:
      size = (self._side, self._side)
      image = image.resize(size, Image.Resampling.BICUBIC)
    return image

  def locate(self, index: int) -> str:
    return self._opened.locate(index)


def _root(data_dir: str) -> str:
  return os.path.expanduser(data_dir) or "."


def _absent(row: Row, root: str) -> list[str]:
  """What of `needs` is not there."""
  folder = os.path.join(root, row.folder)
  return [
    each for each in row.needs if not os.path.exists(os.path.join(folder, each))
  ]


def _is_prepared(row: Row, root: str) -> bool:
  """Whether TFDS prepared the set there, by the look of its folders."""
  versions = os.path.join(glob.escape(root), row.tfds, "*", "features.json")
  if not row.tfds or not glob.glob(versions):
    return False
  try:
    _tfds_classes(row, root)
  except UserError:
    return False
  return True


def _tfds_classes(row: Row, root: str) -> Sequence[str] | None:
  folder = os.path.join(root, row.folder)
  return row.tfds_classes and row.tfds_classes(folder)


def _reader(row: Row, root: str):
  """(part) -> source, from wherever the set lies."""
  absent = _absent(row, root)
  if absent and _is_prepared(row, root):
    from cassle_jax.data import tfds_source

    classes = _tfds_classes(row, root)
    return lambda part: tfds_source.open_builder(
      row.tfds, row.tfds_parts[part], data_dir=root, classes=classes
    )
  folder = os.path.join(root, row.folder)
  if absent and len(absent) == len(row.needs):
    others = {os.path.join(root, k): why for k, why in row.not_read.items()}
    seen = [
      f" {k} {why}; it is not read."
      for k, why in others.items()
      if os.path.exists(k)
    ]
    raise UserError(
      f"{row.name} is not in {root}. {_fetch(row, root)}{''.join(seen)}"
    )
  if absent:
    raise UserError(
      f"{row.name} in {folder} is not complete: {', '.join(absent)} is not "
      f"there. {_fetch(row, root)}"
    )

  def read(part: str) -> Source:
    try:
      return row.read(folder, part)
    except UserError:
      raise
    except (OSError, ValueError, KeyError, IndexError) as error:
      text = str(error) or type(error).__name__
      raise UserError(
        f"{row.name} in {folder} cannot be read ({text}). {_fetch(row, root)}"
      ) from error

  return read


def _check_counts(
  row: Row,
  root: str,
  sources: Mapping[str, Source],
  counts: Mapping[str, int],
) -> None:
  differences = []
  for part, source in sources.items():
    lost = source.missing() if isinstance(source, ListSource) else []
    found, expected = len(source) - len(lost), counts.get(part)
    if lost or expected not in (None, found):
      wanted = len(source) if expected is None else expected
      example = f" ({lost[0]} is missing)" if lost else ""
      differences.append(
        f"{part} has {found:,} pictures instead of {wanted:,}{example}"
      )
  if differences:
    raise UserError(
      f"{row.name} in {os.path.join(root, row.folder)} is not complete: "
      f"{'; '.join(differences)}. {_fetch(row, root)}"
    )


def _fetch(row: Row, root: str) -> str:
  if not row.folder:
    return "Install the package again."
  place = os.path.join(root, row.folder)
  text = (
    f"Download {row.download} from {row.owner} and unpack so that "
    f"{place} holds {', '.join(row.needs)}."
  )
  if row.tfds:
    text += f" TFDS's {row.tfds}, prepared in {root}, will do as well."
  return text
