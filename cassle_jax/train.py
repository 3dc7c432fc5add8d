"""The training loop: build, restore, step, log, save, evaluate, sum up.

Reads from top to bottom; the mathematics is in step.py. The host's part is
small: it hands over indices (or decoded canvases), and asks for metrics two
steps late, so that the device never waits for Python.
"""

import collections
import os
import time
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from cassle_jax import checkpoint, experiment, logs, sharding
from cassle_jax import config as config_lib
from cassle_jax.errors import UserError
from cassle_jax.evaluation import online
from cassle_jax.preemption import EXIT_STATUS, Preempted, Watch

# What may differ between a run and its continuation: nothing that the
# numbers depend on. `steps` and `epochs` are not among them, since the
# schedules end there.
FREE_KEYS = ("checkpoint", "evaluation", "mesh", "log_every", "data.threads",
             "data.workers")
# Steps in flight: metrics are looked at this many steps after the dispatch.
LAG = 2


class Diverged(UserError):
  """The loss or a gradient stopped being finite."""


def run(config: ConfigDict, workdir: str) -> int:
  """Trains, or continues, the run in `workdir`.

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
  parts = experiment.build(config)
  checkpoint.check_config(
    workdir, config_lib.to_dict(parts.config), free=FREE_KEYS
  )
  with Watch() as watch, Trainer(parts, workdir, watch) as trainer:
    try:
      trainer.loop()
      summary = trainer.summarize(time.time() - began)
    except Preempted:
      step = trainer.save(wait=True)
      say(f"SIGTERM: saved step {step} of {parts.total_steps} in {workdir};"
          " the same command continues it")
      return EXIT_STATUS
  if jax.process_index() == 0:
    print(summary_text(summary, workdir), flush=True)
  return 0
