"""Augmentations whose sampled parameters are part of the result.

Single operations take `(key, image, ...)` and return `(image, omega part)`;
policies `sample` the parameters of whole batches, `apply` and `describe` them.
Everything is pure and can be jitted; importing this loads jax and numpy only.
"""

from cassle_jax.augment import omega, operations, policy, recipes
from cassle_jax.augment.operation import Field, Operation, Settings, Sweep
from cassle_jax.augment.operations import OPERATIONS
from cassle_jax.augment.ops import (
  color_jitter,
  gaussian_blur,
  grayscale,
  horizontal_flip,
  random_resized_crop,
  rotate,
  single,
  solarize,
)
from cassle_jax.augment.parameters import Parameters, sample, share
from cassle_jax.augment.pipeline import (
  View,
  apply,
  describe,
  full_sizes,
  make,
  views,
)
from cassle_jax.augment.policy import (
  ViewPolicy,
  active_fields,
  field_ranges,
)
from cassle_jax.augment.recipes import Preset, build, presets

__all__ = [
  "OPERATIONS",
  "Field",
  "Operation",
  "Parameters",
  "Preset",
  "Settings",
  "Sweep",
  "View",
  "ViewPolicy",
  "active_fields",
  "apply",
  "build",
  "color_jitter",
  "describe",
  "field_ranges",
  "full_sizes",
  "gaussian_blur",
  "grayscale",
  "horizontal_flip",
  "make",
  "omega",
  "operations",
  "policy",
  "presets",
  "random_resized_crop",
  "recipes",
  "rotate",
  "sample",
  "share",
  "single",
  "solarize",
  "views",
]
