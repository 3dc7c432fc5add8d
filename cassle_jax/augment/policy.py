"""What may happen to a view: the settings of all operations.

A `ViewPolicy` is static (hashable): pass it to jit as such or close over it.
`recipes.build` makes the policies of all views.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.augment.operation import Settings, are_numbers
from cassle_jax.augment.operations import OPERATIONS, fields

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, init=False)
class ViewPolicy:
  """How one view is drawn; a probability of 0 turns an operation off.

  Besides the attributes below it takes, and has as attributes, the settings of
  every operation by their config keys: `ViewPolicy(blur=0.1, blur_sigma=(1,
  2)).blur_sigma`; `policy["blur"]` has one operation's together. The files of
  `augment.operations` say what they mean. `dataclasses.replace` takes them too.

  Attributes:
    image_size: (height, width) of the view in pixels; one number for both.
    mean: per channel, subtracted last.
    std: per channel, divided by last.
    dtype: of the view, "float32" or "bfloat16".
    settings: of every operation of `OPERATIONS`, in that order.
  """

  image_size: tuple[int, int]
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  dtype: str
  settings: tuple[Settings, ...]

  def __init__(
    self,
    *,
    image_size: int | tuple[int, int] = (224, 224),
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
    std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    dtype: str = "float32",
    settings: tuple[Settings, ...] | None = None,
    **options: Any,
  ):
    """Checks everything.

    Args:
      image_size: see the attributes, as for the next three.
      mean: three numbers.
      std: three positive numbers.
      dtype: a name, or a type of jax.
      settings: of all operations; None for their defaults.
      **options: config keys of operations that replace these.

    Raises:
      UserError: a key is unknown, or a value makes no sense.
    """

    def fix(name, value):
      value = tuple(value) if isinstance(value, list) else value
      object.__setattr__(self, name, value)

    if isinstance(image_size, int):
      image_size = (image_size, image_size)
    fix("image_size", image_size)
    fix("mean", mean)
    fix("std", std)
    fix("dtype", dtype if isinstance(dtype, str) else jnp.dtype(dtype).name)
    self._check()
    if settings is None:
      settings = tuple(record.settings() for record in OPERATIONS.values())
    fitted = []
    for one in settings:
      keys = type(one).keys()
      own = {n: options.pop(key) for key, n in keys.items() if key in options}
      fitted.append(dataclasses.replace(one, **own).fitted(self.image_size))
    if options:
      raise unknown_key(next(iter(options)))
    object.__setattr__(self, "settings", tuple(fitted))

  def __getitem__(self, operation: str) -> Any:
    """The settings of one operation."""
    for one in self.settings:
      if one.operation == operation:
        return one
    raise errors.unknown("operation", operation, OPERATIONS)

  def __getattr__(self, key: str) -> Any:
    for one in self.__dict__.get("settings", ()):
      name = type(one).keys().get(key)
      if name is not None:
        return getattr(one, name)
    raise AttributeError(f"a policy has no {key!r}")

  @property
  def order(self) -> tuple[str, ...]:
    """The operations' names in the order in which they happen to this view."""
    names = list(OPERATIONS)
    if self["solarize"].place == "after_jitter":
      names.remove("solarize")
      names.insert(names.index("jitter") + 1, "solarize")
    return tuple(names)

  def untouched(self) -> "ViewPolicy":
    """The policy with every operation off: the whole picture, normalised."""
    return self._switched(dict.fromkeys(OPERATIONS, False))

  def only(self, operation: str) -> "ViewPolicy":
    """The policy in which one operation happens to every image, and no other.

    A rotation turns by 0 to 3 quarters, so it leaves a fourth as they are.

    Raises:
      UserError: unknown operation, or one that does not fit the image size.
    """
    if operation not in OPERATIONS:
      for name, record in OPERATIONS.items():
        if operation in [field.name for field in record.fields]:
          raise errors.UserError(
            f"{operation!r} is a field of omega; the operation is {name!r}."
          )
      raise errors.unknown("operation", operation, OPERATIONS)
    return self.untouched()._switched({operation: True})

  def _switched(self, switches: dict[str, bool]) -> "ViewPolicy":
    return self.with_settings(
      one.switched(switches[one.operation])
      for one in self.settings
      if one.operation in switches
    )

  def with_settings(self, changed: Iterable[Settings]) -> "ViewPolicy":
    """The policy with other settings for some operations."""
    new = {one.operation: one for one in changed}
    settings = tuple(new.get(one.operation, one) for one in self.settings)
    return dataclasses.replace(self, settings=settings)

  def _check(self) -> None:
    """Raises a UserError for the first value that makes no sense."""

    def require(good: bool, name: str, rule: str):
      if not good:
        value = getattr(self, name)
        raise errors.UserError(f"augment.{name} must be {rule}, got {value!r}.")

    size = self.image_size
    whole = are_numbers(size, 2) and all(isinstance(n, int) for n in size)
    rule = "one or two integers above 1"
    require(whole and min(size) > 1, "image_size", rule)
    require(are_numbers(self.mean, 3), "mean", "three numbers")
    good = are_numbers(self.std, 3) and min(self.std) > 0
    require(good, "std", "three positive numbers")
    if self.dtype not in DTYPES:
      raise errors.unknown("augment.dtype", self.dtype, DTYPES)


def unknown_key(key: str) -> errors.UserError:
  """The error for a key that no operation has."""
  valid = sorted(k for r in OPERATIONS.values() for k in r.settings.keys())
  near = difflib.get_close_matches(key, valid, n=1)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  return errors.UserError(
    f"unknown key augment.{key}.{hint} Those of operations: {', '.join(valid)}."
  )


def field_ranges(
  policies: Sequence[ViewPolicy],
) -> dict[str, tuple[float, float]]:
  """Field of omega -> least and largest value that any view can have."""
  found = {}
  for record in OPERATIONS.values():
    for one in record.fields:
      ends = [one.range(policy[record.name]) for policy in policies]
      found[one.name] = (min(e[0] for e in ends), max(e[1] for e in ends))
  return found


def active_fields(policies: Sequence[ViewPolicy]) -> tuple[str, ...]:
  """Returns the omega fields that can differ from neutral in some view.

  Args:
    policies: the policies of all views.

  Returns:
    Field names in alphabetical order; conditioning on any other field would
    feed the projector a constant.
  """
  active = {
    one.name
    for record in OPERATIONS.values()
    for one in record.fields
    if any(record.varies(policy[record.name]) for policy in policies)
  }
  return tuple(name for name in fields() if name in active)
