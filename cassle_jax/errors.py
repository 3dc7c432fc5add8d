"""The one exception that means: the user can fix this.

`main` and the other commands print a `UserError` as one line and exit with
status 2; everything else is a bug and keeps its traceback. What a number or a
word may be is a `Range` or `Words` in the table of the room that takes it.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


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


class Range(NamedTuple):
  """The numbers that an argument may be; never nan, and never infinite.

  Attributes:
    low: the least.
    high: the largest.
    above: whether `low` itself is not one of them.
    below: whether `high` itself is not.
    items: how many numbers a tuple has at least.
    because: what other numbers would do, for the message; "" says nothing.
  """

  low: float = -math.inf
  high: float = math.inf
  above: bool = False
  below: bool = False
  items: int = 0
  because: str = ""

  def holds(self, value: float) -> bool:
    """Whether a number is one of them."""
    return (
      math.isfinite(value)
      and (self.low < value if self.above else self.low <= value)
      and (value < self.high if self.below else value <= self.high)
    )

  def problem(self, name: str, value: Any) -> str | None:
    """What is wrong with a number, or a tuple of them; None for nothing.

    None stands for "the usual one" and is right; names and words between the
    numbers of a tuple are passed over.
    """
    found = list(_numbers(value))
    if all(map(self.holds, found)):
      if not isinstance(value, tuple) or len(value) >= self.items:
        return None
      return f"{name}={value} must be {self.items} or more numbers"
    why = f" ({self.because})" if self.because else ""
    each = "each " if isinstance(value, tuple) else ""
    return f"{name}={value} must be {each}{self.words()}{why}"

  def words(self) -> str:
    """The range in words, to follow "must be"."""
    if math.isinf(self.high):
      if math.isinf(self.low):
        return "a finite number"
      return f"{'above' if self.above else 'at least'} {self.low:g}"
    low, high = f"{self.low:.12g}", f"{self.high:.12g}"
    if self.above or self.below:
      return (
        f"{'above' if self.above else 'at least'} {low} and"
        f" {'below' if self.below else 'at most'} {high}"
      )
    return f"between {low} and {high}"


class Words(NamedTuple):
  """The words that an argument may be, alone or in a tuple."""

  valid: Iterable[str]

  def problem(self, name: str, value: Any) -> str | None:
    """What is wrong with it; None for nothing, as for None itself."""
    for word in value if isinstance(value, tuple) else (value,):
      if word is not None and word not in self.valid:
        return str(unknown(name, word, self.valid)).rstrip(".")
    return None


Rules = Mapping[str, Range | Words]
AT_LEAST_0, AT_LEAST_1 = Range(0), Range(1)
ABOVE_0, SHARE = Range(0, above=True), Range(0, 1)


def _numbers(value: Any) -> Iterable[float]:
  if isinstance(value, list | tuple):
    for item in value:
      yield from _numbers(item)
  elif isinstance(value, int | float) and not isinstance(value, bool):
    yield value


def problems(
  section: str, rules: Rules, values: Mapping[str, Any]
) -> list[str]:
  """What is wrong with a section's values, in the order of the values."""
  named = {f"{section}.{key}" if section else key: key for key in values}
  found = [
    rules[key].problem(name, values[key])
    for name, key in named.items()
    if key in rules
  ]
  return [text for text in found if text is not None]


def require(section: str, rules: Rules, **values: Any) -> None:
  """Raises one UserError with all that is wrong with a section's values."""
  found = problems(section, rules, values)
  if found:
    raise together(found)


def together(found: Iterable[str]) -> UserError:
  """One error for one or more problems."""
  found = [text.rstrip(".") for text in dict.fromkeys(found)]
  if len(found) == 1:
    return UserError(found[0] if found[0].endswith("?") else f"{found[0]}.")
  listed = "; ".join(f"({n}) {text}" for n, text in enumerate(found, 1))
  return UserError(f"{len(found)} problems: {listed}.")
