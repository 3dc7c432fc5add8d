"""What a run should know of itself: settings at odds, and what came of them.

`at_start` says in a line each which settings undo one another, `at_end` where a
run's numbers say that it has not learned. None of it stops a run.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cassle_jax.data.source import Source
from cassle_jax.evaluation import confidence
from cassle_jax.methods import METHODS

# Of the images of an epoch, that may be dropped at its end without a word.
_DROPPED = 0.1
# A loss that has moved by less than this share has not.
_STILL = 0.005
# Logged steps below which nothing is said about how the loss went.
_FEW = 20


def understood(source: Source) -> str:
  """One line on what of a set is trained on, and what is left aside and why."""
  line = f"{source.name}, {source.split}: {len(source):,} pictures"
  if source.class_names:
    count = len(source.class_names)
    line += f" in {count} class{'es' if count > 1 else ''}"
  elif not source.has_labels:
    line += " without labels"
  aside = getattr(source, "aside", ())
  return f"{line}; left aside: {'; '.join(aside)}" if aside else line


def at_start(
  config: Any, *, images: int, steps_per_epoch: int, total_steps: int
) -> list[str]:
  """Settings of a run that contradict each other, in a line each.

  Args:
    config: of the run.
    images: of the set.
    steps_per_epoch: of the run.
    total_steps: of the run.
  """
  epochs = total_steps / steps_per_epoch
  optim = config.optim
  # None is what the method has.
  method = {k: v for k, v in config.method.items() if v is not None}
  method = METHODS[config.method.name].options | method
  length = f"the run of {_words(epochs)} epochs"
  notes = []

  def note(text: str) -> None:
    notes.append(text)

  if optim.warmup_epochs * steps_per_epoch >= total_steps:
    note(
      f"optim.warmup_epochs={optim.warmup_epochs:g} is as long as {length}: the"
      " full learning rate is never reached; set"
      f" --config.optim.warmup_epochs={_words(epochs / 10)}, or train longer"
    )
  for prefix, rest in optim.freeze:
    if rest * steps_per_epoch >= total_steps:
      note(
        f"optim.freeze keeps {prefix!r} still for {rest:g} epochs, which is all"
        f" of {length}: it is never trained"
      )
  teacher = method.get("warmup_teacher_epochs")
  if teacher is not None and teacher * steps_per_epoch >= total_steps:
    note(
      f"method.warmup_teacher_epochs={teacher:g} is as long as {length}: the"
      " teacher's temperature never arrives"
    )
  if optim.learning_rate == 0:
    note("optim.learning_rate=0: nothing is learned")
  if method.get("momentum") == 1:
    note("method.momentum=1: the target never moves from its random start")
  queue = method.get("queue_size")
  if queue is not None and queue > images:
    note(
      f"method.queue_size={queue} is more than the {images:,} images: the queue"
      f" holds each image's own keys {queue // images} times, as negatives; set"
      f" --config.method.queue_size={_queue(config.batch_size, images)}"
    )
  dropped = images - steps_per_epoch * config.batch_size
  if dropped > _DROPPED * images:
    note(
      f"batch_size={config.batch_size} does not divide the {images:,} images:"
      f" {dropped:,} of them, others each time, are left out of every epoch"
    )
  every = config.evaluation.every
  if every > total_steps:
    note(
      f"evaluation.every={every} is more than the run's {total_steps:,} steps:"
      " it is evaluated at its start and end alone"
    )
  return notes


def _queue(batch_size: int, images: int) -> int:
  """The largest queue of whole batches that no image is in twice."""
  return max(images // batch_size - 1, 1) * batch_size


def at_end(
  records: Sequence[Mapping[str, Any]],
  evaluations: Mapping[int, Mapping[str, Any]],
  *,
  step: int,
  queries: int,
  candidates: int | None = None,
  awareness: str = "vanilla",
) -> list[str]:
  """What a run's log says against it, in a line each.

  Args:
    records: the lines of metrics.jsonl.
    evaluations: {step: results of the online evaluation}.
    step: the last one.
    queries: number of pictures that each evaluation classified.
    candidates: among which a contrastive loss finds the positive, see
      `methods.contrast.Contrastive`; None for a method without negatives.
    awareness: of the run, as in `config.awareness.name`.
  """
  notes = []
  logged = [r for r in records if isinstance(r.get("loss"), float)]
  tail = logged[-max(len(logged) // 5, 1) :]
  if len(logged) >= _FEW:
    found = [r["contrast_accuracy"] for r in tail if "contrast_accuracy" in r]
    if candidates and found:
      share = sum(found) / len(found)
      if share < 2 / candidates:
        notes.append(
          f"the loss ended at chance: {100 * share:.2g} % of the positives are"
          f" found, a guess among {candidates:,} candidates finds"
          f" {100 / candidates:.2g} %; try a lower or higher"
          " --config.optim.learning_rate, --config.optim.warmup_epochs, or more"
          " epochs"
        )
    elif not candidates:
      first, last = logged[0]["loss"], sum(r["loss"] for r in tail) / len(tail)
      if abs(last - first) <= _STILL * abs(first):
        notes.append(
          f"the loss ended where it began ({first:.4g}, {last:.4g}): try"
          " another --config.optim.learning_rate, or more epochs"
        )
  before, after = evaluations.get(0, {}), evaluations.get(step, {})
  advice = "another --config.optim.learning_rate or more epochs"
  if awareness == "vanilla":
    advice += ", or --config.awareness.name=cassle"
  for key, name in (("knn_top1", "k-NN"), ("linear_top1", "linear probe")):
    if step and key in before and key in after and queries:
      low, _ = confidence.share(before[key], queries)
      _, high = confidence.share(after[key], queries)
      # Newcombe 1998, method 10: each interval's side towards the other.
      spread = math.hypot(before[key] - low, high - after[key])
      if after[key] < before[key] - spread:
        notes.append(
          f"{name} ended at {100 * after[key]:.1f} %, below the"
          f" {100 * before[key]:.1f} % of the random start: training took away"
          f" what tells these classes apart; try {advice}"
        )
  return notes


def _words(number: float) -> str:
  return f"{number:.3g}"
