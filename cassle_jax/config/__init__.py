"""Configs: their files, their keys and values, and the commands' flags.

A config file starts from `default()` and changes what it needs; see `load`.
"""

from cassle_jax.config.load import (
  TOP,
  TRAINING,
  apply_override,
  check,
  check_variant,
  default,
  listing,
  load,
  put,
  schema,
  sections,
  tiny,
  to_dict,
)

__all__ = [
  "TOP",
  "TRAINING",
  "apply_override",
  "check",
  "check_variant",
  "default",
  "listing",
  "load",
  "put",
  "schema",
  "sections",
  "tiny",
  "to_dict",
]
