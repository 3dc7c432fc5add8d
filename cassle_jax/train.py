"""The training loop: build, restore, step, log, save, evaluate, sum up.

Reads from top to bottom; the mathematics is in step.py. The host's part is
small: it hands over indices (or decoded canvases) and looks at metrics two
steps late, so that the device never waits for Python.
"""

import collections
import contextlib
import json
import os
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cassle_jax import (
  checkpoint,
  distributed,
  experiment,
  job,
  logs,
  published,
  sharding,
)
from cassle_jax import config as config_lib
from cassle_jax.errors import UserError
from cassle_jax.evaluation import features, online
from cassle_jax.logs import say
from cassle_jax.preemption import EXIT_STATUS, Preempted, Watch
from cassle_jax.run_folder import check_config

# What may differ between a run and its continuation: nothing that the
# numbers depend on.
FREE_KEYS = (
  "checkpoint",
  "evaluation",
  "mesh",
  "log_every",
  "data.threads",
  "data.prefetch",
  "data.workers",
)
# Metrics are looked at this many steps after their dispatch.
LAG = 2


class Diverged(UserError):
  """The loss or a gradient stopped being finite."""


def run(config: ConfigDict, workdir: str) -> int:
  """Trains, or continues, the run in `workdir`; the commands' `main`.

  Args:
    config: from `config.load`.
    workdir: the run's folder; made where it does not exist.

  Returns:
    0 when the run is complete, 143 when SIGTERM ended it after a save.

  Raises:
    UserError: something in the config, the data or the folder is wrong.
    Diverged: a step was not finite; the folder has a dump of its batch.
  """
  began = time.time()
  with (
    Watch() as watch,
    contextlib.ExitStack() as stack,
    job.fail_fast(),
  ):
    parts = experiment.build(config)
    stack.callback(parts.pipeline.close)
    images = {"the number of images": parts.pipeline.num_examples}
    distributed.check_same("data", images)
    check_config(workdir, config_lib.to_dict(parts.config), free=FREE_KEYS)
    checkpoints = stack.enter_context(
      checkpoint.Checkpointer(
        os.path.join(workdir, "checkpoints"), **parts.config.checkpoint
      )
    )
    trainer = Trainer(parts, workdir, checkpoints, watch)
    stack.callback(trainer.close)
    try:
      trainer.train()
    except Preempted:
      step = trainer.save(wait=True)
      say(
        f"SIGTERM: saved step {step} of {parts.total_steps} in {workdir}; the"
        " same command continues the run"
      )
      return EXIT_STATUS
    summary = trainer.summarize(began)
  if jax.process_index() == 0:
    print(summary_text(summary, workdir), flush=True)
  return 0


