"""The ways to make a base method aware of its augmentations, one file each."""

import functools
from collections.abc import Callable

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
from cassle_jax.methods.interface import check_options, options_of

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


AWARENESS: dict[str, Callable[..., Awareness]] = {
  "vanilla": vanilla,
  "cassle": cassle,
  "augself": augself.build,
  "cassle+augself": cassle_and_augself,
  "ifm": ifm.build,
  "looc": looc.build,
  "ai": amortised.build,
}


def options_by_name(name: str) -> set[str]:
  """The options of one awareness, a weight for each field of omega included."""
  valid = set(options_of(AWARENESS[name]))
  if "options" in valid:
    valid = valid - {"options"} | set(augself.weight_keys())
  return valid


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
  check_options("awareness", name, options, options_by_name(name))
  require("awareness", rules(), **options)
  return AWARENESS[name](**options)._replace(name=name)


__all__ = [
  "AWARENESS",
  "VANILLA",
  "Awareness",
  "amortised",
  "augself",
  "build",
  "ifm",
  "looc",
]
