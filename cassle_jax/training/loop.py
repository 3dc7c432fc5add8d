"""A run from its config to its summary: built, continued, trained, ended."""

import contextlib
import os

import jax
from ml_collections import ConfigDict

from cassle_jax import config as config_lib
from cassle_jax.hosts import device_memory, distributed, job
from cassle_jax.hosts.preemption import Preempted, Watch
from cassle_jax.runs import checkpoint, compilation_cache, folder, goodput
from cassle_jax.runs.guard import Diverged
from cassle_jax.runs.logs import say
from cassle_jax.training import experiment, pictures
from cassle_jax.training import summary as run_summary
from cassle_jax.training.trainer import Trainer

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
  "data.allow_change",
  "data.threads",
  "data.prefetch",
  "data.workers",
)
# What says where the pictures are: they are compared, not their names.
PLACE_KEYS = ("data.source", "data.split", "data.class_list", "data.data_dir")


def run(config: ConfigDict, workdir: str, *, began: float | None = None) -> int:
  """Trains, or continues, the run in `workdir`; the commands' `main`.

  Args:
    config: from `config.load`.
    workdir: the run's folder; made where it does not exist.
    began: wall-clock time at which the process began; None is now.

  Returns:
    0 when the run is complete; where a signal ended it after a save 143 for
    SIGTERM, 130 for Ctrl-C, 129 for a closed terminal.

  Raises:
    UserError: something in the config, the data or the folder is wrong.
    Diverged: several steps in a row were not finite; their batches are dumped.
  """
  clock = goodput.Clock(start=began)
  with Watch() as watch, contextlib.ExitStack() as stack, job.fail_fast():
    parts = experiment.build(config)
    stack.callback(parts.pipeline.close)
    images = pictures.describe(parts.pipeline.source)
    distributed.check_same("data", images)
    stack.enter_context(folder.held(workdir))
    moved = folder.check_config(
      workdir,
      config_lib.to_dict(parts.config),
      free=FREE_KEYS,
      judged=PLACE_KEYS,
      usual=config_lib.to_dict(config_lib.default()),
    )
    advice = experiment.memory_advice(parts)
    stack.enter_context(device_memory.explained(advice))  # What closing meets.
    stack.enter_context(
      compilation_cache.use(workdir, enabled=parts.config.compilation_cache)
    )
    checkpoints = stack.enter_context(
      checkpoint.Checkpointer(
        os.path.join(workdir, "checkpoints"), **parts.config.checkpoint
      )
    )
    with device_memory.explained(advice):  # Before `fail_fast` sees it.
      trainer = Trainer(
        parts, workdir, checkpoints, watch, clock, images=images, moved=moved
      )
      stack.callback(trainer.close)
      try:
        trainer.train()
      except Preempted:
        step = trainer.save(wait=True)
        say(
          f"{watch.cause}: saved step {step} of {parts.total_steps} in"
          f" {workdir}; the same command continues the run"
        )
        return watch.status
      summary = trainer.summarize()
  if jax.process_index() == 0:
    print(run_summary.text(summary, workdir), flush=True)
  return 0
