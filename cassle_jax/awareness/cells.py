"""The grid: which method goes with which awareness, and why not.

`AWARENESS` has one row an awareness, which says of any method whether it goes
with it and if not, why. The tests, docs/methods.md and the error messages
all come from here:

  python -m cassle_jax.awareness.cells        prints the table
"""

import functools

from cassle_jax import methods
from cassle_jax.awareness import AWARENESS
from cassle_jax.errors import UserError
from cassle_jax.methods import METHODS, Method


def reason(method: str, awareness: str) -> str | None:
  """Why a cell of the grid is refused; None where it is supported."""
  return AWARENESS[awareness].refuses(_usual(method))


@functools.cache
def _usual(method: str) -> Method:
  """The method with the options that it has by itself."""
  return methods.build(name=method)


def supported() -> list[tuple[str, str]]:
  """The (method, awareness) cells that train, row by row."""
  return [
    (method, awareness)
    for method in METHODS
    for awareness in AWARENESS
    if reason(method, awareness) is None
  ]


def check(method: str, awareness: str) -> None:
  """Raises UserError, with the reason, for a cell that is refused."""
  why = reason(method, awareness)
  if why is not None:
    others = [name for name in METHODS if reason(name, awareness) is None]
    raise UserError(
      f"awareness.name={awareness!r} does not go with method.name={method!r}:"
      f" {why}; methods that it goes with: {', '.join(others)}."
    )


def markdown() -> str:
  """The support table as docs/methods.md has it, with the reasons below."""
  lines = [
    "| | " + " | ".join(AWARENESS) + " |",
    "|---" * (len(AWARENESS) + 1) + "|",
  ]
  reasons = []
  for method in METHODS:
    cells = []
    for awareness in AWARENESS:
      why = reason(method, awareness)
      if why is not None and why not in reasons:
        reasons.append(why)
      cells.append("yes" if why is None else f"no ({reasons.index(why) + 1})")
    lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
  notes = [f"{number}. {why}" for number, why in enumerate(reasons, 1)]
  return "\n".join([*lines, "", *notes]) + "\n"


if __name__ == "__main__":
  print(markdown(), end="")
