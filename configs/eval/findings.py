"""The paper's findings in miniature: colour kept, and a projector that uses it.

  bash launch/findings.sh          trains six small runs and evaluates them all

Smaller than the published protocols where those are large: 15 weights of the
linear evaluation, a small three-layer probe, 256 pictures a curve.

Hardware: two CPU cores, about two minutes a run of the quick start.
"""

import numpy as np

from cassle_jax.evaluate import config as evaluation_config


def get_config():
  """All tasks, on the bundled tiles alone."""
  config = evaluation_config.default()
  config.datasets = ("earth",)
  config.linear.weights = tuple(np.logspace(-4, 3, 15).tolist())
  config.linear.max_steps = 300
  config.probe.pictures = 2048
  config.probe.hidden = (128, 128)
  config.probe.steps = 500
  return config
