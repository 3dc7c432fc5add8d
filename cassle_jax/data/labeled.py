"""Labeled images for evaluation: fixed views, no augmentation, file order."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from absl import logging

from cassle_jax.data import decode, layout, loading, sources
from cassle_jax.data.source import Source
from cassle_jax.errors import UserError

# A test split is the last resort: what is looked at while training should not
# be what is reported at the end.
_QUERIES = ("val", "test")


def labeled_batches(
  source: str | Source,
  split: str = "train",
  image_size: int = 32,
  *,
  batch_size: int = 256,
  indices: Sequence[int] | np.ndarray | None = None,
  class_list: str = "",
  data_dir: str = "",
  threads: int = 0,
  short_side: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Streams a labeled set in file order, once, in bounded memory.

  Pictures of `image_size` x `image_size` come as they are, all others through
  `decode.evaluation_crop`. Unreadable pictures and those whose label is
  negative (unknown) are left out, the former with a warning that names them.

  Args:
    source: what `open_source` opens, or an open source.
    split: which part of it.
    image_size: side s in pixels.
    batch_size: images a batch; the last one may be smaller.
    indices: pictures to take, in this order; None takes all.
    class_list: see `open_source`.
    data_dir: see `open_source`.
    threads: decoding threads; 0 takes two a core, at most 16.
    short_side: see `decode.evaluation_crop`.

  Yields:
    images [b, s, s, 3] uint8 and labels [b] int32.

  Raises:
    UserError: the set has no labels, or it cannot be opened.
  """
  opened = source
  if isinstance(source, str):
    opened = sources.open_source(
      source, split, class_list=class_list, data_dir=data_dir
    )
  if not opened.has_labels:
    raise UserError(
      f"{opened.name} ({opened.split}) has no labels, which evaluation needs; "
      "sort the pictures into class folders."
    )
  places = range(len(opened)) if indices is None else indices
  images, labels = [], []
  for _, image, label in views(
    opened, places, image_size, threads=threads, short_side=short_side
  ):
    if label < 0:
      continue
    images.append(image)
    labels.append(label)
    if len(images) == batch_size:
      yield np.stack(images), np.array(labels, np.int32)
      images, labels = [], []
  if images:
    yield np.stack(images), np.array(labels, np.int32)


def views(
  opened: Source,
  places: Iterable[int],
  image_size: int,
  *,
  threads: int = 0,
  ahead: int = 0,
  short_side: int = 0,
) -> Iterator[tuple[int, np.ndarray, int]]:
  """Streams pictures as evaluation sees them, decoded a little ahead.

  Args:
    opened: an open source; it need not have labels.
    places: of the pictures, in the order wanted.
    image_size: side s in pixels; see `decode.evaluation_crop`.
    threads: decoding threads; 0 takes two a core, at most 16.
    ahead: pictures that may wait; 0 takes four a thread.
    short_side: see `decode.evaluation_crop`.

  Yields:
    place, image [s, s, 3] uint8 and label (-1 where it is not known).
    Unreadable pictures are left out, with a warning that names them.
  """
  threads = threads or decode.default_threads()

  def load(index: int):
    try:
      image, label = opened.labeled_picture(index)
    except decode.CorruptImage as error:
      return index, None, f"{opened.locate(index)}: {error}"
    crop = decode.evaluation_crop(image, image_size, short_side=short_side)
    return index, crop, label

  for place, image, label in loading.ordered(load, places, threads, ahead):
    if image is None:
      logging.warning("Left out %s.", label)
    else:
      yield place, image, label


def labeled_images(
  source: str | Source,
  split: str = "train",
  image_size: int = 32,
  **options,
) -> tuple[np.ndarray, np.ndarray]:
  """A whole labeled set at once; `labeled_batches` in one array.

  Args:
    source: what `open_source` opens, or an open source.
    split: which part of it.
    image_size: side s in pixels.
    **options: `indices`, `class_list`, `data_dir`, `threads`, `short_side`.

  Returns:
    images [N, s, s, 3] uint8 and labels [N] int32.

  Raises:
    UserError: the set has no labels, no readable picture, or no such path.
  """
  batches = list(labeled_batches(source, split, image_size, **options))
  if not batches:
    raise UserError(f"no labeled picture of {source} ({split}) can be read.")
  images, labels = zip(*batches, strict=True)
  return np.concatenate(images), np.concatenate(labels)


def labeled_splits(
  source: str,
  split: str = "train",
  *,
  class_list: str = "",
  data_dir: str = "",
) -> tuple[str, str | None] | None:
  """Which splits serve k-NN and probes while a run trains on `split`.

  The bank is `split` (the split "train" if several are trained on at once);
  queries come from val, valid, validation or test, the first that is there,
  has labels and the same classes.

  Returns:
    (bank, queries); (bank, None) without such a second split: hold out a part
    of the first (`order.permutation` draws one); None without labels.
  """
  options = {"class_list": class_list, "data_dir": data_dir}
  splits = sources.split_names(source, data_dir=data_dir)
  bank = "train" if "+" in split and "train" in splits else split
  train = sources.open_source(source, bank, **options)
  if not train.has_labels:
    return None
  for name in _queries(splits):
    if name.lower() == bank.lower():
      continue
    try:
      test = sources.open_source(source, name, **options)
    except UserError as error:
      logging.warning("%s: split %s is left aside: %s", source, name, error)
      continue
    if not test.has_labels or test.label(0) < 0:
      continue
    if test.class_names != train.class_names:
      logging.warning(
        "%s: split %s is left aside: its classes are not those of %s.",
        source,
        name,
        bank,
      )
      continue
    return bank, name
  return bank, None


def _queries(splits: Sequence[str]) -> list[str]:
  """Splits that queries may come from, the best first."""
  roles = {name: layout.role_of(name) for name in splits}
  fit = [name for name in splits if roles[name] in _QUERIES]
  return sorted(fit, key=lambda name: (_QUERIES.index(roles[name]), len(name)))
