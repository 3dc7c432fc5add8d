"""Whether a run goes on with the pictures that it began with.

The order of a run, the length of its epochs and its schedules follow from them,
so that one picture more is another run. They are told by their content: a set
that was moved is the same, and another one of the same name is not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cassle_jax.data import content
from cassle_jax.data.source import Source
from cassle_jax.errors import UserError
from cassle_jax.runs.logs import say

KEY = "pictures"
_NUMBER, _CONTENT = "the number of images", "their names, sizes and order"


def describe(source: Source) -> dict[str, Any]:
  """What a checkpoint keeps of a set; a JSON value."""
  return {_NUMBER: len(source), _CONTENT: content.digest(source)}


def check(
  saved: Mapping[str, Any] | None,
  found: Mapping[str, Any],
  *,
  step: int,
  moved: Sequence[str],
  allow_change: bool,
) -> None:
  """Compares the pictures of a checkpoint with those of today.

  Args:
    saved: what `describe` found then; None in a checkpoint of a version that
      kept nothing, of which the names are compared.
    found: what it finds now.
    step: of the checkpoint.
    moved: the config's keys that name them and differ, each with both values.
    allow_change: whether to go on all the same; a line says so.

  Raises:
    UserError: they are not the same, and that is not allowed.
  """
  if saved is None:
    if not moved:
      return
    change = "; ".join(moved)
  elif dict(saved) == dict(found):
    return
  elif saved.get(_NUMBER) != found[_NUMBER]:
    change = f"{found[_NUMBER]:,} images, and {saved.get(_NUMBER):,} before"
  else:
    change = f"{_CONTENT} are not what they were"
  if moved and saved is not None:
    change += f" ({'; '.join(moved)})"
  if not allow_change:
    raise UserError(
      f"the data has changed since step {step} of this run: {change}. Give it"
      " the same images, use another --workdir, or go on knowingly, in another"
      " order and on another schedule, with --config.data.allow_change=True"
    )
  say(f"going on with other data than until step {step}: {change}")
