"""What a run has to tell at its start and at its end, from its log."""

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

import jax

from cassle_jax.runs import goodput, logs, published
from cassle_jax.runs.logs import say
from cassle_jax.training import experiment, notes
from cassle_jax.training.evaluations import accuracy


def opening(parts: experiment.Experiment) -> str:
  """One line on what is about to be trained, on what."""
  config, pipeline = parts.config, parts.pipeline
  count = sum(x.size for x in jax.tree.leaves(parts.abstract.params))
  devices = parts.mesh.devices.flat
  return (
    f"{config.method.name} ({config.awareness.name}),"
    f" {config.model.backbone}, {count / 1e6:.1f} M parameters:"
    f" {parts.total_steps:,} steps of {config.batch_size} of the"
    f" {pipeline.num_examples:,} images of {config.data.source} on"
    f" {parts.mesh.size} x {devices[0].device_kind}"
  )


def announce(parts: experiment.Experiment) -> None:
  """Says what is about to be trained, on what, and what to mind."""
  pipeline = parts.pipeline
  say(opening(parts))
  say(notes.understood(pipeline.source))
  found = notes.at_start(
    parts.config,
    images=pipeline.num_examples,
    steps_per_epoch=pipeline.steps_per_epoch,
    total_steps=parts.total_steps,
  )
  for line in found:
    say(f"note: {line}")
  statement = experiment.memory_statement(parts)
  if statement:
    say(statement)


def make(
  records: list[dict[str, Any]],
  *,
  step: int,
  evaluations: Mapping[int, Mapping[str, Any]],
  row: published.Row | None,
  **more: Any,
) -> dict[str, Any]:
  """The content of summary.json."""
  first, last = evaluations.get(0, {}), evaluations.get(step, {})
  losses = [r["loss"] for r in records if r.get("loss") is not None]
  rates = [r["images_per_second"] for r in records if "images_per_second" in r]
  return {
    "step": step,
    "loss": losses[-1] if losses else None,
    "knn_top1": last.get("knn_top1"),
    "knn_top1_random_init": first.get("knn_top1"),
    "linear_top1": last.get("linear_top1"),
    "linear_top1_random_init": first.get("linear_top1"),
    "images_per_second": rates[-1] if rates else None,
    **more,
    goodput.KEY: goodput.totals(records),
    "published": published.record(row),
    **logs.stamp(),
  }


def read(path: str) -> dict[str, Any] | None:
  """A summary.json as it was written; None where it is damaged."""
  try:
    with open(path) as file:
      held = json.load(file)
    text(held, "")  # Whatever the closing words need has to be there.
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    return None
  return held


def records_of(path: str) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl, oldest first; [] without such a file.

  A line that a kill left unfinished is passed over.
  """
  if not os.path.isfile(path):
    return []
  records = []
  with open(path, errors="replace") as lines:
    for line in lines:
      with contextlib.suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get("step"), int):
          records.append(record)
  return records


def evaluations_of(path: str) -> dict[int, dict[str, Any]]:
  """Step -> evaluation results, read back from metrics.jsonl."""
  return {r["step"]: r for r in records_of(path) if "knn_top1" in r}


def _accuracy(value: float | None, queries: int | None) -> str:
  if value is None:
    return "-"
  if not queries:  # Of an earlier version, which did not write it down.
    return f"{100 * value:.1f} %"
  return accuracy(value, queries)


def text(summary: Mapping[str, Any], workdir: str) -> str:
  """The closing words of a run, for a terminal."""
  lines = [
    f"done: {summary['step']} steps in {summary['wall_seconds']:.0f} s on"
    f" {summary['devices']} x {summary['device']}"
  ]
  if summary["loss"] is not None:
    lines[0] += f", final loss {summary['loss']:.4f}"
  if summary["images_per_second"]:
    lines[0] += f", {summary['images_per_second']:.0f} images/s"
  rows = (("k-NN", "knn_top1"), ("linear probe", "linear_top1"))
  about = summary.get("evaluated") or {}
  if any(summary[key] is not None for _, key in rows):
    lines.append(f"{'top-1 accuracy':16}{'random init':>26}{'trained':>26}")
  for name, key in rows:
    values = summary[f"{key}_random_init"], summary[key]
    if any(value is not None for value in values):
      cells = [_accuracy(value, about.get("queries")) for value in values]
      lines.append(f"{name:16}{cells[0]:>26}{cells[1]:>26}")
  if about and any(summary[key] is not None for _, key in rows):
    lines.append(
      f"of {about['queries']:,} pictures (95 % interval); {about['of']},"
      f" {about['bank']:,} known, k = {about['k']};"
      f" the {about.get('network', 'online')} network"
    )
  lines += [f"note: {note}" for note in summary.get("notes") or ()]
  if summary.get("skipped_steps"):
    lines.append(f"{summary['skipped_steps']} steps were not finite: skipped")
  spent = summary.get(goodput.KEY)
  if spent:
    lines.append(goodput.text(spent))
  if summary["skipped_images"]:
    lines.append(f"{summary['skipped_images']} unreadable images were replaced")
  if summary.get("published"):
    lines.append(published.text(summary["published"]))
  lines.append(f"run folder: {workdir}")
  return "\n".join(lines)
