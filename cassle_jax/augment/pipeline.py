"""sample, apply, describe: views with replayable parameters.

    parameters = sample(key, policy, sizes)                    # what happens
    images, measured = apply(parameters, canvases, sizes, policy)
    omega = describe(parameters, measured, sizes, policy)      # what happened

`apply` and `describe` are deterministic: the same parameters and image give the
same view and the same omega.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cassle_jax.augment import forms, planes, resample
from cassle_jax.augment.arrays import check_images, check_sizes
from cassle_jax.augment.omega import Omega
from cassle_jax.augment.operation import How
from cassle_jax.augment.operations import OPERATIONS
from cassle_jax.augment.parameters import Parameters, sample
from cassle_jax.augment.policy import ViewPolicy
from cassle_jax.errors import UserError


class View(NamedTuple):
  """image `[B, h, w, 3]`, normalised; omega `{field: [B, k] float32}`."""

  image: jax.Array
  omega: Omega


def full_sizes(images: jax.Array) -> jax.Array:
  """Returns the canvas size as every image's true size: `[B, 2]` int32."""
  if jnp.ndim(images) != 4:
    raise UserError(f"images are {list(jnp.shape(images))}, not [B, H, W, 3].")
  size = jnp.asarray(images.shape[1:3], jnp.int32)
  return jnp.broadcast_to(size[None], (images.shape[0], 2))


def apply(
  parameters: Parameters,
  images: jax.Array,
  sizes: jax.Array,
  policy: ViewPolicy,
  *,
  stored: jax.Array | None = None,
  form: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """Makes the views that the parameters describe; deterministic.

  Args:
    parameters: from `sample`, leading dimension B.
    images: `[B, S, T, 3]` canvases, uint8 or floats in [0, 1].
    sizes: `[B, 2]` int32, true (height, width) of each picture.
    policy: the policy that `parameters` were drawn from. An operation whose
      probability is 0 there is left out of the program.
    stored: `[B, 2]` int32, (height, width) of each picture in the upper left
      corner of its canvas; None: pictures fill their canvases, squashed where
      the true size is another.
    form: how to compute them, "dense", "banded" or "auto"; see `forms`.

  Returns:
    The views `[B, h, w, 3]`, normalised, of `policy.dtype`; and what operations
    measured on the way, side by side, `[B, k]` float32. That is the jitter's
    `color_diff`, k = 3: the mean of each channel before it minus after it.

  Raises:
    UserError: arrays of another shape or type, or, outside of jit, floats that
      do not lie in [0, 1].
  """
  form = forms.resolve(form)
  check_images(images)
  check_sizes(sizes, images.shape[0])
  if stored is None:
    stored = full_sizes(images)
  box = jax.vmap(resample.to_canvas)(parameters["crop"].box, sizes, stored)
  make = functools.partial(_make, policy=policy, form=form)
  if form == "dense":
    views, measured = make((parameters, images, box, stored))
  else:
    height, width = policy.image_size
    views, measured = forms.in_chunks(
      make, (parameters, images, box, stored), height * width
    )
  # XLA's CPU loops convert a whole bfloat16 result in every iteration: views
  # leave them as raw bits.
  if policy.dtype == "bfloat16":
    views = lax.bitcast_convert_type(views, jnp.bfloat16)
  return views, measured


def _make(inputs, *, policy, form):
  """Makes the views of a few images (banded) or of all (dense)."""
  parameters, images, box, stored = inputs
  exact = policy.dtype == "float32"
  precision = lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT
  how = How(form, precision, policy.mean)
  # Channels come first from the crop to the end: planes fill vector lanes.

  def crop(image, box, flip, stored):
    size, options = policy.image_size, dict(form=form, precision=precision)
    return resample.crop_planes(
      image,
      box,
      flip,
      size,
      stored=stored,
      interpolation=policy.interpolation,
      **options,
    )

  images = jax.vmap(crop)(images, box, parameters["flip"].applied, stored)
  measured = {}
  for name in policy.order:
    record, settings, part = OPERATIONS[name], policy[name], None
    if record.apply is not None and settings.on:
      images = record.apply(images, parameters[name], settings, how)
      if record.measures:
        images, part = images
    if record.measures:
      nothing = jnp.zeros((images.shape[0], record.measures))
      measured[name] = nothing if part is None else part
  images = planes.normalize(images, policy.mean, policy.std, axis=-3)
  images = jnp.moveaxis(images, 1, -1).astype(policy.dtype)
  if policy.dtype == "bfloat16":
    images = lax.bitcast_convert_type(images, jnp.uint16)
  parts = [measured[name] for name in OPERATIONS if name in measured]
  return images, jnp.concatenate(parts, axis=1)


def describe(
  parameters: Parameters,
  measured: jax.Array,
  sizes: jax.Array,
  policy: ViewPolicy,
) -> Omega:
  """Describes views: every field of omega.

  Args:
    parameters: what was applied.
    measured: `[B, k]`, by `apply`.
    sizes: `[B, 2]` int32, true (height, width) of each picture.
    policy: gives the intervals that scale some fields.

  Returns:
    Every field of `omega.FIELDS`, `[B, k]` float32.
  """
  omega, place = {}, 0
  for name, record in OPERATIONS.items():
    own = measured[:, place : place + record.measures]
    place += record.measures
    omega |= record.describe(
      parameters[name], policy[name], sizes, own, parameters
    )
  return omega


def make(
  parameters: Parameters,
  images: jax.Array,
  sizes: jax.Array,
  policy: ViewPolicy,
  *,
  stored: jax.Array | None = None,
  form: str = "auto",
) -> View:
  """Makes and describes the views of given parameters; see `apply`."""
  image, measured = apply(
    parameters, images, sizes, policy, stored=stored, form=form
  )
  return View(image, describe(parameters, measured, sizes, policy))


def views(
  key: jax.Array,
  images: jax.Array,
  sizes: jax.Array,
  policies: Sequence[ViewPolicy],
  *,
  stored: jax.Array | None = None,
  form: str = "auto",
) -> tuple[View, ...]:
  """Draws, makes and describes one view of every image for each policy.

  Args:
    key: PRNG key of this step; view v uses fold_in(key, v).
    images: `[B, S, T, 3]` canvases, uint8 or floats in [0, 1].
    sizes: `[B, 2]` int32, true (height, width) of each picture.
    policies: one for each view.
    stored: `[B, 2]` int32, sizes of the pictures on the canvases, see `apply`.
    form: "dense", "banded" or "auto"; see `forms`.

  Returns:
    One `View` for each policy.
  """
  check_images(images)
  check_sizes(sizes, images.shape[0])
  if isinstance(policies, ViewPolicy):
    raise UserError("policies is a single policy; give a tuple, (policy,).")
  made = []
  for position, policy in enumerate(policies):
    parameters = sample(jax.random.fold_in(key, position), policy, sizes)
    made.append(
      make(parameters, images, sizes, policy, stored=stored, form=form)
    )
  return tuple(made)
