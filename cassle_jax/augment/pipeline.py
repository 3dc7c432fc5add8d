"""sample, apply, describe: views with replayable parameters.

    parameters = sample(key, policy, sizes)                    # what happens
    images, color_diff = apply(parameters, canvases, sizes, policy)
    omega = describe(parameters, color_diff, sizes, policy)    # what happened

`apply` and `describe` are deterministic: the same parameters and image give the
same view and the same omega.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cassle_jax.augment import blur as blur_lib
from cassle_jax.augment import color, forms, geometry
from cassle_jax.augment.omega import Omega
from cassle_jax.augment.parameters import (
  Parameters,
  effective_factors,
  sample,
)
from cassle_jax.augment.policy import ViewPolicy


class View(NamedTuple):
  """image `[B, h, w, 3]`, normalised; omega `{field: [B, k] float32}`."""

  image: jax.Array
  omega: Omega


def full_sizes(images: jax.Array) -> jax.Array:
  """Returns the canvas size as every image's true size: `[B, 2]` int32."""
  size = jnp.asarray(images.shape[1:3], jnp.int32)
  return jnp.broadcast_to(size[None], (images.shape[0], 2))


def apply(
  parameters: Parameters,
  images: jax.Array,
  sizes: jax.Array,
  policy: ViewPolicy,
  *,
  form: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """Makes the views that the parameters describe; deterministic.

  Args:
    parameters: from `sample`, leading dimension B.
    images: `[B, S, T, 3]` canvases, uint8 or floats in [0, 1].
    sizes: `[B, 2]` int32, true (height, width) of each picture.
    policy: the policy that `parameters` were drawn from. An operation whose
      probability is 0 there is left out of the program.
    form: how to compute them, "dense", "banded" or "auto"; see `forms`.

  Returns:
    The views `[B, h, w, 3]`, normalised, of `policy.dtype`; and the mean of
    each channel before the jitter minus after it, `[B, 3]` float32.
  """
  form = forms.resolve(form)
  box = jax.vmap(
    lambda box, size: geometry.to_canvas(box, size, images.shape[1:3])
  )(parameters.crop.box, sizes)
  make = functools.partial(_make, policy=policy, form=form)
  if form == "dense":
    views, color_diff = make((parameters, images, box))
  else:
    height, width = policy.image_size
    views, color_diff = forms.in_chunks(
      make, (parameters, images, box), height * width
    )
  # XLA's CPU loops convert a whole bfloat16 result in every iteration: views
  # leave them as raw bits.
  if policy.dtype == "bfloat16":
    views = lax.bitcast_convert_type(views, jnp.bfloat16)
  return views, color_diff


def _make(inputs, *, policy, form):
  """Makes the views of a few images (banded) or of all (dense)."""
  parameters, images, box = inputs
  exact = policy.dtype == "float32"
  precision = lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT
  # Channels come first from the crop to the end: planes fill vector lanes.
  crop = functools.partial(
    geometry.crop_planes, size=policy.image_size, form=form, precision=precision
  )
  images = jax.vmap(crop)(images, box, parameters.flip.applied)

  color_diff = jnp.zeros((images.shape[0], 3))
  if policy.jitter > 0:
    before = color.channel_means(images, axis=-3)
    factors = effective_factors(parameters.jitter)
    order = parameters.jitter.order
    jitter = functools.partial(
      color.jitter, saturation=policy.saturation, axis=-3
    )
    images = forms.where_applied(
      form,
      parameters.jitter.applied,
      lambda images: jax.vmap(jitter)(images, factors, order),
      images,
    )
    after = color.channel_means(images, axis=-3)
    color_diff = jnp.where(
      parameters.jitter.applied[:, None], (before - after)[:, :, 0, 0], 0.0
    )
  if policy.grayscale > 0:
    images = forms.where_applied(
      form,
      parameters.grayscale.applied,
      lambda images: color.to_grayscale(images, axis=-3),
      images,
    )
  if policy.blur > 0:
    blur = functools.partial(
      blur_lib.blur_planes,
      kernel=policy.blur_kernel,
      form=form,
      precision=precision,
    )
    images = forms.where_applied(
      form,
      parameters.blur.applied,
      lambda images: jax.vmap(blur)(images, parameters.blur.sigma),
      images,
    )
  if policy.solarize > 0:
    applied, threshold = parameters.solarize
    # Nothing reaches a threshold of 2.
    threshold = jnp.where(applied, threshold, 2.0)[:, None, None, None]
    images = color.invert_above(images, threshold)
  if policy.rotation > 0:
    turn = functools.partial(geometry.quarter_turns, axes=(1, 2))
    images = forms.where_applied(
      form,
      parameters.rotation.turns > 0,
      lambda images: jax.vmap(turn)(images, parameters.rotation.turns),
      images,
    )
  images = color.normalize(images, policy.mean, policy.std, axis=-3)
  images = jnp.moveaxis(images, 1, -1).astype(policy.dtype)
  if policy.dtype == "bfloat16":
    images = lax.bitcast_convert_type(images, jnp.uint16)
  return images, color_diff


def describe(
  parameters: Parameters,
  color_diff: jax.Array,
  sizes: jax.Array,
  policy: ViewPolicy,
) -> Omega:
  """Describes views: every field of omega.

  Args:
    parameters: what was applied.
    color_diff: `[B, 3]`, measured by `apply`.
    sizes: `[B, 2]` int32, true (height, width) of each picture.
    policy: gives the intervals that scale `color`.

  Returns:
    `{field: [B, k] float32}` for all of `omega.FIELDS`.
  """
  box = parameters.crop.box.astype(jnp.float32)
  size = sizes.astype(jnp.float32)
  extent = box[:, 2:] / size
  center = (box[:, :2] + 0.5 * box[:, 2:]) / size
  flip = parameters.flip.applied[:, None]
  x_center = jnp.where(flip, 1.0 - center[:, 1:], center[:, 1:])
  crop = jnp.concatenate([center[:, :1], x_center, extent], axis=1)

  scale = [
    1.0 / (high - low) if high > low else 0.0
    for low, high in policy.jitter_intervals
  ]
  neutral = jnp.asarray([[1.0, 1.0, 1.0, 0.0]])
  factors = effective_factors(parameters.jitter)
  blur, solarize = parameters.blur, parameters.solarize
  return {
    "blur": jnp.where(blur.applied, blur.sigma, 0.0)[:, None],
    "color": (factors - neutral) * jnp.asarray(scale, jnp.float32)[None],
    "color_diff": color_diff,
    "crop": crop,
    "flip": flip.astype(jnp.float32),
    "grayscale": parameters.grayscale.applied[:, None].astype(jnp.float32),
    "rotation": jax.nn.one_hot(parameters.rotation.turns, 4),
    "solarize": jnp.where(solarize.applied, solarize.threshold, 1.0)[:, None],
  }


def views(
  key: jax.Array,
  images: jax.Array,
  sizes: jax.Array,
  policies: Sequence[ViewPolicy],
  *,
  form: str = "auto",
) -> tuple[View, ...]:
  """Draws, makes and describes one view of every image for each policy.

  Args:
    key: PRNG key of this step; view v uses fold_in(key, v).
    images: `[B, S, T, 3]` canvases, uint8 or floats in [0, 1].
    sizes: `[B, 2]` int32, true (height, width) of each picture.
    policies: one for each view.
    form: "dense", "banded" or "auto"; see `forms`.

  Returns:
    One `View` for each policy.
  """
  made = []
  for position, policy in enumerate(policies):
    parameters = sample(jax.random.fold_in(key, position), policy, sizes)
    image, color_diff = apply(parameters, images, sizes, policy, form=form)
    made.append(View(image, describe(parameters, color_diff, sizes, policy)))
  return tuple(made)
