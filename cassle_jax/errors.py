"""The one exception that means: the user can fix this.

`main` and the other commands print a `UserError` as one line and exit with
status 2; everything else is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(ValueError):
  """A mistake in a config, a path or a flag; the message names the fix."""


def unknown(kind: str, value: object, valid: Iterable[str]) -> UserError:
  """Builds the error for a name that is not one of the valid ones.

  Args:
    kind: what the name stands for, e.g. "method" or "model.backbone".
    value: the name that was given.
    valid: the names that exist.

  Returns:
    A `UserError` that names the value, the nearest valid one and all of them.
  """
  names = sorted(valid)
  near = difflib.get_close_matches(str(value), names, n=1)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  return UserError(
    f"unknown {kind} {value!r}.{hint} Valid: {', '.join(names)}."
  )


def chosen(kind: str, value: Any, table: Mapping[Any, Any]) -> Any:
  """Returns table[value]; raises `unknown` where there is no such entry."""
  if value not in table:
    raise unknown(kind, value, table)
  return table[value]
