"""Optimisers and schedules: `build` chains them out of optax's parts."""

from cassle_jax.optim.optimizer import (
  Optimizer,
  OptimizerState,
  Options,
  build,
)

__all__ = ["Optimizer", "OptimizerState", "Options", "build"]
