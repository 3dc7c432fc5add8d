"""Steps that were not finite: counted, told, and after too many the end.

The compiled step (step/update.py) leaves the state as it was where the loss or
any number of the next state is not finite. Here is the host's part: a run
survives a bad batch, and stops with all that is needed to repeat the bad steps
when they come one after another.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from cassle_jax.errors import AT_LEAST_0, UserError, require
from cassle_jax.runs import files, logs


class Diverged(UserError):
  """Several steps in a row were not finite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What a run puts up with before it ends, or says something.

  Attributes:
    max_skipped: steps in a row that are not finite after which the run stops;
      0 and 1 stop it at the first. Steps before it are skipped and counted.
    watchdog_seconds: without a finished step in this time, and in ten times the
      median step's, the process prints its stacks and ends; 0 never.
    pause_seconds: the same for a compilation, a save or a part of an
      evaluation.
    straggler_every: logged steps between comparisons of the hosts' times; 0
      never compares.
  """

  max_skipped: int = 5
  watchdog_seconds: float = 1200.0
  pause_seconds: float = 7200.0
  straggler_every: int = 10

  def __post_init__(self):
    require("guard", RULES, **vars(self))


RULES = {field.name: AT_LEAST_0 for field in dataclasses.fields(Limits)}


class Guard:
  """Counts the steps of a run that were not applied.

  Attributes:
    skipped: how many there were, over all starts of the run.
  """

  def __init__(
    self,
    folder: str,
    *,
    seed: int,
    key: jax.Array,
    max_skipped: int,
    locate: Callable[[int], str],
    before: Mapping[str, int] | None = None,
  ):
    """Starts, or goes on, counting.

    Args:
      folder: the run's, for the dump.
      seed: the run's.
      key: the root of the randomness of all steps.
      max_skipped: of `Limits`.
      locate: index of an image -> its path, or what else finds it.
      before: `counts()` of the checkpoint that the run goes on from.
    """
    before = before or {}
    self.skipped = int(before.get("skipped", 0))
    self._in_a_row = int(before.get("in_a_row", 0))
    self._row: list[dict[str, Any]] = []
    self._folder, self._seed, self._key = folder, seed, key
    self._most, self._locate = max(max_skipped, 1), locate

  def counts(self) -> dict[str, int]:
    """What a checkpoint has to keep, for a resumed run to count alike."""
    return {"skipped": self.skipped, "in_a_row": self._in_a_row}

  def see(
    self, step: int, index: np.ndarray, metrics: Mapping[str, Any]
  ) -> bool:
    """Looks at a finished step, and tells whether it was applied.

    Args:
      step: steps taken with it.
      index: [b] int, the images of this process.
      metrics: scalars of the step, "finite", "loss" and "gradient_norm" among
        them.

    Raises:
      Diverged: it was not, nor were those before it; see `max_skipped`.
    """
    if float(metrics["finite"]):
      self._in_a_row, self._row = 0, []
      return True
    self.skipped += 1
    self._in_a_row += 1
    values = {name: float(value) for name, value in metrics.items()}
    self._row.append({"step": step, "index": index, "metrics": values})
    what = (
      f"not finite (loss {values['loss']:.4g}, gradient norm"
      f" {values['gradient_norm']:.4g})"
    )
    if self._in_a_row < self._most:
      logs.say(
        f"step {step} was {what} and was not applied: {self._in_a_row} in a"
        f" row, the run stops at {self._most} (guard.max_skipped)"
      )
      return False
    try:
      dumped = f"images and keys are in {self._dump(step)}"
    except OSError as error:
      dumped = f"images and keys could not be written ({error})"
    which = f"step {step} was"
    if self._in_a_row > 1:
      which = f"step {step} and {self._in_a_row - 1} before it were"
    raise Diverged(
      f"{which} {what} and not applied; {dumped}. Lower"
      " optim.learning_rate, set optim.clip_norm, or look at those images; the"
      " same command continues from the last checkpoint."
    )

  def _dump(self, step: int) -> str:
    """Writes down what repeats the bad steps; every process its own images."""
    name = f"diverged-step-{step}"
    if jax.process_count() > 1:
      name += f"-process-{jax.process_index()}"
    path = os.path.join(self._folder, name + ".json")
    steps = []
    for bad in self._row:
      index = np.asarray(bad["index"]).tolist()
      key = jax.random.fold_in(self._key, bad["step"] - 1)
      steps.append(
        {
          "step": bad["step"],
          "key": jax.random.key_data(key).tolist(),
          "index": index,
          "images": [self._locate(i) for i in index],
          "metrics": bad["metrics"],
        }
      )
    files.write_json(
      path,
      {
        "seed": self._seed,
        "how": "key is jax.random.key_data(jax.random.fold_in("
        "cassle_jax.training.experiment.root_key(seed), step - 1)); the state"
        " is that of the last checkpoint, for a step that is not applied"
        " changes nothing",
        "in_a_row": self._in_a_row,
        "steps": steps,
      },
    )
    return path
