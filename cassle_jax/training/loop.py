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

from cassle_jax import config as config_lib
from cassle_jax.evaluation import features, online
from cassle_jax.hosts import distributed, job, memory, sharding, stragglers
from cassle_jax.hosts.preemption import EXIT_STATUS, Preempted, Watch
from cassle_jax.hosts.watchdog import Watchdog
from cassle_jax.runs import (
  checkpoint,
  compilation_cache,
  files,
  goodput,
  logs,
  progress,
)
from cassle_jax.runs.folder import check_config
from cassle_jax.runs.guard import Diverged, Guard, limits
from cassle_jax.runs.logs import say
from cassle_jax.training import experiment
from cassle_jax.training import summary as run_summary

__all__ = ["Diverged", "Trainer", "run"]

# What may differ between a run and its continuation: nothing that the
# numbers depend on.
FREE_KEYS = (
  "checkpoint",
  "compilation_cache",
  "evaluation",
  "guard",
  "mesh",
  "log_every",
  "data.threads",
  "data.prefetch",
  "data.workers",
)
# Metrics are looked at this many steps after their dispatch.
LAG = 2
# Seconds between two accounts of the time spent.
ACCOUNT = 30.0
# Seconds before a save that failed is tried again where nothing else is to do.
RETRY = 2.0


def run(config: ConfigDict, workdir: str, *, began: float | None = None) -> int:
  """Trains, or continues, the run in `workdir`; the commands' `main`.

  Args:
    config: from `config.load`.
    workdir: the run's folder; made where it does not exist.
    began: wall-clock time at which the process began, for the account of where
      the time went; None is now.

  Returns:
    0 when the run is complete, 143 when SIGTERM ended it after a save.

  Raises:
    UserError: something in the config, the data or the folder is wrong.
    Diverged: several steps in a row were not finite; the folder has a dump of
      their batches.
  """
  clock = goodput.Clock(start=began)
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
    advice = experiment.memory_advice(parts)
    stack.enter_context(memory.explained(advice))  # What closing meets.
    stack.enter_context(
      compilation_cache.use(workdir, enabled=parts.config.compilation_cache)
    )
    checkpoints = stack.enter_context(
      checkpoint.Checkpointer(
        os.path.join(workdir, "checkpoints"), **parts.config.checkpoint
      )
    )
    with memory.explained(advice):  # Before `fail_fast` sees it.
      trainer = Trainer(parts, workdir, checkpoints, watch, clock)
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
      summary = trainer.summarize()
  if jax.process_index() == 0:
    print(run_summary.text(summary, workdir), flush=True)
  return 0


