"""AugSelf: heads that predict how two views were augmented differently.

Lee et al. 2021, arXiv 2111.09613, section 3: L = L_ssl + sum_a lambda_a L_a.
Head a sees the backbone's features [y1; y2] of both views and predicts the
difference of their omegas in field a, and from [y2; y1] the reverse.

field                     target and loss
continuous (crop, ...)    omega1 - omega2; squared error of tanh(prediction),
                          mean over rows and numbers
binary (flip, ...), or    1 if both views agree, else 0; logistic loss, mean
compared by agreement     over rows and numbers
turns (rotation)          quarter turns of view 1 minus view 2, modulo 4;
                          cross-entropy

Out of tanh's reach is a difference beyond 1: of blur sigmas, as published, and
of `affine` that of sines or cosines, up to 2, and of logarithms of a scale
where its interval is wider than 2.7 to 1.
Deviation: grayscale and color_diff are not among the published targets; the
published rotation and solarisation targets cannot be used, these can.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cassle_jax import augment
from cassle_jax.augment.omega import Omega
from cassle_jax.awareness.interface import Awareness
from cassle_jax.errors import UserError, unknown
from cassle_jax.methods.interface import Metrics

CROP_DIFFERENCES = ("fixed", "published")
# The published ones; every other field has weight 0.
WEIGHTS = {"crop": 0.5, "color": 0.5}


def targets(
  first: Omega, second: Omega, *, crop_difference: str = "fixed"
) -> Omega:
  """What the heads are to predict of first views relative to second ones.

  Args:
    first: omega of the first views, {field: [B, size]}.
    second: omega of the second views, with the same fields.
    crop_difference: see `augment.omega.difference`.

  Returns:
    {field: [B, size] float32}: differences; for binary fields 1 where both
    views agree; for those that turn a one-hot.
  """
  difference = augment.omega.difference(
    first, second, crop_difference=crop_difference
  )
  known = augment.operations.fields()
  for name, value in difference.items():
    if known[name].kind == "binary" and known[name].compared == "difference":
      difference[name] = (value == 0).astype(jnp.float32)
  return difference


def field_loss(
  field: str, predictions: jax.Array, target: jax.Array
) -> jax.Array:
  """The loss of one head.

  Args:
    field: a field of omega.
    predictions: [n, size], any real numbers.
    target: [n, size] as from `targets`.

  Returns:
    Scalar float32, the mean over rows (and numbers of a row).
  """
  predictions = predictions.astype(jnp.float32)
  record = augment.operations.fields()[field]
  if record.kind == "binary" or record.compared == "agreement":
    return jnp.mean(jax.nn.softplus(predictions) - target * predictions)
  if record.compared == "turn":
    picked = jnp.sum(target * predictions, axis=1)
    return jnp.mean(jax.nn.logsumexp(predictions, axis=1) - picked)
  return jnp.mean(jnp.square(jnp.tanh(predictions) - target))


def objective(
  predictions: Mapping[str, jax.Array],
  target: Omega,
  *,
  weights: Mapping[str, float],
) -> tuple[jax.Array, Metrics]:
  """sum_a weight_a L_a.

  Args:
    predictions: {field: [n, size]}.
    target: {field: [n, size]} as from `targets`, the same rows.
    weights: {field: weight} of the heads to train.

  Returns:
    Scalar float32, and each head's loss, unweighted, as "augself_FIELD".
  """
  losses = {
    field: field_loss(field, predictions[field], target[field])
    for field in weights
  }
  total = sum(weights[field] * losses[field] for field in weights)
  return total, {f"augself_{field}": value for field, value in losses.items()}


def pair_loss(
  predictions: Mapping[str, jax.Array],
  first: Omega,
  second: Omega,
  *,
  weights: Mapping[str, float],
  crop_difference: str = "fixed",
) -> tuple[jax.Array, Metrics]:
  """The objective of both orders of the views.

  Args:
    predictions: {field: [2B, size]}; rows 2b and 2b + 1 are from [y1; y2] and
      from [y2; y1] of pair b.
    first: omega of the first views, {field: [B, size]}.
    second: omega of the second views.
    weights: {field: weight}.
    crop_difference: "fixed", or "published" for parity, which mirrors both
      centres by the flip of the view that comes first in each order.

  Returns:
    As `objective`.
  """
  options = dict(crop_difference=crop_difference)
  there = targets(first, second, **options)
  back = targets(second, first, **options)
  both = {
    field: jnp.stack([there[field], back[field]], axis=1).reshape(
      -1, there[field].shape[-1]
    )
    for field in there
  }
  return objective(predictions, both, weights=weights)


def check(
  policies: tuple[augment.ViewPolicy, ...], *, fields: tuple[str, ...]
) -> None:
  """Raises UserError where a head would learn a constant."""
  # The heads see the first two views; smaller crops may vary in more.
  active = augment.active_fields(policies[:2])
  for field in fields:
    if field not in active:
      raise UserError(
        f"awareness.{field}_weight is above 0, but the augmentation never"
        f" changes {field!r} (its op is off); set"
        f" --config.awareness.{field}_weight=0 or switch the op on in"
        " --config.augment."
      )


def weight_keys() -> dict[str, str]:
  """Config key -> field of omega, e.g. crop_weight -> crop."""
  return {f"{name}_weight": name for name in augment.omega.FIELDS}


def build(
  *,
  crop_difference: str = "fixed",
  hidden: tuple[int, ...] = (512, 512),
  **options: float,
) -> Awareness:
  """AugSelf; the published weights are 0.5 on ImageNet-100, 1.0 on STL-10.

  Args:
    crop_difference: "fixed" mirrors each view's centre by its own flip,
      "published" both by the first view's.
    hidden: sizes of the heads' hidden layers.
    **options: `FIELD_weight`, lambda of that field of omega, for any; crop and
      color have 0.5, all others 0. A weight of 0 or less switches a head off.

  Raises:
    UserError: no weight is above 0, or `crop_difference` is not one of the
      two.
  """
  keys = weight_keys()
  for key in options:
    if key not in keys:
      raise unknown("weight", key, keys)
  given = WEIGHTS | {keys[key]: value for key, value in options.items()}
  if crop_difference not in CROP_DIFFERENCES:
    raise unknown(
      "awareness.crop_difference", crop_difference, CROP_DIFFERENCES
    )
  sizes = augment.omega.FIELDS
  weights = {field: given[field] for field in sizes if given.get(field, 0) > 0}
  if not weights:
    raise UserError(
      "augself has nothing to predict: every weight is 0 or less; set e.g."
      " --config.awareness.crop_weight=0.5, or --config.awareness.name=vanilla."
    )
  return Awareness(
    name="augself",
    check=functools.partial(check, fields=tuple(weights)),
    pair_outputs=tuple((field, sizes[field]) for field in weights),
    pair_hidden=tuple(hidden),
    pair_loss=functools.partial(
      pair_loss, weights=weights, crop_difference=crop_difference
    ),
  )
