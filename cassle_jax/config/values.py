"""Values of config keys: from an override's text, and against annotations."""

import ast
import types
import typing
from typing import Any

from cassle_jax.errors import UserError


def parse(text: str, hint: Any, path: str) -> Any:
  """Reads an override's text as a value of the annotated type."""
  options = _members(hint)
  if text in ("None", "none", "null") and type(None) in options:
    if str not in options or text == "None":
      return None
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    lowered = text.lower()
    value = {"true": True, "false": False}.get(lowered, text)
  candidates = [value]
  if isinstance(value, int) and float in options and int not in options:
    candidates.insert(0, float(value))
  if isinstance(value, float) and value.is_integer():
    candidates.append(int(value))
  if isinstance(value, list):
    candidates.append(tuple(value))
  if isinstance(value, str) and "," in value:
    candidates.insert(
      0, tuple(x.strip(" ()'\"") for x in value.split(",") if x)
    )
  candidates += [(value,), text]
  for candidate in candidates:
    if fits(candidate, hint):
      return candidate
  raise UserError(
    f"--config.{path}={text} is not valid; it must be {describe(hint)}."
  )


def _members(hint: Any) -> tuple:
  if isinstance(hint, types.UnionType) or (
    typing.get_origin(hint) is typing.Union
  ):
    return typing.get_args(hint)
  return (hint,)


def fits(value: Any, hint: Any) -> bool:
  """Whether a value is one that the annotation admits; ints are floats."""
  for option in _members(hint):
    origin = typing.get_origin(option) or option
    if option is Any or option is type(None) and value is None:
      return True
    if origin is tuple:
      if isinstance(value, tuple) and _tuple_fits(value, option):
        return True
    elif origin is bool or isinstance(value, bool):
      if origin is bool and isinstance(value, bool):
        return True
    elif origin is float and isinstance(value, (int, float)):
      return True
    elif isinstance(origin, type) and isinstance(value, origin):
      return True
  return False


def _tuple_fits(value: tuple, hint: Any) -> bool:
  arguments = typing.get_args(hint)
  if not arguments:
    return True
  if len(arguments) == 2 and arguments[1] is Ellipsis:
    return all(fits(item, arguments[0]) for item in value)
  return len(value) == len(arguments) and all(map(fits, value, arguments))


def describe(hint: Any) -> str:
  """The annotation in words, for error messages."""
  names = {type(None): "None", bool: "True or False"}
  return " or ".join(
    names.get(
      option,
      str(option)
      if typing.get_origin(option)
      else getattr(option, "__name__", str(option)),
    )
    for option in _members(hint)
  )
