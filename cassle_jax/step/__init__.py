"""One training step, a pure function: (state, batch) -> (state, metrics).

`update.py` reads top to bottom: views, both encoders, loss, optimiser, target.
"""

from cassle_jax.step.frozen import frozen
from cassle_jax.step.state import TrainState, create_state, move_target
from cassle_jax.step.update import all_finite, train_step, update

__all__ = [
  "TrainState",
  "all_finite",
  "create_state",
  "frozen",
  "move_target",
  "train_step",
  "update",
]