class Trainer:
  """A run in progress: its state, its files and the compiled step."""

  def __init__(
    self,
    parts: experiment.Experiment,
    workdir: str,
    checkpoints: checkpoint.Checkpointer,
    watch: Watch,
  ) -> None:
    """Restores the state from `workdir`, or makes the one of step 0.

    Args:
      parts: from `experiment.build`.
      workdir: the run's folder.
      checkpoints: the run's checkpoints; the caller closes them.
      watch: tells whether SIGTERM has come.
    """
    config = parts.config
    self.parts, self.workdir, self.watch = parts, workdir, watch
    self.checkpoints = checkpoints
    self.online = online.build(
      **config.evaluation,
      source=config.data.source,
      split=config.data.split,
      image_size=config.data.image_size,
      class_list=config.data.class_list,
      data_dir=config.data.data_dir,
    )
    if self.online.labeled is None:
      say("no labels, or evaluation.max_images=0: no k-NN on the way")
    say(opening(parts))
    statement = experiment.memory_statement(parts)
    if statement:
      say(statement)
    restored = None
    if self.checkpoints.latest_step() is not None:
      restored = self.checkpoints.restore(parts.abstract)
    self.state = parts.make_state() if restored is None else restored.state
    self.extra = restored.extra if restored is not None else {}
    self.began = time.time()
    self.step = int(self.state.step)
    self.saved = -1 if restored is None else self.step
    if restored is not None:
      say(f"continuing {workdir} from step {self.step}")
    self.metrics = logs.MetricsLogger(
      workdir, resume_step=None if restored is None else self.step
    )
    self.extract = features.extractor(
      backbone=parts.networks.backbone,
      mean=parts.policies[0].mean,
      std=parts.policies[0].std,
      mesh=parts.mesh,
      descriptor=parts.awareness.evaluated,
      stop=watch.check,
    )
    self.log_path = os.path.join(workdir, logs.METRICS)
    self.evaluations = distributed.from_first(
      "evaluations", lambda: list(evaluations_of(self.log_path).items())
    )
    self.evaluations = dict(self.evaluations)
    self.key = experiment.step_key(parts)
    self.pending = collections.deque()
    self.rate = None
    self.stepped = False

  def train(self) -> None:
    """Steps until the run is complete.

    Raises:
      Preempted: SIGTERM came; the state is that of `self.step`.
      Diverged: a step was not finite.
    """
    total = self.parts.total_steps
    if self.step == 0 and 0 not in self.evaluations:
      self.evaluate(probe=True)
    if self.step < total:
      self.steps(total)
    self.save(wait=True)
    if total not in self.evaluations:
      self.evaluate(probe=True)

  def steps(self, total: int) -> None:
    """Steps from `self.step` to `total`, logging and saving on the way."""
    parts = self.parts
    if self.online.due(self.step) and self.step not in self.evaluations:
      self.evaluate()  # SIGTERM came in the middle of it.
    store = None
    if parts.pipeline.resident is not None:
      store = sharding.put_whole(parts.pipeline.resident, parts.mesh)
    batches = parts.pipeline.batches(self.step)
    batch, index = self.next_batch(batches)
    take_step = self.compile(batch, store)
    with logs.ProgressBar(
      total, batch_size=parts.config.batch_size, initial=self.step
    ) as bar:
      while self.step < total:
        self.watch.check()
        self.watch.unsaved = True
        self.state, metrics = take_step(self.state, batch, store, self.key)
        self.step += 1
        self.stepped = True
        self.pending.append((self.step, index, metrics))
        bar.update(self.step, metrics["loss"])
        self.settle(LAG)
        self.rate = bar.throughput.images_per_second or self.rate
        if self.online.due(self.step) and self.step < total:
          self.settle(0)
          self.evaluate()
          bar.restart_clock()
        if self.checkpoints.due(self.step):
          self.save()
        if self.step < total:
          batch, index = self.next_batch(batches)
      self.settle(0)

  def next_batch(self, batches: Any) -> tuple[dict[str, jax.Array], np.ndarray]:
    """The next batch as global arrays, and the indices of its images."""
    batch = next(batches)
    return sharding.put_batch(batch, self.parts.mesh), batch["index"]

  def compile(self, batch: dict[str, jax.Array], store: Any) -> Any:
    """Compiles the step once, for good: other shapes are refused later."""
    began = time.time()
    say("compiling the step ...")
    step = experiment.compile_step(self.parts, self.state)
    compiled = step.lower(self.state, batch, store, self.key).compile()
    say(f"compiled in {time.time() - began:.0f} s")
    return compiled

  def settle(self, lag: int) -> None:
    """Looks at all pending metrics but the last `lag`; logs what is due."""
    every = self.parts.config.log_every
    while len(self.pending) > lag:
      step, index, metrics = self.pending.popleft()
      if not float(metrics["finite"]):
        self.diverge(step, index, metrics)
      if step % every == 0 or step == self.parts.total_steps or step == 1:
        values = {name: float(value) for name, value in metrics.items()}
        del values["finite"]
        epoch = step / self.parts.pipeline.steps_per_epoch
        record = {"epoch": epoch, **values}
        if self.rate is not None:
          record["images_per_second"] = self.rate
        self.metrics.log(step, record)

  def diverge(self, step: int, index: np.ndarray, metrics: dict) -> None:
    """Writes down the batch of a bad step and stops the run.

    Raises:
      Diverged: always.
    """
    path = os.path.join(self.workdir, f"diverged-step-{step}.json")
    if jax.process_index() == 0:
      logs.atomic_write_json(
        path,
        {
          "step": step,
          "seed": self.parts.config.seed,
          "index": index.tolist(),
          "metrics": {name: float(value) for name, value in metrics.items()},
        },
      )
    raise Diverged(
      f"step {step} was not finite (loss {float(metrics['loss'])}, gradient"
      f" norm {float(metrics['gradient_norm'])}); it was not applied, its batch"
      f" is listed in {path}. Lower optim.learning_rate, set optim.clip_norm,"
      " or look at those images; the same command continues from the last"
      " checkpoint."
    )

  def evaluate(self, *, probe: bool = False) -> None:
    """k-NN (and linear probe) of the present backbone, into the log."""
    if self.online.labeled is None:
      return
    variables = {
      "params": self.state.params["backbone"],
      "batch_stats": self.state.batch_stats["backbone"],
    }
    result = online.evaluate(
      self.online,
      self.extract,
      variables,
      probe=probe and self.online.linear,
    )
    self.metrics.log(self.step, result)
    self.evaluations[self.step] = result
    shown = "  ".join(f"{k} {100 * v:.1f} %" for k, v in result.items())
    say(f"step {self.step}: {shown}  ({self.online.labeled.origin})")

  def save(self, *, wait: bool = False) -> int:
    """Saves the present state, once all its steps are seen to be finite.

    Args:
      wait: whether to return only when it is complete on disk; a save that
        fails is then tried again.

    Raises:
      SaveError: when as many saves in a row failed as the config allows.
    """
    self.settle(0)
    extra = {"seconds": self.seconds()}
    if self.saved != self.step:
      if self.checkpoints.save(self.step, self.state, extra):
        self.saved = self.step
    while wait and not self.checkpoints.wait():
      self.checkpoints.save(self.step, self.state, extra)
    if wait:
      self.watch.unsaved = False
    return self.step

  def seconds(self) -> float:
    """Wall time spent on the state so far, over all processes in a row."""
    before = (self.extra or {}).get("seconds", 0.0)
    return before + time.time() - self.began

  def close(self) -> None:
    """Waits for the steps in flight and closes the log.

    Whatever ends a run: an interpreter that is torn down while the device is
    busy can crash, and the exit status would be the crash's.
    """
    jax.block_until_ready([metrics for *_, metrics in self.pending])
    self.metrics.close()

  def summarize(self, began: float) -> dict[str, Any]:
    """Writes summary.json from the log and returns it.

    A run that was complete when it was started keeps the summary it has.
    """
    path = os.path.join(self.workdir, "summary.json")
    corrupt = distributed.share("corrupt", sorted(self.parts.pipeline.corrupt))
    if not self.stepped and os.path.isfile(path):
      with open(path) as file:
        return json.load(file)
    first = self.evaluations.get(0, {})
    last = self.evaluations.get(self.step, {})
    logged = [r for r in records_of(self.log_path) if "loss" in r]
    rates = [r["images_per_second"] for r in logged if "images_per_second" in r]
    summary = {
      "step": self.step,
      "loss": logged[-1]["loss"] if logged else None,
      "knn_top1": last.get("knn_top1"),
      "knn_top1_random_init": first.get("knn_top1"),
      "linear_top1": last.get("linear_top1"),
      "linear_top1_random_init": first.get("linear_top1"),
      "images_per_second": rates[-1] if rates else None,
      "wall_seconds": self.seconds() + self.began - began,
      "skipped_images": len(set().union(*corrupt)),
      "published": published.record(self.parts.published),
      **logs.stamp(),
    }
    if jax.process_index() == 0:
      logs.atomic_write_json(path, summary)
    return summary


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


def records_of(path: str) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl, oldest first; [] without such a file."""
  if not os.path.isfile(path):
    return []
  with open(path) as lines:
    return [json.loads(line) for line in lines]


def evaluations_of(path: str) -> dict[int, dict[str, Any]]:
  """Step -> evaluation results, read back from metrics.jsonl."""
  return {r["step"]: r for r in records_of(path) if "knn_top1" in r}


def summary_text(summary: dict[str, Any], workdir: str) -> str:
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
  if any(summary[key] is not None for _, key in rows):
    lines.append(f"{'top-1 accuracy':16}{'random init':>14}{'trained':>12}")
  for name, key in rows:
    values = summary[f"{key}_random_init"], summary[key]
    if any(value is not None for value in values):
      cells = ["-" if v is None else f"{100 * v:.1f} %" for v in values]
      lines.append(f"{name:16}{cells[0]:>14}{cells[1]:>12}")
  if summary["skipped_images"]:
    lines.append(f"{summary['skipped_images']} unreadable images were replaced")
  if summary.get("published"):
    lines.append(published.text(summary["published"]))
  lines.append(f"run folder: {workdir}")
  return "\n".join(lines)
