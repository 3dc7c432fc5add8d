"""From pictures to the parts of a table: decoding, device, progress."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from cassle_jax import data
from cassle_jax.embed.parts import Part, Parts
from cassle_jax.embed.pictures import Pictures
from cassle_jax.runs.progress import ProgressBar
from cassle_jax.training import trained
from cassle_jax.training.trained import Trained


def job_of(
  run: Trained, pictures: Pictures, *, source: str, image_size: int
) -> dict[str, Any]:
  """What features depend on, as it stands in their file.

  Args:
    run: from `trained.open_run`.
    pictures: from `open_pictures`.
    source: the text that opened them.
    image_size: side in pixels.
  """
  weights = hashlib.sha256()
  for leaf in jax.tree.leaves(run.variables["backbone"]):
    weights.update(np.ascontiguousarray(leaf).tobytes())
  config, policy = run.config, run.setup.policies[0]
  return {
    "method": config.method.name,
    "awareness": config.awareness.name,
    "backbone": config.model.backbone,
    "step": run.step,
    "weights": weights.hexdigest()[:16],
    "features": run.setup.networks.features,
    "image_size": image_size,
    "mean": list(policy.mean),
    "std": list(policy.std),
    "precision": config.precision,
    "source": source,
    "split": pictures.split,
    "count": len(pictures),
    "pictures": pictures.fingerprint(),
  }


def extract(
  parts: Parts,
  run: Trained,
  pictures: Pictures,
  image_size: int,
  *,
  batch_size: int,
) -> None:
  """Computes the parts that are missing, and shows how far it is.

  Args:
    parts: of the job.
    run: from `trained.open_run`.
    pictures: from `open_pictures`.
    image_size: side in pixels.
    batch_size: pictures at a time; a batch is of one part.
  """
  compute = trained.extractor(run, batch_size=batch_size)
  empty = np.zeros((0, run.setup.networks.features), np.float32)
  total = len(pictures)
  done = total - sum(len(parts.range(number)) for number in parts.missing)
  # One stream for all parts: decoding goes on while the device computes.
  stream = data.views(
    pictures,
    itertools.chain.from_iterable(map(parts.range, parts.missing)),
    image_size,
    ahead=2 * batch_size,
  )
  groups = itertools.groupby(stream, lambda view: parts.number_of(view[0]))
  number, views = next(groups, (None, ()))
  with ProgressBar(
    total, batch_size=1, initial=done, noun="picture"
  ) as progress:
    for wanted in parts.missing:
      index, labels, features = [], [], [empty]
      # There is no group where no picture of a part can be read.
      if wanted == number:
        for batch in _batches(views, batch_size):
          places, images, answers = zip(*batch, strict=True)
          index.extend(places)
          labels.extend(answers)
          features.append(compute(np.stack(images)))
          progress.update(done + len(index))
        number, views = next(groups, (None, ()))
      part = Part(
        np.array(index, np.int64),
        np.array(labels, np.int32),
        np.concatenate(features),
      )
      parts.write(wanted, part)
      done += len(parts.range(wanted))
    progress.update(done)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
  items = iter(items)
  while batch := list(itertools.islice(items, size)):
    yield batch
