"""Measures this machine: how long a training step and its parts take.

  python -m cassle_jax.benchmark augment --compare=kornia
  python -m cassle_jax.benchmark step \\
      --config=configs/simclr_resnet50.py:vanilla --compare cassle --batch=8
  python -m cassle_jax.benchmark step --grid
  python -m cassle_jax.benchmark linear --compare=torch

`augment` makes the views with omega of a batch, `step` takes whole training
steps, `linear` fits the classifiers of a linear evaluation. None needs a data
set. COMMAND --help lists a command's flags.
"""

from collections.abc import Sequence

from cassle_jax import cli, errors

COMMANDS = ("augment", "step", "linear")


def main(arguments: Sequence[str]) -> int:
  """Runs the benchmark named by the first argument."""
  name = arguments[0] if arguments else "--help"
  if name in ("--help", "-h"):
    flags = cli.parser("cassle_jax.benchmark", __doc__)
    flags.add_argument("command", choices=COMMANDS)
    flags.print_help()
    return 0
  if name == "augment":
    from cassle_jax.benchmark import augment as command
  elif name == "step":
    from cassle_jax.benchmark import step as command
  elif name == "linear":
    from cassle_jax.benchmark import linear as command
  else:
    raise errors.UserError(
      f"{errors.unknown('benchmark', name, COMMANDS)} What they do:"
      " python -m cassle_jax.benchmark --help."
    )
  return command.main(arguments[1:])
