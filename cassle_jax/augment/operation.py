"""What an operation is: one record that holds everything about it.

An operation of `augment.operations` is one file with a frozen dataclass of its
settings, the parameters that it draws, a deterministic `apply` and one
`Operation` that ties them together. Whatever else needs to know about it
(policies, omega, AugSelf's heads, LooC's groups, AI's sets, the evaluations,
the preview) reads that record: there is nothing else to write down.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from jax import lax

from cassle_jax import errors

Kind = Literal["continuous", "binary", "one-hot"]


def unit(settings: Any) -> tuple[float, float]:
  """From 0 to 1, whatever the settings: the usual `Field.range`."""
  del settings
  return 0.0, 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
  """One field of omega.

  Attributes:
    name: as in `model.omega`.
    neutral: its numbers where the operation was not applied.
    meaning: in words, for legends and documents.
    range: settings -> least and largest value of its numbers.
    kind: "continuous" numbers, "binary" (0 or 1) or "one-hot". AugSelf's loss
      and the preview's text follow from it.
    compared: what `omega.difference` gives of two views, number by number: the
      "difference" of continuous ones, else the "agreement", 1 where they are
      the same. Or a "turn", where places of a one-hot field follow each other
      in a circle: the one-hot of how far one is from the other.
    text: `[size]` numbers -> how a preview prints them where the operation was
      applied; None for the usual way of the kind.
    neutral_text: how a preview prints that it was not applied.
  """

  name: str
  neutral: tuple[float, ...]
  meaning: str
  kind: Kind = "continuous"
  compared: Literal["difference", "agreement", "turn"] | None = None
  range: Callable[[Any], tuple[float, float]] = unit
  text: Callable[[np.ndarray], str] | None = None
  neutral_text: str = "no"

  def __post_init__(self):
    if self.compared is None:
      usual = "difference" if self.kind == "continuous" else "agreement"
      object.__setattr__(self, "compared", usual)
    if self.compared == "turn" and self.kind != "one-hot":
      raise ValueError(f"the field {self.name!r} turns, but is not one-hot.")

  @property
  def size(self) -> int:
    """How many numbers it has."""
    return len(self.neutral)

  def in_words(self, value: np.ndarray) -> tuple[str, bool]:
    """Returns one view's value as text, and whether the operation was applied.

    Args:
      value: `[size]`.
    """
    value = np.asarray(value, np.float64)
    if np.array_equal(value, self.neutral):
      return self.neutral_text, False
    if self.text is not None:
      return self.text(value), True
    if self.kind == "binary":
      return "yes", True
    if self.kind == "one-hot":
      return f"{int(value.argmax())}", True
    if self.size == 1:
      return f"{value[0]:.2f}", True
    signed = (f"{number:+.2f}".replace("0.", ".") for number in value)
    return "   ".join(signed), True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  """One parameter of an operation, from weak to strong, for strength curves.

  Attributes:
    name: of the parameter.
    values: from one end of the range to the other, as wide as pictures bear.
    neutral: the value that leaves the picture as it is.
    unit: of the values, for people.
    set: (parameters of images that the operation leaves alone, value, sizes
      `[B, 2]`) -> parameters that apply that value to all of them.
    trained: settings -> the interval that the parameter is drawn from; None
      where it is never drawn.
  """

  name: str
  values: tuple[float, ...]
  neutral: float
  unit: str
  set: Callable[[Any, float, np.ndarray], Any]
  trained: Callable[[Any], tuple[float, float] | None]


def steps(low: float, high: float, count: int) -> tuple[float, ...]:
  """Evenly spaced values of a sweep, both ends included."""
  return tuple(np.round(np.linspace(low, high, count), 6).tolist())


class How(NamedTuple):
  """How views are computed.

  Attributes:
    form: "dense" or "banded", see `forms`.
    precision: of matrix products.
    mean: what will be subtracted from each channel: the colour that the network
      sees as 0.
  """

  form: str
  precision: lax.Precision
  mean: tuple[float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Base of an operation's settings: its keys of the config section `augment`.

  The first attribute switches the operation: a probability, or True and False.
  Its key is the operation's name, e.g. `blur`; the others' have the name in
  front, e.g. `blur_sigma`, unless the field's metadata says `key`.
  """

  operation: ClassVar[str]

  @classmethod
  def keys(cls) -> dict[str, str]:
    """Config key -> attribute, the switch first."""
    first, *others = dataclasses.fields(cls)
    return {cls.operation: first.name} | {
      field.metadata.get("key", f"{cls.operation}_{field.name}"): field.name
      for field in others
    }

  @classmethod
  def hints(cls) -> dict[str, Any]:
    """Config key -> type of its value for one view."""
    hints = typing.get_type_hints(cls)
    return {key: hints[name] for key, name in cls.keys().items()}

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, list):
        object.__setattr__(self, field.name, tuple(value))
    first = dataclasses.fields(self)[0]
    value = getattr(self, first.name)
    if isinstance(first.default, bool):
      good, rule = isinstance(value, bool), "True or False"
    else:
      good = are_numbers((value,), 1) and 0 <= value <= 1
      rule = "a probability between 0 and 1"
    self.require(good, first.name, rule)
    self.check()

  @property
  def switch(self) -> bool | float:
    """The probability, or whether the operation is on."""
    return getattr(self, dataclasses.fields(self)[0].name)

  @property
  def on(self) -> bool:
    """Whether the operation can happen."""
    return bool(self.switch)

  def switched(self, on: bool) -> "Settings":
    """The same settings, but for every image (True) or for none (False)."""
    first = dataclasses.fields(self)[0]
    value = type(first.default)(on)
    return dataclasses.replace(self, **{first.name: value})

  def check(self) -> None:
    """Raises a UserError for the first value that makes no sense."""

  def fitted(self, image_size: tuple[int, int]) -> "Settings":
    """The settings for views of (height, width) pixels.

    Raises:
      UserError: they do not fit.
    """
    del image_size
    return self

  def require(self, good: bool, name: str, rule: str) -> None:
    """Raises a UserError that names the key, the rule and the value."""
    if not good:
      key = {name: key for key, name in self.keys().items()}[name]
      value = getattr(self, name)
      raise errors.UserError(f"augment.{key} must be {rule}, got {value!r}.")

  def require_rising(
    self, name: str, low: float, high: float, rule: str
  ) -> None:
    """Requires two rising numbers in [low, high]."""
    value = getattr(self, name)
    good = are_numbers(value, 2) and low <= value[0] <= value[1] <= high
    self.require(good, name, rule)

  def require_one_of(self, name: str, valid: Sequence[str]) -> None:
    """Requires one of several words."""
    if getattr(self, name) not in valid:
      key = {name: key for key, name in self.keys().items()}[name]
      raise errors.unknown(f"augment.{key}", getattr(self, name), valid)


