"""The joint-embedding methods: one file each, one row of `METHODS` each."""

import inspect

from cassle_jax.errors import UserError, unknown
from cassle_jax.methods import (
  barlow_twins,
  byol,
  mocov2,
  mocov3,
  simclr,
  simsiam,
  vicreg,
)
from cassle_jax.methods.interface import Branch, Heads, Method

METHODS = {
  "simclr": simclr.build,
  "mocov2": mocov2.build,
  "mocov3": mocov3.build,
  "byol": byol.build,
  "simsiam": simsiam.build,
  "barlow_twins": barlow_twins.build,
  "vicreg": vicreg.build,
}


def build(*, name: str = "simclr", vit: bool = False, **options) -> Method:
  """Builds the method of that name.

  Args:
    name: a key of `METHODS`.
    vit: whether the backbone is a vision transformer.
    **options: keyword arguments of that method's own `build`.

  Raises:
    UserError: the name, or an option's value, is not a valid one.
  """
  if name not in METHODS:
    raise unknown("method.name", name, METHODS)
  valid = inspect.signature(METHODS[name]).parameters
  for option in options:
    if option not in valid:
      raise UserError(
        f"method.{option} is not used by {name}, whose options are"
        f" {', '.join(sorted(set(valid) - {'vit'}))}; leave it out."
      )
  return METHODS[name](vit=vit, **options)


__all__ = [
  "METHODS",
  "Branch",
  "Heads",
  "Method",
  "barlow_twins",
  "build",
  "byol",
  "mocov2",
  "mocov3",
  "simclr",
  "simsiam",
  "vicreg",
]
