"""How similar features stay as one operation gets stronger.

The same picture as it is, x, and after an operation whose parameter s goes
through a range, t_s(x): the mean cosine of their features over the images, for
each s. Nothing is drawn, and nothing but s differs along a curve.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax import augment, errors
from cassle_jax.augment import parameters as parameters_lib
from cassle_jax.evaluation import confidence, pairs


class Sweep(NamedTuple):
  """One parameter of one operation.

  Attributes:
    operation: a name in `pairs.OPERATIONS`.
    values: from one end of the range to the other.
    neutral: the value that leaves the picture as it is.
    unit: of the values, for people.
  """

  operation: str
  values: tuple[float, ...]
  neutral: float
  unit: str


class Curve(NamedTuple):
  """Similarity of features along one sweep.

  Attributes:
    name: of the parameter.
    values: [S] float64, the parameter.
    similarity: [S, N] float32, cosine of x and t_s(x) for each image.
    mean: [S] float64 over the images.
    interval: [S] float64, half-width of the mean's 95% interval over the
      images; nan for one image.
    neutral: the value that leaves the picture as it is.
    unit: of the values, for people.
    trained: the interval that the policy draws from, or None where it draws no
      such parameter.
  """

  name: str
  values: np.ndarray
  similarity: np.ndarray
  mean: np.ndarray
  interval: np.ndarray
  neutral: float
  unit: str
  trained: tuple[float, float] | None


def _steps(low: float, high: float, count: int) -> tuple[float, ...]:
  return tuple(np.round(np.linspace(low, high, count), 6).tolist())


# As wide as the pictures bear, so that curves of different runs compare; the
# published policies draw from the inner part.
SWEEPS = {
  "brightness": Sweep("color", _steps(0.2, 1.8, 17), 1.0, "factor"),
  "contrast": Sweep("color", _steps(0.2, 1.8, 17), 1.0, "factor"),
  "saturation": Sweep("color", _steps(0.0, 2.0, 17), 1.0, "factor"),
  "hue": Sweep("color", _steps(-0.5, 0.5, 17), 0.0, "turns"),
  "blur": Sweep("blur", (0.0, *_steps(0.25, 3.0, 12)), 0.0, "sigma in pixels"),
  "crop": Sweep(
    "crop", (0.05, 0.08, *_steps(0.1, 1.0, 10)), 1.0, "share of the area"
  ),
  "solarize": Sweep("solarize", _steps(0.0, 1.0, 11), 1.0, "threshold"),
  "rotation": Sweep("rotation", (0.0, 1.0, 2.0, 3.0), 0.0, "quarter turns"),
}
_JITTER = ("brightness", "contrast", "saturation", "hue")


def measure(
  images: np.ndarray,
  *,
  policy: augment.ViewPolicy,
  encode: Callable[[jax.Array], jax.Array],
  names: Sequence[str] = tuple(SWEEPS),
  sweeps: dict[str, Sweep] | None = None,
  batch_size: int = 256,
) -> dict[str, Curve]:
  """Measures a curve for each named parameter.

  Args:
    images: [N, S, T, 3] uint8, or floats in [0, 1].
    policy: of the run: the view's size, the blur's kernel, mean and std.
    encode: images [b, h, w, 3] float32, normalised -> features [b, d], in eval
      mode and jitted.
    names: of SWEEPS.
    sweeps: other ranges, by name; None for SWEEPS.
    batch_size: images at a time; the result does not depend on it.

  Returns:
    {name: Curve}.

  Raises:
    UserError: an unknown name, or no images.
  """
  sweeps = SWEEPS if sweeps is None else sweeps
  for name in names:
    if name not in sweeps:
      raise errors.unknown("strength curve", name, sweeps)
  sizes = np.asarray(augment.full_sizes(images))
  still = pairs.untouched(policy)
  reference = pairs.encode(
    jax.random.key(0),
    images,
    policy=still,
    function=encode,
    batch_size=batch_size,
  ).outputs

  def similarity(name: str, value: float) -> np.ndarray:
    changed = pairs.encode_views(
      jax.device_get(parameters(name, value, sizes, still)),
      images,
      policy=pairs.only(sweeps[name].operation, policy),
      function=encode,
      batch_size=batch_size,
    )
    return pairs.cosine(reference, changed.outputs)

  return {
    name: _curve(
      name,
      sweeps[name],
      np.stack([similarity(name, value) for value in sweeps[name].values]),
      trained(name, policy),
    )
    for name in names
  }


def parameters(
  name: str,
  value: float,
  sizes: np.ndarray,
  policy: augment.ViewPolicy,
) -> augment.Parameters:
  """What makes t_s(x) of every image.

  Args:
    name: of SWEEPS. "crop" cuts out the middle with the picture's own aspect.
    value: s.
    sizes: [N, 2] int32, (height, width).
    policy: one in which nothing happens, see `pairs.untouched`.
  """
  count = len(sizes)
  still = augment.sample(jax.random.key(0), policy, jnp.asarray(sizes))
  always = jnp.ones((count,), bool)
  every = jnp.full((count,), value, jnp.float32)
  if name in _JITTER:
    factors = jnp.tile(jnp.float32([[1.0, 1.0, 1.0, 0.0]]), (count, 1))
    factors = factors.at[:, _JITTER.index(name)].set(value)
    jitter = parameters_lib.Jitter(always, factors, still.jitter.order)
    return still._replace(jitter=jitter)
  if name == "blur":
    return still._replace(blur=parameters_lib.Blur(always, every))
  if name == "solarize":
    return still._replace(solarize=parameters_lib.Solarize(always, every))
  if name == "rotation":
    turns = every.astype(jnp.int32) % 4
    return still._replace(rotation=parameters_lib.Rotation(turns))
  if name == "crop":
    box = np.maximum(np.round(np.sqrt(value) * sizes), 1).astype(np.int32)
    corner = (sizes - box) // 2
    box = jnp.asarray(np.concatenate([corner, box], axis=1))
    return still._replace(crop=parameters_lib.Crop(box))
  raise errors.unknown("strength curve", name, SWEEPS)


def trained(
  name: str, policy: augment.ViewPolicy
) -> tuple[float, float] | None:
  """The interval of one parameter that a policy draws from, if it does."""
  if name in _JITTER:
    place = _JITTER.index(name)
    drawn = policy.jitter > 0 and policy.jitter_strength[place] > 0
    return policy.jitter_intervals[place] if drawn else None
  if name == "blur":
    return policy.blur_sigma if policy.blur > 0 else None
  if name == "crop":
    return policy.crop_scale if policy.crop else None
  if name == "solarize":
    return policy.solarize_interval if policy.solarize > 0 else None
  return (0.0, 3.0) if policy.rotation > 0 else None


def _curve(name, sweep, similarity, trained_interval) -> Curve:
  over_images = [
    confidence.interval(row) for row in similarity.astype(np.float64)
  ]
  return Curve(
    name=name,
    values=np.asarray(sweep.values, np.float64),
    similarity=similarity,
    mean=np.asarray([interval.mean for interval in over_images]),
    interval=np.asarray([interval.half for interval in over_images]),
    neutral=sweep.neutral,
    unit=sweep.unit,
    trained=trained_interval,
  )