def are_numbers(value: Any, count: int) -> bool:
  """Returns whether `value` is a tuple of `count` finite numbers."""
  return (
    isinstance(value, tuple)
    and len(value) == count
    and all(
      isinstance(part, int | float)
      and not isinstance(part, bool)
      and math.isfinite(part)
      for part in value
    )
  )


def is_on(settings: Settings) -> bool:
  """Whether an operation can happen: the usual `Operation.varies`."""
  return settings.on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
  """Everything about one operation, whose name is that of its settings.

  Attributes:
    title: in words, for reports.
    settings: subclass of `Settings`.
    draws: how many uniform numbers it takes of an image.
    draw: (uniform `[draws]`, settings, true size `[2]` int32, one more number
      that the whole batch shares) -> the parameters of one image, a NamedTuple
      of arrays; with all numbers 0 and the switch off, neutral ones.
    apply: (images `[B, 3, h, w]` float32 in [0, 1], parameters `[B, ...]`,
      settings, `How`) -> such images; deterministic. With `measures` above 0
      also `[B, measures]`. None where the crop's resampling does it.
    fields: of omega.
    describe: (parameters, settings, true sizes `[B, 2]`, what `apply` measured,
      parameters of all operations) -> {field: `[B, size]` float32}.
    changes: what the operation changes of a picture, "appearance" or
      "position"; AI's descriptors choose by it.
    group: LooC's group; operations of one group are shared together.
    example: key=value that switches it on, for error messages.
    amortised: within AI's set for what it changes: "drawn" as in the run,
      "always" applied, or "never", only in the set of all operations.
    varies: settings -> whether the fields of omega can differ from neutral.
    measures: how many numbers `apply` measures.
    sweeps: for strength curves.
    common_stream: whether it draws from the stream of numbers that the first
      operations of this package share, in pipeline order. All others draw from
      a stream of their own name, so that a new one leaves the draws of the rest
      as they are.
  """

  title: str
  settings: type[Settings]
  draws: int
  draw: Callable[..., Any]
  apply: Callable[..., Any] | None
  fields: tuple[Field, ...]
  describe: Callable[..., dict[str, jax.Array]]
  changes: Literal["appearance", "position"]
  group: str
  example: str
  amortised: Literal["drawn", "always", "never"] = "drawn"
  varies: Callable[[Any], bool] = is_on
  measures: int = 0
  sweeps: tuple[Sweep, ...] = ()
  common_stream: bool = False

  @property
  def name(self) -> str:
    """In policies, parameters, evaluations and config keys."""
    return self.settings.operation
