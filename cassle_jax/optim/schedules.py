"""Schedules as pure functions of the step.

A step is a Python or numpy integer (the value is then computed in float64, for
logs and tests) or a JAX int32, traced or not (float32).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.errors import UserError, unknown

Schedule = Callable[[Any], Any]
SCHEDULES = ("constant", "cosine", "linear", "multistep")
UNITS = ("epoch", "step")


def constant(value: float) -> Schedule:
  """Returns step -> `value`."""

  def schedule(step: Any) -> Any:
    xp = jnp if isinstance(step, jax.Array) else np
    return xp.full(np.shape(step), value)

  return schedule


def learning_rate_fraction(
  schedule: str,
  *,
  total_steps: int,
  steps_per_epoch: int = 1,
  per: str = "step",
  warmup_epochs: float = 0.0,
  final: float = 0.0,
  milestones: Sequence[float] = (0.6, 0.8),
  decay_factor: float = 0.1,
) -> Schedule:
  """Returns step -> share of the full learning rate, in [0, 1].

  After W units (steps or epochs) of warm-up, cosine and linear fall over the
  remaining T - W units; `build` describes the arguments.

  Raises:
    UserError: for an unknown schedule or unit.
  """
  if schedule not in SCHEDULES:
    raise unknown("optim.schedule", schedule, SCHEDULES)
  unit_of, total = _clock(total_steps, steps_per_epoch, per)
  warmup = warmup_epochs * (steps_per_epoch if per == "step" else 1)
  start = min(1.0, 1 / warmup) if warmup and per == "epoch" else 0.0

  def fraction(step: Any) -> Any:
    xp, unit = unit_of(step)
    if schedule == "cosine":
      value = final + (1 - final) * _half_cosine(
        xp, unit - warmup, total, warmup
      )
    elif schedule == "linear":
      left = xp.clip((total - unit) / max(total - warmup, 1e-9), 0, 1)
      value = final + (1 - final) * left
    elif schedule == "multistep":
      passed = sum((unit >= share * total) * 1 for share in milestones)
      value = xp.power(decay_factor, passed * 1.0)
    else:
      value = xp.ones_like(unit)
    if not warmup:
      return value
    return xp.where(unit < warmup, start + (1 - start) * unit / warmup, value)

  return fraction


def cosine_ramp(
  start: float,
  end: float,
  total_steps: int,
  *,
  per: str = "step",
  steps_per_epoch: int = 1,
  name: str = "optim.per",
) -> Schedule:
  """Returns step -> a half cosine from `start` (step 0) to `end`.

  With `end` = 1 this is the momentum of BYOL and MoCo-v3,
  m(t) = 1 - (1 - start) (1 + cos(pi t / T)) / 2.

  Args:
    start: value at step 0.
    end: value at `total_steps` and after it.
    total_steps: length of the ramp.
    per: whether the value changes every "step" or every "epoch".
    steps_per_epoch: steps in an epoch; used when `per` is "epoch".
    name: the config key that `per` comes from, for the error.

  Raises:
    UserError: for an unknown unit.
  """
  unit_of, total = _clock(total_steps, steps_per_epoch, per, name=name)

  def ramp(step: Any) -> Any:
    xp, unit = unit_of(step)
    return end + (start - end) * _half_cosine(xp, unit, total, 0.0)

  return ramp


def _clock(
  total_steps: int, steps_per_epoch: int, per: str, *, name: str = "optim.per"
) -> tuple[Callable[[Any], tuple[Any, Any]], float]:
  """Returns step -> (numpy or jax.numpy, units passed), and units in a run."""
  if per not in UNITS:
    raise unknown(name, per, UNITS)
  if total_steps < 1 or steps_per_epoch < 1:
    raise UserError(
      f"a run of {total_steps} steps with {steps_per_epoch} steps an epoch "
      "cannot be scheduled: both must be at least 1; check the batch size "
      "against the number of images"
    )
  length = steps_per_epoch if per == "epoch" else 1

  def unit_of(step: Any) -> tuple[Any, Any]:
    if isinstance(step, jax.Array):
      return jnp, (step // length).astype(jnp.float32)
    return np, np.asarray(step) // length * 1.0

  return unit_of, total_steps / length


def _half_cosine(xp: Any, unit: Any, total: float, warmup: float) -> Any:
  """(1 + cos(pi unit / length)) / 2 with length = total - warmup.

  Written as a squared sine of what is left: near the end float32 would lose
  all digits of 1 + cos.
  """
  length = max(total - warmup, 1e-9)
  left = xp.clip((length - unit) / length, 0, 1)
  return xp.sin(np.pi / 2 * left) ** 2
