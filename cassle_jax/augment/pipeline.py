"""sample, apply, describe: views with replayable parameters.

    parameters = sample(key, policy, sizes)                    # what happens
    images, color_diff = apply(parameters, canvases, sizes, policy)
    omega = describe(parameters, color_diff, sizes, policy)    # what happened

What happens to image i depends on the key, on i and on the image alone, never
on the batch around it or on how it is sharded. `apply` is deterministic.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cassle_jax import errors
from cassle_jax.augment import blur as blur_lib
from cassle_jax.augment import color, geometry
from cassle_jax.augment.omega import Omega
from cassle_jax.augment.policy import ViewPolicy


class Crop(NamedTuple):
  """box `[B, 4]` int32: top, left, height, width in true pixels."""

  box: jax.Array


class Flip(NamedTuple):
  """applied `[B]` bool."""

  applied: jax.Array


class Jitter(NamedTuple):
  """applied `[B]` bool, factors `[B, 4]` float32, order `[B, 4]` int32.

  Factors are those of brightness, contrast, saturation (1 is neutral) and hue
  (in turns); `order` lists the operations, 0 to 3 as named, first to last.
  """

  applied: jax.Array
  factors: jax.Array
  order: jax.Array


class Grayscale(NamedTuple):
  """applied `[B]` bool."""

  applied: jax.Array


class Blur(NamedTuple):
  """applied `[B]` bool, sigma `[B]` float32 in pixels of the view."""

  applied: jax.Array
  sigma: jax.Array


class Solarize(NamedTuple):
  """applied `[B]` bool, threshold `[B]` float32 in [0, 1]."""

  applied: jax.Array
  threshold: jax.Array


class Rotation(NamedTuple):
  """turns `[B]` int32: quarter turns, counter-clockwise."""

  turns: jax.Array


class Parameters(NamedTuple):
  """Everything drawn for a batch of views, one sub-tuple per operation."""

  crop: Crop
  flip: Flip
  jitter: Jitter
  grayscale: Grayscale
  blur: Blur
  solarize: Solarize
  rotation: Rotation


class View(NamedTuple):
  """image `[B, h, w, 3]`, normalised; omega `{field: [B, k] float32}`."""

  image: jax.Array
  omega: Omega


# Folded into a key in place of an image's index for draws per batch.
_WHOLE_BATCH = 2**31 - 1


def full_sizes(images: jax.Array) -> jax.Array:
  """Returns the canvas size as every image's true size: `[B, 2]` int32."""
  size = jnp.asarray(images.shape[1:3], jnp.int32)
  return jnp.broadcast_to(size[None], (images.shape[0], 2))


def sample(key: jax.Array, policy: ViewPolicy, sizes: jax.Array) -> Parameters:
  """Draws what will happen to each image of a batch.

  Args:
    key: PRNG key of this view and step.
    policy: what may happen.
    sizes: `[B, 2]` int32, true (height, width) of each picture.

  Returns:
    `Parameters` with leading dimension B. Each operation draws from a key of
    its own: changing how one is drawn leaves the others' draws alone.
  """
  index = jnp.arange(sizes.shape[0], dtype=jnp.uint32)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
  batch_key = jax.random.fold_in(key, _WHOLE_BATCH)

  def one(key, size):
    return _sample_one(key, batch_key, policy, size)

  return jax.vmap(one)(keys, sizes)


def _sample_one(key, batch_key, policy, size) -> Parameters:
  keys = {
    name: jax.random.fold_in(key, position)
    for position, name in enumerate(Parameters._fields)
  }

  def happens(name, probability):
    return jax.random.uniform(jax.random.fold_in(keys[name], 0)) < probability

  def value(name, interval, shape=()):
    low, high = interval
    draw = jax.random.uniform(jax.random.fold_in(keys[name], 1), shape)
    return low + (high - low) * draw

  box = geometry.whole_box(size)
  if policy.crop:
    box = geometry.draw_box(
      keys["crop"], size, scale=policy.crop_scale, ratio=policy.crop_ratio
    )
  intervals = jnp.asarray([policy.jitter_interval(op) for op in range(4)])
  factors = value("jitter", (intervals[:, 0], intervals[:, 1]), (4,))
  order = jnp.arange(4, dtype=jnp.int32)
  if policy.jitter_order != "fixed":
    per_image = policy.jitter_order == "image"
    order_key = keys["jitter"] if per_image else batch_key
    order = jax.random.permutation(jax.random.fold_in(order_key, 2), order)
  threshold = policy.solarize_threshold
  if not isinstance(threshold, tuple):
    threshold = (threshold, threshold)
  turns = jax.random.randint(jax.random.fold_in(keys["rotation"], 1), (), 0, 4)
  return Parameters(
    crop=Crop(box),
    flip=Flip(happens("flip", policy.flip)),
    jitter=Jitter(happens("jitter", policy.jitter), factors, order),
    grayscale=Grayscale(happens("grayscale", policy.grayscale)),
    blur=Blur(happens("blur", policy.blur), value("blur", policy.blur_sigma)),
    solarize=Solarize(
      happens("solarize", policy.solarize), value("solarize", threshold)
    ),
    rotation=Rotation(
      jnp.where(happens("rotation", policy.rotation), turns, 0)
    ),
  )


