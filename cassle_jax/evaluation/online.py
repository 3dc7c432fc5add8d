"""k-NN and a quick linear probe while a run trains, against its own labels."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cassle_jax import data
from cassle_jax.errors import AT_LEAST_0, AT_LEAST_1, Words, require
from cassle_jax.evaluation import knn, linear

# What may be evaluated of a method with a slow target: authors of BYOL and MoCo
# take the first, DINO's the second.
NETWORKS = ("online", "target")
RULES = {
  "every": AT_LEAST_0,
  "knn_k": AT_LEAST_1,
  "max_images": AT_LEAST_0,
  "network": Words(NETWORKS),
}
# Of pictures, in memory, for each of bank and queries.
HOST_BYTES = 2**31
# Without a second split this share of the images is held out as queries.
HELD_OUT = 0.1


class LabeledSet(NamedTuple):
  """What is classified from what.

  Attributes:
    train_images: [N, s, s, 3] uint8, the labeled bank.
    train_labels: [N] int32.
    test_images: [M, s, s, 3] uint8, the queries.
    test_labels: [M] int32.
    origin: which splits these are, for people.
  """

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  origin: str


class Online(NamedTuple):
  """The settings of the online evaluation and the images it looks at.

  Attributes:
    every: steps between evaluations; 0 for the start and the end alone.
    knn_k: neighbours that vote, not more than the bank has pictures.
    linear: whether the first and last evaluation fit a linear probe.
    labeled: the images, or None where there is nothing to classify.
    note: what there is to say about them, e.g. why there are none; "" nothing.
  """

  every: int
  knn_k: int
  linear: bool
  labeled: LabeledSet | None
  note: str = ""

  def due(self, step: int) -> bool:
    """Whether an evaluation belongs after this step."""
    return (
      self.labeled is not None and self.every > 0 and (step % self.every == 0)
    )


def build(
  *,
  every: int = 0,
  knn_k: int = 20,
  linear: bool = True,
  max_images: int = 10_000,
  network: str | None = None,
  source: str = "bundled:earth",
  split: str = "train",
  image_size: int = 32,
  class_list: str = "",
  data_dir: str = "",
) -> Online:
  """Loads the labeled images that the run is watched with.

  Args:
    every: steps between k-NN evaluations; 0 evaluates at the start and at
      the end alone.
    knn_k: neighbours that vote, weighted at temperature 0.07.
    linear: whether to fit a quick linear probe at the start and at the end.
    max_images: at most this many images of each split, drawn with a fixed
      seed, and no more than `HOST_BYTES` hold; 0 switches the evaluation off.
    network: whose features are looked at, "online" or "target", here and by
      the evaluate command; None is what the method's authors evaluate. It is
      the caller who takes them.
    source: the run's data, see `data.build`.
    split: the split it trains on.
    image_size: side of the images in pixels.
    class_list: see `data.open_source`.
    data_dir: see `data.open_source`.

  Raises:
    UserError: a value that is not valid, or a source that cannot be read.
  """
  require("evaluation", RULES, every=every, knn_k=knn_k, max_images=max_images)
  options = {"class_list": class_list, "data_dir": data_dir}

  def nothing(why: str) -> Online:
    return Online(every, knn_k, linear, None, f"no k-NN on the way: {why}")

  if not max_images:
    return nothing("evaluation.max_images=0")
  splits = data.labeled_splits(source, split, **options)
  if splits is None:
    return nothing(f"{source} has no labels")
  fit = max(HOST_BYTES // (3 * image_size**2), 2)
  note = ""
  if fit < max_images:
    note = (
      f"evaluation.max_images={max_images}: {fit} of each split at most, what"
      f" {HOST_BYTES / 2**30:.0f} GiB hold at {image_size} px"
    )
    max_images = fit

  # Opened once a split: listing a large folder takes a while.
  def draw(name: str) -> tuple[data.Source, np.ndarray]:
    opened = data.open_source(source, name, **options)
    return opened, data.permutation(len(opened))

  def load(
    opened: data.Source, indices: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    return data.labeled_images(
      opened, opened.split, image_size, indices=np.sort(indices)
    )

  bank, queries = splits
  opened, order = draw(bank)
  if queries is None and len(opened) < 2:
    return nothing(f"{len(opened)} picture leaves none to ask for")
  if queries is None:
    drawn = order[: int(max_images * (1 + HELD_OUT))]
    held = max(1, int(HELD_OUT * len(drawn)))
    train, test = load(opened, drawn[held:]), load(opened, drawn[:held])
    origin = f"a held-out tenth of {bank}"
  else:
    train = load(opened, order[:max_images])
    opened, order = draw(queries)
    test = load(opened, order[:max_images])
    origin = f"{queries} against {bank}"
  classes, known = len(np.unique(train[1])), len(train[1])
  if classes < 2:
    return nothing(
      f"{origin}: {known} picture{'s' if known > 1 else ''} of one class, which"
      " every guess would find"
    )
  knn_k = knn.used(knn_k, known)
  return Online(every, knn_k, linear, LabeledSet(*train, *test, origin), note)


def evaluate(
  settings: Online,
  extract: Callable[[Mapping[str, Any], np.ndarray], np.ndarray],
  variables: Mapping[str, Any],
  *,
  probe: bool = False,
) -> dict[str, float]:
  """Classifies the queries with frozen features of the backbone.

  Args:
    settings: from `build`, with labels.
    extract: (variables, images) -> features, see `features.extractor`.
    variables: {"params": ..., "batch_stats": ...} of the backbone.
    probe: whether to fit the linear probe too.

  Returns:
    {"knn_top1": ...} and, with `probe`, "linear_top1"; both in [0, 1].
  """
  images = settings.labeled
  train = extract(variables, images.train_images)
  test = extract(variables, images.test_images)
  arrays = train, images.train_labels, test, images.test_labels
  result = {"knn_top1": knn.accuracy(*arrays, k=settings.knn_k)}
  if probe:
    result["linear_top1"] = linear.probe(*arrays).score
  return result
