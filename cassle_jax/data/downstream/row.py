"""What is known of one data set."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cassle_jax.data.source import Source


class Row(NamedTuple):
  """One data set.

  Attributes:
    name: what commands and results call it.
    title: what a table calls it.
    metric: "top1", "mean_per_class" (top-1 of each class, averaged) or
      "landmarks" (regression of `targets`).
    classes: number of classes; 0 for landmarks.
    counts: pictures by part. The parts are named for what they serve ("train",
      "val", "test"), whatever their owners call them; "all" is a set that comes
      in one part, "unlabeled" is no part of an evaluation.
    folder: where it lies in the data folder; "" for the bundled set.
    needs: what must be in that folder, as paths.
    download: the files to fetch.
    owner: the page to fetch them from.
    read: (folder, part) -> source.
    split: how train, val and test are made; see `splitting.splits`.
    holdout: the part of "train" that validates where `split` is "holdout".
    few_shot: the part that few-shot episodes are drawn from, or "all"; "" where
      the set is not one of that evaluation's.
    tfds: name of a TFDS builder with the same data, or "".
    tfds_parts: our parts -> splits of that builder.
    tfds_classes: (folder) -> the classes to take of it; None takes all.
    not_read: other folders that look like this set -> why they are not read.
  """

  name: str
  title: str
  classes: int
  counts: Mapping[str, int]
  folder: str
  needs: tuple[str, ...]
  download: str
  owner: str
  read: Callable[[str, str], Source]
  metric: str = "top1"
  split: str = "holdout"
  holdout: float = 0.1
  few_shot: str = ""
  tfds: str = ""
  tfds_parts: Mapping[str, str] = {"train": "train", "test": "test"}
  tfds_classes: Callable[[str], Sequence[str]] | None = None
  not_read: Mapping[str, str] = {}
