"""One or several splits of a source as one set of pictures."""

import bisect
import hashlib
import itertools
from collections.abc import Sequence

from PIL import Image

from cassle_jax import data
from cassle_jax.data import Source
from cassle_jax.errors import UserError

ALL = "all"


class Pictures(Source):
  """Splits of a source, one behind the other.

  Classes are numbered as in the splits where all name the same, and in
  alphabetical order of all names where they do not.

  Attributes:
    splits: the sources.
    class_names: in label order.
  """

  def __init__(self, splits: Sequence[Source]):
    self.splits = tuple(splits)
    self.name, self.shape = splits[0].name, splits[0].shape
    self.split = ",".join(each.split for each in splits)
    self._ends = list(itertools.accumulate(len(each) for each in splits))
    named = [each.class_names for each in splits if each.class_names]
    same = len(set(named)) <= 1
    names = named[:1] if same else [sorted(set(itertools.chain(*named)))]
    self.class_names = tuple(itertools.chain(*names))
    places = {name: label for label, name in enumerate(self.class_names)}
    self._renumbered = [
      None if same else [places[name] for name in each.class_names]
      for each in splits
    ]

  def __len__(self) -> int:
    return self._ends[-1]

  @property
  def has_labels(self) -> bool:
    return any(each.has_labels for each in self.splits)

  def picture(self, index: int) -> Image.Image:
    split, row = self._find(index)
    return self.splits[split].picture(row)

  def locate(self, index: int) -> str:
    split, row = self._find(index)
    return self.splits[split].locate(row)

  def split_of(self, index: int) -> str:
    """Name of the split that a picture is of."""
    return self.splits[self._find(index)[0]].split

  def label(self, index: int) -> int:
    split, row = self._find(index)
    return self._number(split, self.splits[split].label(row))

  def labeled_picture(self, index: int) -> tuple[Image.Image, int]:
    split, row = self._find(index)
    image, label = self.splits[split].labeled_picture(row)
    return image, self._number(split, label)

  def fingerprint(self) -> str:
    """16 letters that change with any picture's path or class."""
    mark = hashlib.sha256(repr(self.class_names).encode())
    for place in range(len(self)):
      where = f"{self.split_of(place)}\t{self.locate(place)}\n"
      mark.update(where.encode(errors="surrogateescape"))
    return mark.hexdigest()[:16]

  def _find(self, index: int) -> tuple[int, int]:
    split = bisect.bisect_right(self._ends, index)
    return split, index - (self._ends[split - 1] if split else 0)

  def _number(self, split: int, label: int) -> int:
    renumbered = self._renumbered[split]
    return label if renumbered is None or label < 0 else renumbered[label]


def open_pictures(
  source: str, split: str = "train", *, class_list: str = "", data_dir: str = ""
) -> Pictures:
  """Opens splits of a source.

  Args:
    source: what `data.open_source` opens.
    split: one, several with commas between, or "all".
    class_list: see `data.open_source`.
    data_dir: see `data.open_source`.

  Raises:
    UserError: anything that the user can put right, in one line.
  """
  names = [split]
  if split == ALL:
    names = list(data.split_names(source, data_dir=data_dir)) or ["train"]
  elif "[" not in split:
    names = [name.strip() for name in split.split(",")]
  if "" in names or len(set(names)) < len(names):
    raise UserError(
      f"--split={split!r} must name splits of {source}, each once, with commas"
      f" between; or be {ALL!r}."
    )
  options = {"class_list": class_list, "data_dir": data_dir}
  return Pictures([data.open_source(source, name, **options) for name in names])
