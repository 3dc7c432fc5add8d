"""A run in progress: restore, step, log, save, evaluate, sum up.

Reads from top to bottom; the mathematics is in step/. The host's part is small:
it hands over indices (or decoded canvases) and looks at metrics two steps late,
so that the device never waits for Python.
"""

import collections
import functools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cassle_jax.hosts import device_memory, distributed, sharding, stragglers
from cassle_jax.hosts.preemption import Watch
from cassle_jax.hosts.watchdog import Watchdog
from cassle_jax.runs import checkpoint, files, goodput, progress
from cassle_jax.runs.guard import Limits
from cassle_jax.runs.logs import say
from cassle_jax.training import experiment, notes, pictures, starting
from cassle_jax.training import summary as run_summary
from cassle_jax.training.evaluations import Evaluations
from cassle_jax.training.journal import Journal

# Metrics are looked at this many steps after their dispatch.
LAG = 2
# Seconds between two accounts of the time spent.
ACCOUNT = 30.0
# Seconds before a save that failed is tried again where nothing else is to do.
RETRY = 2.0
# The pause doubles up to this, and this many seconds later the run gives up.
LONGEST_RETRY = 30.0
PATIENCE = 600.0


class Trainer:
  """A run in progress: its state, its files, and what watches over it.

  `state` is the training state after `step` steps, of which the first
  `start.step` were another process's; `journal` writes down what comes of them.
  `pending` are steps that the device has not been asked about.
  """

  def __init__(
    self,
    parts: experiment.Experiment,
    workdir: str,
    checkpoints: checkpoint.Checkpointer,
    watch: Watch,
    clock: goodput.Clock,
    *,
    images: Mapping[str, Any],
    moved: Sequence[str] = (),
  ) -> None:
    """Restores the state from `workdir`, or makes the one of step 0.

    `images` and `moved` are what `pictures.check` compares.
    """
    self.parts, self.workdir = parts, workdir
    self.checkpoints, self.watch, self.clock = checkpoints, watch, clock
    self.limits = Limits(**parts.config.guard)
    several = jax.process_count() > 1
    self.watchdog = Watchdog(
      workdir,
      seconds=self.limits.watchdog_seconds,
      pause_seconds=self.limits.pause_seconds,
      suffix=f"-process-{jax.process_index()}" if several else "",
    )
    self.evaluations = Evaluations(parts, stop=self.alive)
    run_summary.announce(parts)
    self.start, self.state = starting.begin(
      parts, workdir, checkpoints, images=images, moved=moved
    )
    self.step = self.start.step
    self.saved = self.step if self.start.restored else -1
    self.journal = Journal(
      parts,
      workdir,
      clock,
      self.limits,
      step=self.step,
      before=self.start.extra if self.start.restored else None,
    )
    self.evaluations.done |= self.journal.evaluated
    watch.at_stake = self.at_stake

    self.pending = collections.deque()
    self.times = stragglers.HostTimes()
    self.rate = None

  def train(self) -> None:
    """Steps until the run is complete.

    Raises:
      Preempted: SIGTERM came; the state is that of `self.step`.
      Diverged: several steps in a row were not finite.
    """
    total = self.parts.total_steps
    with self.watchdog:
      if self.step == 0:
        self.evaluate(probe=True)
      if self.step < total:
        self.steps(total)
      self.save(wait=True)
      self.evaluate(probe=True)

  def steps(self, total: int) -> None:
    """Steps from `self.step` to `total`, logging and saving on the way."""
    parts = self.parts
    if self.evaluations.due(self.step):
      self.evaluate()  # SIGTERM came in the middle of it.
    store = None
    if parts.pipeline.resident is not None:
      store = sharding.put_whole(parts.pipeline.resident, parts.mesh)
    put = functools.partial(sharding.put_batch, mesh=parts.mesh)
    batches = parts.pipeline.device_batches(self.step, put)
    batch, index = self.next_batch(batches)
    key = experiment.step_key(parts)
    take_step = self.compile(batch, store, key)
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
          self.state, metrics = take_step(self.state, batch, store, key)
        self.step += 1
        self.pending.append((self.step, index, metrics))
        bar.update(self.step, metrics["loss"])
        self.settle(LAG)
        self.rate = bar.throughput.images_per_second or self.rate
        if self.step < total and self.evaluations.due(self.step):
          self.settle(0)
          self.evaluate()
          bar.throughput.restart()
        if self.checkpoints.due(self.step):
          self.save()
        if self.step < total:
          batch, index = self.next_batch(batches)
      self.settle(0)

  def next_batch(self, batches: Any) -> tuple[dict[str, jax.Array], np.ndarray]:
    """The next batch as global arrays, and the indices of its images."""
    with self.clock.phase("data"):
      return next(batches)

  def compile(
    self, batch: dict[str, jax.Array], store: Any, key: jax.Array
  ) -> Any:
    """Compiles the step once, for good: other shapes are refused later."""
    began = time.time()
    say("compiling the step ...")
    with self.clock.phase("compile"), self.watchdog.pause("the compilation"):
      step = experiment.compile_step(self.parts, self.state)
      compiled = step.lower(self.state, batch, store, key).compile()
    say(f"compiled in {time.time() - began:.0f} s")
    devices = list(self.parts.mesh.devices.flat)
    advice = experiment.memory_advice(self.parts)
    for line in device_memory.words(compiled, devices, advice):
      say(line)
    return compiled

  def settle(self, lag: int) -> None:
    """Looks at all pending metrics but the last `lag`; logs what is due.

    Raises:
      Diverged: too many steps in a row were not finite.
    """
    while len(self.pending) > lag:
      step, index, metrics = self.pending.popleft()
      with self.clock.phase("step"):
        jax.block_until_ready(metrics)
      self.watchdog.step(step)
      if self.journal.see(step, index, metrics, self.rate):
        self.compare_hosts(step // self.parts.config.log_every)
      self.journal.account.note(self.step, pause=ACCOUNT)

  def compare_hosts(self, logged: int) -> None:
    """Names the hosts that hold up the others; all of them come here."""
    every = self.limits.straggler_every
    if jax.process_count() > 1 and every and logged % every == 0:
      warning = stragglers.compare(self.times)
      if warning is not None:
        say(warning)

  def evaluate(self, *, probe: bool = False) -> None:
    """k-NN (and linear probe) of the present backbone, into the log, once."""
    evaluations = self.evaluations
    if not evaluations.possible or self.step in evaluations.done:
      return
    with self.clock.phase("evaluation"), self.watchdog.pause("an evaluation"):
      result = evaluations.make(self.step, self.state, probe=probe)
    self.journal.metrics.log(self.step, result)

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
    extra = {
      "seconds": self.seconds(),
      "guard": self.journal.guard.counts(),
      pictures.KEY: self.start.images,
    }
    with self.clock.phase("save"), self.watchdog.pause("a save"):
      if self.saved != self.step:
        self.journal.metrics.sync()
        try:
          if self.checkpoints.save(self.step, self.state, extra):
            self.saved = self.step
        except checkpoint.SaveError:
          wait = True  # All that was not saved is at stake.
      if wait:
        self.insist(extra)
    self.journal.account.note(self.step, pause=1.0)
    if wait:
      self.watch.unsaved = False
    return self.step

  def insist(self, extra: Any) -> None:
    """Tries to save until it is done, for as long as `PATIENCE`."""
    pause, deadline = RETRY, time.monotonic() + PATIENCE
    late = False
    while True:
      try:
        if self.checkpoints.wait():
          return
        if pause == RETRY:
          say(
            f"step {self.step} is not saved yet: trying for"
            f" {PATIENCE / 60:.0f} minutes; make room in {self.workdir}"
          )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_RETRY)
        late = distributed.from_first(
          "patience", lambda: time.monotonic() > deadline
        )
        self.checkpoints.save(self.step, self.state, extra)
      except checkpoint.SaveError:
        if late:
          raise

  def at_stake(self) -> str:
    """What an end at once would lose, in words; asked by another thread."""
    # Off the disk: of a save under way it is not known whether it ends well.
    names = os.listdir(os.path.join(self.workdir, "checkpoints"))
    saved = max((int(x) for x in names if x.isdecimal()), default=0)
    return f"{self.step - saved:,} steps, those since step {saved:,}"

  def seconds(self) -> float:
    """Wall time spent on the state so far, over all processes in a row."""
    return self.start.seconds + time.time() - self.start.began

  def close(self) -> None:
    """Waits for the steps in flight and closes the log.

    Whatever ends a run: an interpreter that is torn down while the device is
    busy can crash, and the exit status would be the crash's.
    """
    try:
      jax.block_until_ready([metrics for *_, metrics in self.pending])
    finally:
      self.journal.account.note(self.step, pause=1.0)
      self.journal.metrics.close()

  def closing_notes(self) -> list[str]:
    """What the log says against the run."""
    method, about = self.parts.method, self.evaluations.about
    candidates = None
    if method.contrastive is not None:
      batch = self.parts.config.batch_size // self.parts.config.accumulate
      candidates = method.contrastive.candidates(batch)
    return notes.at_end(
      self.journal.records(),
      self.evaluations.done,
      step=self.step,
      queries=about["queries"] if about else 0,
      candidates=candidates,
      awareness=self.parts.config.awareness.name,
    )

  def summarize(self) -> dict[str, Any]:
    """Writes summary.json from the log and returns it.

    A run that was complete when it was started keeps the summary it has.
    """
    path = os.path.join(self.workdir, "summary.json")
    corrupt = distributed.share("corrupt", sorted(self.parts.pipeline.corrupt))
    if self.step == self.start.step and os.path.isfile(path):
      held = run_summary.read(path)
      if held is not None:
        return held
      say(f"{path} is damaged; it is made again, from the log")
    self.journal.account.note(self.step)
    summary = run_summary.make(
      self.journal.records(),
      step=self.step,
      evaluations=self.evaluations.done,
      row=self.parts.published,
      evaluated=self.evaluations.about,
      notes=self.closing_notes(),
      wall_seconds=self.seconds() + self.start.began - self.clock.start,
      skipped_images=len(set().union(*corrupt)),
      skipped_steps=self.journal.guard.skipped,
    )
    if jax.process_index() == 0:
      files.write_json(path, summary)
    return summary
