"""Optimisers and schedules: `build` chains them out of optax's parts."""

from cassle_jax.optim.optimizer import (
  STACKED,
  Optimizer,
  OptimizerState,
  Options,
  build,
)

__all__ = ["STACKED", "Optimizer", "OptimizerState", "Options", "build"]
