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
from cassle_jax.evaluation import confidence, pairs

# Whose mean is the headline of a run: fixed, so that the number means the same
# whatever operations there are.
HEADLINE = (
  "brightness",
  "contrast",
  "saturation",
  "hue",
  "blur",
  "crop",
  "solarize",
  "rotation",
)


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


def sweeps() -> dict[str, augment.Sweep]:
  """What every operation says of its parameters, by the parameter's name.

  As wide as the pictures bear, so that curves of different runs compare; the
  published policies draw from the inner part.
  """
  every = augment.OPERATIONS.values()
  return {sweep.name: sweep for record in every for sweep in record.sweeps}


def fitting(policy: augment.ViewPolicy) -> tuple[str, ...]:
  """The sweeps of those operations that fit a policy's views.

  Views that are not square cannot be turned by quarters.
  """

  def fits(operation: str) -> bool:
    try:
      pairs.only(operation, policy)
    except errors.UserError:
      return False
    return True

  return tuple(
    sweep.name
    for record in augment.OPERATIONS.values()
    if record.sweeps and fits(record.name)
    for sweep in record.sweeps
  )


def operation_of(name: str) -> str:
  """The operation that has this parameter.

  Raises:
    UserError: none has.
  """
  for record in augment.OPERATIONS.values():
    if name in [sweep.name for sweep in record.sweeps]:
      return record.name
  raise errors.unknown("strength curve", name, sweeps())


def measure(
  images: np.ndarray,
  *,
  policy: augment.ViewPolicy,
  encode: Callable[[jax.Array], jax.Array],
  names: Sequence[str],
  batch_size: int = 256,
) -> dict[str, Curve]:
  """Measures a curve for each named parameter.

  Args:
    images: [N, S, T, 3] uint8, or floats in [0, 1].
    policy: of the run: the view's size, the blur's kernel, mean and std.
    encode: images [b, h, w, 3] float32, normalised -> features [b, d], in eval
      mode and jitted.
    names: of `sweeps`.
    batch_size: images at a time; the result does not depend on it.

  Returns:
    {name: Curve}.

  Raises:
    UserError: an unknown name, or no images.
  """
  operations = {name: operation_of(name) for name in names}
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
      policy=pairs.only(operations[name], policy),
      function=encode,
      batch_size=batch_size,
    )
    return pairs.cosine(reference, changed.outputs)

  curves = {}
  for name in names:
    sweep = sweeps()[name]
    cosines = np.stack([similarity(name, value) for value in sweep.values])
    over_images = [
      confidence.interval(row) for row in cosines.astype(np.float64)
    ]
    curves[name] = Curve(
      name=name,
      values=np.asarray(sweep.values, np.float64),
      similarity=cosines,
      mean=np.asarray([interval.mean for interval in over_images]),
      interval=np.asarray([interval.half for interval in over_images]),
      neutral=sweep.neutral,
      unit=sweep.unit,
      trained=trained(name, policy),
    )
  return curves


def parameters(
  name: str,
  value: float,
  sizes: np.ndarray,
  policy: augment.ViewPolicy,
) -> augment.Parameters:
  """What makes t_s(x) of every image.

  Args:
    name: of `sweeps`. "crop" cuts out the middle with the picture's own aspect.
    value: s.
    sizes: [N, 2] int32, (height, width).
    policy: one in which nothing happens, see `pairs.untouched`.
  """
  operation = operation_of(name)
  still = augment.sample(jax.random.key(0), policy, jnp.asarray(sizes))
  changed = sweeps()[name].set(still[operation], value, np.asarray(sizes))
  return still | {operation: changed}


def trained(
  name: str, policy: augment.ViewPolicy
) -> tuple[float, float] | None:
  """The interval of one parameter that a policy draws from, if it does."""
  return sweeps()[name].trained(policy[operation_of(name)])
