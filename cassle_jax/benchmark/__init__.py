"""Measures this machine: how long a training step and its parts take.

  python -m cassle_jax.benchmark augment --compare=kornia
  python -m cassle_jax.benchmark step \\
      --config=configs/simclr_resnet50.py:vanilla --compare cassle --batch=8
  python -m cassle_jax.benchmark step --grid
  python -m cassle_jax.benchmark grid runs/grid
  python -m cassle_jax.benchmark linear --compare=torch
  python -m cassle_jax.benchmark input
  python -m cassle_jax.benchmark checkpoint --config=configs/quickstart.py

`augment` makes the views with omega of a batch, `step` takes whole training
steps, `linear` fits the classifiers of a linear evaluation, `input` decodes
pictures on the host, `checkpoint` saves, restores and guards a state; `grid`
makes tables of what launch/grid.sh trained. None needs a data set. What a chip
would take that is not here is a question for `cassle_jax.preflight`.
COMMAND --help lists a command's flags.
"""

import importlib
from collections.abc import Sequence

from cassle_jax import errors
from cassle_jax.config import cli

COMMANDS = (
  "augment",
  "step",
  "linear",
  "input",
  "checkpoint",
  "grid",
)


def main(arguments: Sequence[str]) -> int:
  """Runs the benchmark named by the first argument."""
  name = arguments[0] if arguments else "--help"
  if name in ("--help", "-h"):
    flags = cli.parser("cassle_jax.benchmark", __doc__)
    flags.add_argument("command", choices=COMMANDS)
    flags.print_help()
    return 0
  if name not in COMMANDS:
    raise errors.UserError(
      f"{errors.unknown('benchmark', name, COMMANDS)} What they do:"
      " python -m cassle_jax.benchmark --help."
    )
  command = importlib.import_module(f"cassle_jax.benchmark.{name}")
  return command.main(arguments[1:])