class Trainer:
  """A run in progress: its state, its files and the compiled step."""

  def __init__(
    self,
    parts: experiment.Experiment,
    workdir: str,
    checkpoints: checkpoint.Checkpointer,
    watch: Watch,
    clock: goodput.Clock,
  ) -> None:
    """Restores the state from `workdir`, or makes the one of step 0.

    Args:
      parts: from `experiment.build`.
      workdir: the run's folder.
      checkpoints: the run's checkpoints; the caller closes them.
      watch: tells whether SIGTERM has come.
      clock: counts the seconds of this process.
    """
    config = parts.config
    self.parts, self.workdir, self.watch = parts, workdir, watch
    self.checkpoints, self.clock = checkpoints, clock
    self.limits = limits(**config.guard)
    several = jax.process_count() > 1
    self.watchdog = Watchdog(
      workdir,
      seconds=self.limits.watchdog_seconds,
      pause_seconds=self.limits.pause_seconds,
      suffix=f"-process-{jax.process_index()}" if several else "",
    )
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
    say(run_summary.opening(parts))
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
      done = self.step >= parts.total_steps
      say(
        f"{workdir} is complete, {self.step} steps: what it came to"
        if done
        else f"continuing {workdir} from step {self.step}"
      )
    self.guard = Guard(
      workdir,
      seed=config.seed,
      key=experiment.root_key(config.seed),
      max_skipped=self.limits.max_skipped,
      locate=parts.pipeline.source.locate,
      before=(self.extra or {}).get("guard"),
    )
    self.log_path = os.path.join(workdir, logs.METRICS)
    self.first_step = self.step
    self.lost_steps = goodput.lost_steps(
      run_summary.records_of(self.log_path), self.step
    )
    self.metrics = logs.MetricsLogger(
      workdir, resume_step=None if restored is None else self.step
    )
    self.extract = features.extractor(
      backbone=parts.networks.backbone,
      mean=parts.policies[0].mean,
      std=parts.policies[0].std,
      mesh=parts.mesh,
      descriptor=parts.awareness.evaluated,
      stop=self.alive,
    )
    self.evaluations = distributed.from_first(
      "evaluations",
      lambda: list(run_summary.evaluations_of(self.log_path).items()),
    )
    self.evaluations = dict(self.evaluations)
    self.key = experiment.step_key(parts)
    self.pending = collections.deque()
    self.times = stragglers.HostTimes()
    self.rate = None
    self.stepped = False
    self.accounted = time.monotonic()

  def train(self) -> None:
    """Steps until the run is complete.

    Raises:
      Preempted: SIGTERM came; the state is that of `self.step`.
      Diverged: several steps in a row were not finite.
    """
    total = self.parts.total_steps
    with self.watchdog:
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
    self.watchdog.step(self.step)
    self.clock.switch("other")
    with progress.ProgressBar(
      total, batch_size=parts.config.batch_size, initial=self.step
    ) as bar:
      while self.step < total:
        self.watch.check()
        self.watch.unsaved = True
        self.times.note(self.clock.read())
        with self.clock.phase("step"):
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
    with self.clock.phase("data"):
      batch = next(batches)
      return sharding.put_batch(batch, self.parts.mesh), batch["index"]

  def compile(self, batch: dict[str, jax.Array], store: Any) -> Any:
    """Compiles the step once, for good: other shapes are refused later."""
    began = time.time()
    say("compiling the step ...")
    with self.clock.phase("compile"), self.watchdog.pause("the compilation"):
      step = experiment.compile_step(self.parts, self.state)
      compiled = step.lower(self.state, batch, store, self.key).compile()
    say(f"compiled in {time.time() - began:.0f} s")
    needed = memory.of(compiled)
    if needed is not None:
      held = memory.limit(self.parts.mesh.devices.flat)
      say(memory.statement(needed, held))
      advice = experiment.memory_advice(self.parts)
      warning = memory.forecast(needed, held, advice)
      if warning is not None:
        say(warning)
    return compiled

  def settle(self, lag: int) -> None:
    """Looks at all pending metrics but the last `lag`; logs what is due.

    Raises:
      Diverged: too many steps in a row were not finite.
    """
    every = self.parts.config.log_every
    while len(self.pending) > lag:
      step, index, metrics = self.pending.popleft()
      with self.clock.phase("step"):
        jax.block_until_ready(metrics)
      self.watchdog.step(step)
      if not self.guard.see(step, index, metrics):
        self.metrics.log(step, {"skipped_steps": self.guard.skipped})
      if step % every == 0 or step == self.parts.total_steps or step == 1:
        values = {name: float(value) for name, value in metrics.items()}
        del values["finite"]
        epoch = step / self.parts.pipeline.steps_per_epoch
        record = {"epoch": epoch, **values}
        if self.rate is not None:
          record["images_per_second"] = self.rate
        self.metrics.log(step, record)
        self.compare_hosts(step // every)
      self.account(pause=ACCOUNT)

  def compare_hosts(self, logged: int) -> None:
    """Names the hosts that hold up the others; all of them come here."""
    every = self.limits.straggler_every
    if jax.process_count() > 1 and every and logged % every == 0:
      warning = stragglers.compare(self.times)
      if warning is not None:
        say(warning)

  def account(self, *, pause: float = 0.0) -> None:
    """Writes down what this process spent its time on, once it took a step.

    Args:
      pause: seconds after the last account within which there is no other.
    """
    if self.stepped and time.monotonic() - self.accounted >= pause:
      self.accounted = time.monotonic()
      record = self.clock.record(
        from_step=self.first_step, lost_steps=self.lost_steps
      )
      self.metrics.log(self.step, {goodput.KEY: record})

  def evaluate(self, *, probe: bool = False) -> None:
    """k-NN (and linear probe) of the present backbone, into the log."""
    if self.online.labeled is None:
      return
    variables = {
      "params": self.state.params["backbone"],
      "batch_stats": self.state.batch_stats["backbone"],
    }
    with (
      self.clock.phase("evaluation"),
      self.watchdog.pause("an evaluation"),
    ):
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

  def alive(self) -> None:
    """Called between the pieces of long work; may end it.

    Raises:
      Preempted: SIGTERM came.
    """
    self.watchdog.alive()
    self.watch.check()

  def save(self, *, wait: bool = False) -> int:
    """Saves the present state, once all its steps are seen to be finite.

    Args:
      wait: whether to return only when it is complete on disk; a save that
        fails is then tried again.

    Raises:
      SaveError: when as many saves in a row failed as the config allows.
    """
    self.settle(0)
    extra = {"seconds": self.seconds(), "guard": self.guard.counts()}
    with self.clock.phase("save"), self.watchdog.pause("a save"):
      if self.saved != self.step:
        self.metrics.sync()
        if self.checkpoints.save(self.step, self.state, extra):
          self.saved = self.step
      while wait and not self.checkpoints.wait():
        time.sleep(RETRY)
        self.checkpoints.save(self.step, self.state, extra)
    self.account(pause=1.0)
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
    try:
      jax.block_until_ready([metrics for *_, metrics in self.pending])
    finally:
      self.account(pause=1.0)
      self.metrics.close()

  def summarize(self) -> dict[str, Any]:
    """Writes summary.json from the log and returns it.

    A run that was complete when it was started keeps the summary it has.
    """
    path = os.path.join(self.workdir, "summary.json")
    corrupt = distributed.share("corrupt", sorted(self.parts.pipeline.corrupt))
    if not self.stepped and os.path.isfile(path):
      with open(path) as file:
        return json.load(file)
    self.account()
    summary = run_summary.make(
      run_summary.records_of(self.log_path),
      step=self.step,
      evaluations=self.evaluations,
      row=self.parts.published,
      wall_seconds=self.seconds() + self.began - self.clock.start,
      skipped_images=len(set().union(*corrupt)),
      skipped_steps=self.guard.skipped,
    )
    if jax.process_index() == 0:
      files.write_json(path, summary)
    return summary
