"""Train, validation and test pictures of each set, by rule and seed."""

from typing import NamedTuple

import numpy as np

from cassle_jax.data.downstream import opening
from cassle_jax.data.downstream.table import Row
from cassle_jax.data.order import permutation
from cassle_jax.data.source import Source

# Caltech-101's usual protocol: 30 pictures a class to learn from, all others
# to test on (Kornblith et al., 2019); 5 of the 30 validate.
_PER_CLASS_TRAIN, _PER_CLASS_VAL = 25, 5


class Splits(NamedTuple):
  """Which pictures of `open_set(name, data_dir)` serve what.

  Attributes:
    train: [n] int32, ascending; empty where a set is only for few-shot tasks.
    val: [n] int32, ascending; train and val together are what is refit on.
    test: [n] int32, ascending.
    rule: how they were made, one sentence.
    seed: what the draw depends on; owners' parts do not.
  """

  train: np.ndarray
  val: np.ndarray
  test: np.ndarray
  rule: str
  seed: int


def splits(
  name: str, data_dir: str = "", seed: int = 0, *, opened: Source | None = None
) -> Splits:
  """Draws the splits of a set, the same on every machine.

  A draw depends on the order of the pictures, so a set prepared by TFDS, which
  stores them in the order of a hash, is not drawn as its owners' files are.

  Args:
    name: a key of `DATASETS`.
    data_dir: see `opening.open_set`.
    seed: of what is drawn; any integer.
    opened: what `open_set(name, data_dir)` returned, to spare listing twice.

  Raises:
    UserError: see `opening.open_set`.
  """
  row = opening.find(name)
  if opened is None:
    opened = opening.open_set(name, data_dir)
  parts = opening.evaluation_parts(row)
  lengths = [len(each) for each in getattr(opened, "sources", [opened])]
  # A set prepared by TFDS is read through for its labels.
  labels = opened.labels if row.split in ("holdout", "per_class") else None
  return draw(row, labels, dict(zip(parts, lengths, strict=True)), seed)


def draw(
  row: Row, labels: np.ndarray | None, lengths: dict[str, int], seed: int
) -> Splits:
  """The splits of one row.

  Args:
    row: its `split` is one of
      "owner": all three parts are the owners';
      "holdout": the share `holdout` of "train" validates, drawn in proportion
        to the classes;
      "per_class": 25 pictures a class train, 5 validate, the rest tests;
      "thirds": 30 % train, 30 % validate, 40 % test, drawn without classes;
      "test": everything tests.
    labels: [N] of the whole set; None where the rule needs none.
    lengths: pictures of each part, in order.
    seed: of the draw.
  """
  ends = np.cumsum(list(lengths.values()))
  ranges = {
    part: np.arange(end - lengths[part], end, dtype=np.int32)
    for part, end in zip(lengths, ends, strict=True)
  }
  total = int(ends[-1])
  none = np.zeros(0, np.int32)
  if row.split == "owner":
    rule = "the owners' train, validation and test parts"
    chosen = ranges["train"], ranges["val"], ranges["test"]
  elif row.split == "holdout":
    train = ranges["train"]
    amount = round(row.holdout * len(train))
    held = _stratified(labels[train], amount, seed)
    rule = (
      f"{amount} pictures of the owners' train part, drawn in proportion to "
      "the classes, validate; the owners' test part"
    )
    chosen = train[~held], train[held], ranges["test"]
  elif row.split == "per_class":
    rank = _rank_in_class(labels, seed)
    learn = _PER_CLASS_TRAIN + _PER_CLASS_VAL
    places = np.arange(total, dtype=np.int32)
    rule = (
      f"drawn for each class: {_PER_CLASS_TRAIN} pictures train, "
      f"{_PER_CLASS_VAL} validate, the rest tests"
    )
    chosen = (
      places[rank < _PER_CLASS_TRAIN],
      places[(rank >= _PER_CLASS_TRAIN) & (rank < learn)],
      places[rank >= learn],
    )
  elif row.split == "thirds":
    order = permutation(total, seed=seed)
    cuts = [int(0.3 * total), int(0.6 * total)]
    rule = "drawn: 30 % train, 30 % validate, 40 % test"
    chosen = tuple(np.sort(each) for each in np.split(order, cuts))
  else:
    rule = "everything tests"
    chosen = none, none, ranges["all"]
  return Splits(*chosen, rule=rule, seed=seed)


def _rank_in_class(labels: np.ndarray, seed: int) -> np.ndarray:
  """[N] place of each picture among those of its class, in a drawn order."""
  order = permutation(len(labels), seed=seed)
  by_class = order[np.argsort(labels[order], kind="stable")]
  sizes = np.bincount(labels)
  first = np.cumsum(sizes) - sizes
  rank = np.empty(len(labels), np.int64)
  rank[by_class] = np.arange(len(labels)) - np.repeat(first, sizes)
  return rank


def _stratified(labels: np.ndarray, amount: int, seed: int) -> np.ndarray:
  """[N] bool: `amount` pictures in proportion to the classes.

  Each class gives the whole part of its share; what is left goes to the
  classes with the largest fractions, the first of equals.
  """
  sizes = np.bincount(labels)
  # In integers: a rounded share of 19.999 must not lose a picture.
  quota, fraction = np.divmod(sizes * amount, len(labels))
  most = np.argsort(-fraction, kind="stable")
  quota[most[: amount - quota.sum()]] += 1
  return _rank_in_class(labels, seed) < quota[labels]
