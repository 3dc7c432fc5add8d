"""What safety adds to a step: the guard of the state, the host's notes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cassle_jax.hosts import stragglers
from cassle_jax.hosts.preemption import Watch
from cassle_jax.hosts.watchdog import Watchdog
from cassle_jax.runs import goodput
from cassle_jax.runs.guard import Guard
from cassle_jax.step import all_finite
from cassle_jax.step.state import TrainState


def update_of(
  optimizer: optax.GradientTransformation, *, guarded: bool
) -> Callable[[TrainState, Any], TrainState]:
  """(state, gradients) -> state: the optimiser alone, with or without guard.

  The difference of the two is what the guard adds to a step: XLA merges it with
  the update. The state is donated.

  Args:
    optimizer: over `state.params`.
    guarded: whether a state that is not finite is refused, as in the step.
  """

  def update(state, gradients):
    updates, opt_state = optimizer.update(
      gradients, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    new = state.replace(params=params, opt_state=opt_state)
    if not guarded:
      return new
    finite = all_finite(new)
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)

  return jax.jit(update, donate_argnums=0)


def host_work(folder: str) -> Callable[[], None]:
  """What the trainer notes of one step, without the device's part in it."""
  watch, clock = Watch(), goodput.Clock()
  times = stragglers.HostTimes()
  watchdog = Watchdog(folder, seconds=0, pause_seconds=0)
  guard = Guard(
    folder,
    seed=0,
    key=jax.random.key(0),
    max_skipped=5,
    locate=str,
  )
  metrics = {"finite": np.float32(1)}
  index = np.zeros(1, np.int32)

  def work() -> None:
    watch.check()
    times.note(clock.read())
    with clock.phase("step"):
      pass
    with clock.phase("step"):
      pass
    with clock.phase("data"):
      pass
    watchdog.step(1)
    guard.see(1, index, metrics)

  return work
