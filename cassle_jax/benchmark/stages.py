"""Where the time of a step goes: augmentation, forward, backward, optimiser.

A step is one program, so a stage cannot be clocked within it. Four programs are
timed in turn instead, each with one stage more:

    augmentation    the views alone
    forward         the step, of which only the loss is asked for
    backward        the step, of which the gradient's norm is asked for as well
    step            the whole

XLA leaves out whatever a result does not need. A stage is the difference of two
programs within one round; what is left for the last includes the guard against
numbers that are not finite and the monitor of collapse. Where the target moves
before the key pass, the forward program moves it too; a fifth program does only
that, and its time goes from the forward pass to the optimiser.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cassle_jax.benchmark import common
from cassle_jax.step.state import move_target
from cassle_jax.training import experiment

STAGES = ("augmentation", "forward", "backward", "optimiser + EMA")


def augment(
  parts: experiment.Experiment, state: Any, batch: Any, key: jax.Array
) -> Any:
  """The views of a step as `step.train_step` makes them."""
  view_key, _ = jax.random.split(jax.random.fold_in(key, state.step))
  chosen = {"stored": batch.get("stored")}
  if parts.awareness.descriptors:
    chosen["index"] = parts.awareness.choose(view_key)
  return parts.awareness.views(
    view_key, batch["image"], batch["size"], parts.policies, **chosen
  )


def programs(parts: experiment.Experiment) -> dict[str, Callable]:
  """Name -> (state, batch, key) -> what the program of that name returns."""
  step = experiment.compile_step(parts, parts.abstract)

  def metric(*names: str) -> Callable:
    def run(state, batch, key):
      metrics = step(state, batch, None, key)[1]
      return [metrics[name] for name in names]

    return run

  result = {
    "augmentation": lambda *inputs: augment(parts, *inputs),
    "forward": metric("loss"),
    "backward": metric("loss", "gradient_norm"),
  }
  if parts.method.target_update == "before":
    result["target"] = lambda state, batch, key: move_target(
      state.target, state.params, parts.momentum(state.step)
    )
  return result


def split(times: dict[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
  """The stages from the times of the programs in each round.

  Args:
    times: "augmentation", "forward", "backward", "step" and, where there is
      one, "target" -> milliseconds in every round.

  Returns:
    stage -> {"ms" and "margin_ms": the `common.Median` over the rounds,
    "share": of the step}. A stage that is lost in the noise may be below 0.
  """
  known = {name: np.asarray(values) for name, values in times.items()}
  step, target = known["step"], known.get("target", 0.0)
  each = (
    known["augmentation"],
    known["forward"] - known["augmentation"] - target,
    known["backward"] - known["forward"],
    step - known["backward"] + target,
  )
  whole, result = float(np.median(step)), {}
  for name, values in zip(STAGES, each, strict=True):
    ms, margin = common.median(values)
    result[name] = {"ms": ms, "margin_ms": margin, "share": ms / whole}
  return result
