"""Turns weights of other projects into runs, and runs into theirs.

  python -m cassle_jax.convert import FILE --workdir=RUN
  python -m cassle_jax.convert export RUN --format=timm --out=DIR

`python -m cassle_jax.convert import --help` says more, as for export.
"""

import importlib
from collections.abc import Sequence

from cassle_jax.config import cli
from cassle_jax.errors import UserError, unknown

# Direction -> the module of this package whose `main` takes its flags.
DIRECTIONS = {"import": "importing", "export": "exporting"}


def main(arguments: Sequence[str]) -> int:
  """Hands the flags to the direction that comes first."""
  first, *rest = [*arguments, ""]
  if first in ("-h", "--help"):
    cli.parser("cassle_jax.convert", __doc__).print_help()
    return 0
  if not first:
    raise UserError(
      f"say what to do first: {' or '.join(DIRECTIONS)}, e.g. python -m"
      " cassle_jax.convert import FILE --workdir=RUN."
    )
  if first not in DIRECTIONS:
    raise unknown("direction", first, DIRECTIONS)
  module = f"cassle_jax.convert.{DIRECTIONS[first]}"
  return importlib.import_module(module).main(rest[:-1])
