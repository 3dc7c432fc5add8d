"""The ways to make a base method aware of its augmentations, one file each."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from cassle_jax.awareness import amortised, augself, ifm, looc
from cassle_jax.awareness.interface import VANILLA, Awareness
from cassle_jax.errors import (
  AT_LEAST_0,
  AT_LEAST_1,
  SHARE,
  Range,
  Rules,
  Words,
  require,
  unknown,
)
from cassle_jax.methods.interface import Method, check_options, options_of

# What the numbers of any awareness may be. A weight of 0 or less is a head that
# is off.
RULES = {
  "hidden": AT_LEAST_1,
  "epsilon": AT_LEAST_0,
  "alpha": AT_LEAST_0,
  "descriptors": SHARE,
  "crop_difference": Words(augself.CROP_DIFFERENCES),
}


def rules() -> Rules:
  """`RULES`, and the weight of each field of omega that there is."""
  return RULES | dict.fromkeys(augself.weight_keys(), Range())


def vanilla() -> Awareness:
  """The base method as it is."""
  return VANILLA


def cassle() -> Awareness:
  """The projector is told omega; how is `model.conditioning`.

  Przewiezlikowski et al. 2023, arXiv 2306.06082.
  """
  return Awareness("cassle", conditioned=True)


@functools.wraps(augself.build)
def cassle_and_augself(**options) -> Awareness:
  """AugSelf beside a projector that is told omega; options of `augself.build`.

  Its signature is that one's, so the config knows its keys.
  """
  return augself.build(**options)._replace(conditioned=True)


class Row(NamedTuple):
  """One awareness, and what the rest of the package asks about it.

  Attributes:
    title: its name in print.
    build: keyword arguments -> Awareness.
    color: of its lines and bars, told apart by colour-blind readers too.
    refuses: method -> why it does not go with that; None where it does.
    weights: () -> config keys beside the arguments of `build`, floats.
    cell: what a config of any method has to set for it, {config key: value}.
  """

  title: str
  build: Callable[..., Awareness]
  color: str
  refuses: Callable[[Method], str | None] = lambda method: None
  weights: Callable[[], Iterable[str]] = tuple
  cell: Mapping[str, Any] = {}

  @property
  def options(self) -> set[str]:
    """Its keys of the config's section `awareness`."""
    return {*options_of(self.build), *self.weights()}


# The colours are those of Okabe and Ito.
AWARENESS: dict[str, Row] = {
  "vanilla": Row("vanilla", vanilla, "#767b82"),
  "cassle": Row("CASSLE", cassle, "#d55e00"),
  "augself": Row(
    "AugSelf", augself.build, "#0072b2", weights=augself.weight_keys
  ),
  "cassle+augself": Row(
    "CASSLE + AugSelf",
    cassle_and_augself,
    "#cc79a7",
    weights=augself.weight_keys,
  ),
  "ifm": Row("IFM", ifm.build, "#e69f00", refuses=ifm.refuses),
  "looc": Row(
    "LooC",
    looc.build,
    "#009e73",
    refuses=looc.refuses,
    cell={"augment.rotation": 1.0},
  ),
  "ai": Row("AI", amortised.build, "#56b4e9", cell={"augment.local_views": 0}),
}


def build(*, name: str = "vanilla", **options) -> Awareness:
  """Builds the awareness of that name.

  Args:
    name: a key of `AWARENESS`.
    **options: keyword arguments of that awareness's own `build`.

  Raises:
    UserError: the name, or an option's value, is not a valid one.
  """
  if name not in AWARENESS:
    raise unknown("awareness.name", name, AWARENESS)
  row = AWARENESS[name]
  check_options("awareness", name, options, row.options)
  require("awareness", rules(), **options)
  return row.build(**options)._replace(name=name)


__all__ = [
  "AWARENESS",
  "VANILLA",
  "Awareness",
  "Row",
  "amortised",
  "augself",
  "build",
  "ifm",
  "looc",
]
