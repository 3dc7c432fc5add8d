"""Optimisers and schedules: `build` chains them out of optax's parts."""

from cassle_jax.optim.optimizer import (
  COPIED,
  Optimizer,
  OptimizerState,
  Options,
  build,
)

__all__ = ["COPIED", "Optimizer", "OptimizerState", "Options", "build"]
