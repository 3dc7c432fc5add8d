"""Which parameters an option of the optimiser concerns.

Parameters are named by paths such as "backbone/stem/conv/kernel".
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from cassle_jax.errors import UserError


def map_with_paths(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
  """Maps function(path, leaf, ...) over trees; paths are joined by "/"."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: function(_name(path), *leaves), tree, *rest
  )


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def is_below(path: str, prefix: str) -> bool:
  """Whether a path is the prefix, or continues it after a "/"."""
  return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def is_below_any(path: str, prefixes: Sequence[str]) -> bool:
  """Whether a path is below one of the prefixes."""
  return any(is_below(path, prefix) for prefix in prefixes)


def check_patterns(
  params: Any, *, exclude: Sequence[str], prefixes: Mapping[str, Sequence[str]]
) -> None:
  """Refuses patterns that would silently do nothing.

  Args:
    params: the parameters.
    exclude: regular expressions, or "ndim1".
    prefixes: {name of the option: its path prefixes}.
  """
  paths = [_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
  groups = ", ".join(sorted({path.split("/")[0] for path in paths}))
  for key, values in prefixes.items():
    for prefix in values:
      if not any(is_below(path, prefix) for path in paths):
        raise UserError(
          f"{key} names {prefix!r}, under which there is no parameter; paths "
          f"start with {groups} and go on like {paths[0]!r}"
        )
  for rule in exclude:
    try:
      found = rule == "ndim1" or any(re.search(rule, path) for path in paths)
    except re.error as error:
      raise UserError(
        f"optim.exclude: {rule!r} is no regular expression: {error}"
      ) from None
    if not found:
      raise UserError(
        f"optim.exclude: {rule!r} matches no parameter path; paths look like "
        f"{paths[0]!r}; 'ndim1' means all with at most one axis"
      )
