"""The ways to make a base method aware of its augmentations, one file each."""

import inspect
from collections.abc import Callable

from cassle_jax.awareness import amortised, augself, ifm, looc
from cassle_jax.awareness.interface import VANILLA, Awareness
from cassle_jax.errors import UserError, unknown


def vanilla() -> Awareness:
  """The base method as it is."""
  return VANILLA


def cassle() -> Awareness:
  """The projector is told omega; how is `model.conditioning`.

  Przewiezlikowski et al. 2023, arXiv 2306.06082.
  """
  return Awareness("cassle", conditioned=True)


AWARENESS: dict[str, Callable[..., Awareness]] = {
  "vanilla": vanilla,
  "cassle": cassle,
  "augself": augself.build,
  "cassle+augself": augself.build,
  "ifm": ifm.build,
  "looc": looc.build,
  "ai": amortised.build,
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
  valid = inspect.signature(AWARENESS[name]).parameters
  for option in options:
    if option not in valid:
      those = f"whose options are {', '.join(sorted(valid))}"
      raise UserError(
        f"awareness.{option} is not used by {name},"
        f" {those if valid else 'which has no options'}; leave it out, or set"
        f" --config.awareness.{option}=None where the config file has it."
      )
  aware = AWARENESS[name](**options)
  told = aware.conditioned or name.startswith("cassle+")
  return aware._replace(name=name, conditioned=told)


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
