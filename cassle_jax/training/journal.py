"""What a run writes down as it goes: the log, bad steps, the time spent."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cassle_jax.hosts import distributed
from cassle_jax.runs import folder, goodput, logs
from cassle_jax.runs.guard import Guard, Limits
from cassle_jax.training import experiment
from cassle_jax.training import summary as run_summary


class Journal:
  """The log of a run and what counts for it.

  Attributes:
    metrics: the logger; also of what others measured.
    guard: counts steps that are not finite, and stops the run after several.
    account: of the time spent, as the run's clock counts it.
    evaluated: step -> what an evaluation on the way found, by earlier starts.
  """

  def __init__(
    self,
    parts: experiment.Experiment,
    workdir: str,
    clock: goodput.Clock,
    limits: Limits,
    *,
    step: int,
    before: Mapping[str, Any] | None,
  ):
    """Opens the log in `workdir` to go on from a step.

    Args:
      parts: the run's.
      workdir: its folder.
      clock: what the account reads.
      limits: of the guard.
      step: from which the run goes on; lines of later steps are cut off.
      before: what was kept with the checkpoint of that step; None: a new run,
        which puts aside what another one left there.
    """
    self._log_every = parts.config.log_every
    self._last, self._epoch = parts.total_steps, parts.pipeline.steps_per_epoch
    self.guard = Guard(
      workdir,
      seed=parts.config.seed,
      key=experiment.root_key(parts.config.seed),
      max_skipped=limits.max_skipped,
      locate=parts.pipeline.source.locate,
      before=(before or {}).get("guard"),
    )
    if before is None and jax.process_index() == 0:
      folder.put_by_earlier(workdir)
    self._path = os.path.join(workdir, logs.METRICS)
    records = self.records()  # Before the log is cut.
    self.metrics = logs.MetricsLogger(
      workdir, resume_step=None if before is None else step
    )
    self.account = goodput.Account(
      clock,
      self.metrics.log,
      from_step=step,
      lost_steps=goodput.lost_steps(records, step),
    )
    # Lines of later steps are gone from the log by now.
    evaluated = distributed.from_first(
      "evaluations",
      lambda: list(run_summary.evaluations_of(self._path).items()),
    )
    self.evaluated = dict(evaluated)

  def records(self) -> Sequence[Mapping[str, Any]]:
    """The lines of the log."""
    return run_summary.records_of(self._path)

  def see(
    self, step: int, index: Any, metrics: Mapping[str, Any], rate: float | None
  ) -> bool:
    """Takes the metrics of a step, in order; whether its line was due.

    Raises:
      Diverged: too many steps in a row were not finite.
    """
    if not self.guard.see(step, index, metrics):
      self.metrics.log(step, {"skipped_steps": self.guard.skipped})
    due = step % self._log_every == 0 or step in (1, self._last)
    if due:
      values = {name: float(value) for name, value in metrics.items()}
      del values["finite"]
      record = {"epoch": step / self._epoch, **values}
      if rate is not None:
        record["images_per_second"] = rate
      self.metrics.log(step, record)
    return due
