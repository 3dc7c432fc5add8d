"""The operations, in the order in which they usually happen to a view.

`ViewPolicy.order` is one view's own. Adding one is one file of this folder and
one row here; see CONTRIBUTING.md.
"""

from collections.abc import Iterable

from cassle_jax.augment.operation import Field, Operation
from cassle_jax.augment.operations.affine import AFFINE
from cassle_jax.augment.operations.blur import BLUR
from cassle_jax.augment.operations.crop import CROP
from cassle_jax.augment.operations.erasing import ERASING
from cassle_jax.augment.operations.flip import FLIP
from cassle_jax.augment.operations.grayscale import GRAYSCALE
from cassle_jax.augment.operations.jitter import JITTER
from cassle_jax.augment.operations.rotation import ROTATION
from cassle_jax.augment.operations.sharpness import SHARPNESS
from cassle_jax.augment.operations.solarize import SOLARIZE


def table(*records: Operation) -> dict[str, Operation]:
  """The operations by name, in this order.

  Raises:
    ValueError: two have one name, or one config key, field of omega or sweep:
      one of the two would be lost without a word.
  """

  def check(kind: str, names: Iterable[tuple[str, str]]) -> None:
    owners: dict[str, str] = {}
    for name, owner in names:
      if name in owners:
        raise ValueError(
          f"{owner} has the {kind} {name!r}, and {owners[name]} has it too."
        )
      owners[name] = owner

  check("name", ((r.name, r.title) for r in records))
  check("config key", ((k, r.name) for r in records for k in r.settings.keys()))
  check("field of omega", ((f.name, r.name) for r in records for f in r.fields))
  check("sweep", ((s.name, r.name) for r in records for s in r.sweeps))
  return {record.name: record for record in records}


OPERATIONS = table(
  CROP,
  FLIP,
  AFFINE,
  JITTER,
  GRAYSCALE,
  BLUR,
  SHARPNESS,
  SOLARIZE,
  ERASING,
  ROTATION,
)


def fields() -> dict[str, Field]:
  """All fields of omega by name, in alphabetical order."""
  every = [one for record in OPERATIONS.values() for one in record.fields]
  return {one.name: one for one in sorted(every, key=lambda one: one.name)}


def groups() -> dict[str, tuple[Operation, ...]]:
  """LooC's groups: the operations that are shared together."""
  names = dict.fromkeys(record.group for record in OPERATIONS.values())
  return {
    name: tuple(r for r in OPERATIONS.values() if r.group == name)
    for name in names
  }