def share(
  parameters: Parameters, other: Parameters, names: Sequence[str]
) -> Parameters:
  """Takes the parameters of the named operations from another draw.

  Args:
    parameters: the draw to change.
    other: the draw to take from, for the same batch.
    names: operations, i.e. fields of `Parameters`.

  Returns:
    New parameters: `other`'s for `names`, the rest as they were.

  Raises:
    UserError: a name is no operation.
  """
  for name in names:
    if name not in Parameters._fields:
      raise errors.unknown("operation", name, Parameters._fields)
  return parameters._replace(**{name: getattr(other, name) for name in names})


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
    form: "dense", "banded" or "auto", see `resolve_form`.

  Returns:
    The views `[B, h, w, 3]`, normalised, of `policy.dtype`; and the mean of
    each channel before the jitter minus after it, `[B, 3]` float32.
  """
  resolve_form(form)

  def one(parameters, image, size):
    return _apply_one(parameters, image, size, policy)

  return jax.vmap(one)(parameters, images, sizes)


def resolve_form(form: str) -> str:
  """Chooses how resampling and blur are computed.

  "dense" is whole-batch matrix products without branches, for accelerators;
  "banded" touches only the pixels under each filter and computes only the
  operations that happen, image after image, for CPUs. Both give the same views
  within rounding; "auto" chooses by jax.default_backend() when traced.
  """
  if form == "auto":
    return "banded" if jax.default_backend() == "cpu" else "dense"
  if form not in ("dense", "banded"):
    raise errors.unknown("form", form, ("auto", "dense", "banded"))
  return form


def _apply_one(parameters, image, size, policy):
  # Channels come first from the crop to the end: planes fill vector lanes.
  full = policy.dtype == "float32"
  precision = lax.Precision.HIGHEST if full else lax.Precision.DEFAULT
  if image.dtype == jnp.uint8:
    image = image.astype(jnp.float32) * (1.0 / 255.0)
  image = image.astype(jnp.float32)
  box = geometry.to_canvas(parameters.crop.box, size, image.shape[:2])
  flip = parameters.flip.applied
  image = geometry.crop_dense(image, box, flip, policy.image_size, precision)
  image = jnp.clip(image, 0.0, 1.0)

  color_diff = jnp.zeros((3,))
  if policy.jitter > 0:
    before = jnp.mean(image, axis=(1, 2))
    factors = _effective_factors(parameters.jitter)
    order = parameters.jitter.order
    image = color.jitter_dense(
      image, factors, order, saturation=policy.saturation, axis=-3
    )
    color_diff = before - jnp.mean(image, axis=(1, 2))
  if policy.grayscale > 0:
    gray = color.to_grayscale(image, axis=-3)
    image = jnp.where(parameters.grayscale.applied, gray, image)
  if policy.blur > 0:
    blurred = blur_lib.blur_dense(
      image, parameters.blur.sigma, policy.blur_kernel, precision
    )
    image = jnp.where(parameters.blur.applied, blurred, image)
  if policy.solarize > 0:
    solarized = color.invert_above(image, parameters.solarize.threshold)
    image = jnp.where(parameters.solarize.applied, solarized, image)
  if policy.rotation > 0:
    image = geometry.quarter_turns(
      image, parameters.rotation.turns, axes=(1, 2)
    )
  image = color.normalize(image, policy.mean, policy.std, axis=-3)
  return jnp.moveaxis(image, 0, -1).astype(policy.dtype), color_diff


def _effective_factors(jitter: Jitter) -> jax.Array:
  """Returns the factors, neutral where the jitter was not applied."""
  neutral = jnp.asarray([1.0, 1.0, 1.0, 0.0])
  applied = jitter.applied[..., None]
  neutral = neutral.reshape((1,) * (applied.ndim - 1) + (4,))
  return jnp.where(applied, jitter.factors, neutral)


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

  intervals = [policy.jitter_interval(op) for op in range(4)]
  scale = [1 / (high - low) if high > low else 0.0 for low, high in intervals]
  neutral = jnp.asarray([[1.0, 1.0, 1.0, 0.0]])
  factors = _effective_factors(parameters.jitter)
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
    form: see `resolve_form`.

  Returns:
    One `View` for each policy.
  """
  made = []
  for position, policy in enumerate(policies):
    parameters = sample(jax.random.fold_in(key, position), policy, sizes)
    image, color_diff = apply(parameters, images, sizes, policy, form=form)
    made.append(View(image, describe(parameters, color_diff, sizes, policy)))
  return tuple(made)
