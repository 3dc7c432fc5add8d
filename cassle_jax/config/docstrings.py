"""What each key means, in one line: out of the docstrings that explain it."""

import inspect
import re
from collections.abc import Callable

_SECTIONS = ("Args:", "Attributes:")
_ITEM = re.compile(r"\*{0,2}(\w+(?:, \w+)*)(?: \([^)]*\))?: (.*)")


def arguments(function: Callable) -> dict[str, str]:
  """Argument, or field of a class -> what its docstring says of it.

  Args:
    function: with a Google docstring; of a class also those of its
      bases and of `__init__`.

  Returns:
    Its arguments, in order, each with its text in one line, white space
    collapsed. One that the docstring does not mention is missing.
  """
  parts = [function]
  if inspect.isclass(function):
    classes = [each for each in function.__mro__[::-1] if each is not object]
    parts = [*classes, function.__init__]
  found = {}
  for part in parts:
    found |= _items(inspect.getdoc(part) or "")
  return found


def _items(text: str) -> dict[str, str]:
  """The items of "Args:" and "Attributes:", which are indented by two."""
  found, names, within = {}, (), False
  for line in text.splitlines():
    if line and not line.startswith(" "):
      within, names = line in _SECTIONS, ()
    elif within:
      item = _ITEM.fullmatch(line[2:]) if line[2:3].strip() else None
      if item:
        names = item[1].split(", ")
        found |= dict.fromkeys(names, item[2])
      elif line.strip():
        found |= {name: f"{found[name]} {line.strip()}" for name in names}
  return found
