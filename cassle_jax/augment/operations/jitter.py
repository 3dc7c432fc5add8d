"""Colour jitter: brightness, contrast, saturation and hue, in random order.

Contract of the deterministic functions: an image is floating point, in [0, 1],
with its three channels at `axis`; every result is in [0, 1] again, of the same
shape and type. A factor is a scalar, or an array with the image's rank whose
other axes are 1 (for a batch `[B, H, W, 3]`: `[B, 1, 1, 1]`). Each neutral
factor (brightness, contrast and saturation 1, hue 0) returns the image exactly.
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment import forms, planes
from cassle_jax.augment.operation import (
  Field,
  Operation,
  Settings,
  Sweep,
  are_numbers,
  steps,
)

ORDERS = ("image", "batch", "fixed")
SATURATION_FORMS = ("hsv", "blend")
PARAMETERS = ("brightness", "contrast", "saturation", "hue")
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)
# BT.601 luma, whose first weight the published contrast rounds.
_CONTRAST_GRAY = (0.2989, 0.587, 0.114)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JitterSettings(Settings):
  """How colours are jittered.

  Attributes:
    probability: of all four together (key `jitter`).
    strength: of (brightness, contrast, saturation, hue); the first three draw a
      factor from [max(0, 1 - s), 1 + s], hue a turn from [-s, s].
    order: of the four: "image" (drawn per image), "batch" (per batch, as in the
      published code) or "fixed" (brightness, contrast, saturation, hue).
    saturation: "hsv" or "blend" (torchvision's); its key is `saturation`.
  """

  operation: ClassVar[str] = "jitter"

  probability: float = 0.8
  strength: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
  order: str = "image"
  saturation: str = dataclasses.field(
    default="hsv", metadata={"key": "saturation"}
  )

  def check(self):
    strength = self.strength
    good = are_numbers(strength, 4) and min(strength) >= 0
    self.require(
      good and strength[3] <= 0.5,
      "strength",
      "(brightness, contrast, saturation, hue), none negative, hue at most 0.5",
    )
    self.require_one_of("order", ORDERS)
    self.require_one_of("saturation", SATURATION_FORMS)

  @property
  def intervals(self) -> tuple[tuple[float, float], ...]:
    """[lo, hi] of brightness, contrast, saturation (factors), hue (turns)."""
    *factors, hue = self.strength
    return *((max(0.0, 1.0 - s), 1.0 + s) for s in factors), (-hue, hue)

  @property
  def scales(self) -> tuple[float, ...]:
    """1 over each interval's length; 0 where it has none."""
    return tuple(
      1.0 / (high - low) if high > low else 0.0 for low, high in self.intervals
    )


class Jitter(NamedTuple):
  """applied `[B]` bool, factors `[B, 4]` float32, order `[B, 4]` int32.

  Factors are those of brightness, contrast, saturation (1 is neutral) and hue
  (in turns); `order` lists the operations, 0 to 3 as named, first to last.
  """

  applied: jax.Array
  factors: jax.Array
  order: jax.Array


def draw(draws, settings, size, batch_draw) -> Jitter:
  """Draws for one image; see `Operation.draw`."""
  low, high = jnp.asarray(settings.intervals, jnp.float32).T
  order = {
    "image": lambda: draws_lib.order_of_four(draws[5]),
    "batch": lambda: draws_lib.order_of_four(batch_draw),
    "fixed": lambda: jnp.arange(4, dtype=jnp.int32),
  }[settings.order]()
  return Jitter(
    draws_lib.happens(draws[0], settings.probability),
    draws_lib.between(draws[1:5], low, high),
    order,
  )


def effective_factors(parameters: Jitter) -> jax.Array:
  """Returns the factors, neutral where the jitter was not applied."""
  applied = parameters.applied[..., None]
  neutral = jnp.asarray(_NEUTRAL).reshape((1,) * (applied.ndim - 1) + (4,))
  return jnp.where(applied, parameters.factors, neutral)


def adjust_brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Returns clip(factor * image, 0, 1); factor >= 0."""
  return jnp.clip(image * factor, 0.0, 1.0)


def mean_luma(image: jax.Array, *, axis: int = -1) -> jax.Array:
  """Returns the mean grey of each image, the pivot of `adjust_contrast`.

  Args:
    image: `[..., H, W, 3]`, or `[..., 3, H, W]` with axis -3.
    axis: where the channels are, -1 or -3.

  Returns:
    The mean over the last three axes, which become size 1.
  """
  return planes.weighted(
    planes.channel_means(image, axis=axis), _CONTRAST_GRAY, axis
  )


def adjust_contrast(
  image: jax.Array, factor: jax.Array, *, axis: int = -1
) -> jax.Array:
  """Blends with the image's mean grey m: clip(f x + (1 - f) m, 0, 1).

  Args:
    image: `[..., H, W, 3]` in [0, 1].
    factor: f >= 0.
    axis: where the channels are, -1 or -3.
  """
  mean = mean_luma(image, axis=axis)
  return jnp.clip(factor * image + (1.0 - factor) * mean, 0.0, 1.0)


def adjust_saturation(
  image: jax.Array,
  factor: jax.Array,
  *,
  form: str = "hsv",
  axis: int = -1,
) -> jax.Array:
  """Scales the saturation.

  Args:
    image: `[..., H, W, 3]` in [0, 1].
    factor: >= 0.
    form: "hsv" multiplies S of HSV, clipped to 1, keeping H and V (as the
      published code does); "blend" blends with the grey image and clips (as
      torchvision does).
    axis: where the channels are, -1 or -3.
  """
  if form == "blend":
    gray = planes.weighted(image, _CONTRAST_GRAY, axis)
    return jnp.clip(factor * image + (1.0 - factor) * gray, 0.0, 1.0)
  # With H and V fixed, S only scales each channel's distance from V = max, so
  # the round trip through hue is not needed: V - (V - x) min(f, V / (V - min)).
  high, low = _range(image, axis)
  spread = high - low
  limit = high / jnp.where(spread > 0.0, spread, 1.0)
  scale = jnp.where(spread > 0.0, jnp.minimum(factor, limit), 1.0)
  # Written as an increment so that factor 1 returns the image bit for bit.
  return jnp.clip(image + (scale - 1.0) * (image - high), 0.0, 1.0)


def adjust_hue(
  image: jax.Array, shift: jax.Array, *, axis: int = -1
) -> jax.Array:
  """Turns the hue of HSV by `shift` turns, keeping S and V.

  Args:
    image: `[..., H, W, 3]` in [0, 1].
    shift: in turns, any sign; +-0.5 is the opposite hue.
    axis: where the channels are, -1 or -3.
  """
  return adjust_hsv(image, jnp.ones_like(shift), shift, axis=axis)


def adjust_hsv(
  image: jax.Array, factor: jax.Array, shift: jax.Array, *, axis: int = -1
) -> jax.Array:
  """Scales S by `factor`, clipped to 1, and turns H by `shift`: one round trip.

  The same as `adjust_saturation` and `adjust_hue` one after the other, in
  either order.

  Args:
    image: `[..., H, W, 3]` in [0, 1].
    factor: of the saturation, >= 0.
    shift: of the hue, in turns.
    axis: where the channels are, -1 or -3.
  """
  red, green, blue = planes.split(image, axis)
  high, low = _range(image, axis)
  spread = high - low
  scale = 1.0 / jnp.where(spread > 0.0, spread, 1.0)
  # Not `red == high`: a compiler that computes the image once for each side may
  # round it in two ways. Near a tie either sector gives the same hue.
  is_red = (red >= green) & (red >= blue)
  is_green = green >= blue
  # Hue in sixths of a turn, measured from the sector of the largest channel.
  rest = jnp.where(
    is_red, green - blue, jnp.where(is_green, blue - red, red - green)
  )
  sector = jnp.where(is_red, 0.0, jnp.where(is_green, 2.0, 4.0))
  hue = rest * scale + sector + 6.0 * shift
  # All three channels by one formula: f(n) = V - V S max(0, min(k, 4 - k, 1)),
  # k = (n + H) mod 6, n = 5, 3, 1 for red, green, blue.
  turns = (hue + planes.per_channel((5.0, 3.0, 1.0), image, axis)) * (1.0 / 6.0)
  k = 6.0 * (turns - jnp.floor(turns))
  spread = jnp.minimum(factor * spread, high)
  result = high - spread * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)
  return jnp.where((factor == 1.0) & (shift == 0.0), image, result)


def _range(image, axis):
  """Returns the largest and the smallest channel of each pixel."""
  red, green, blue = planes.split(image, axis)
  high = jnp.maximum(jnp.maximum(red, green), blue)
  low = jnp.minimum(jnp.minimum(red, green), blue)
  return high, low


def jitter(
  image: jax.Array,
  factors: jax.Array,
  order: jax.Array,
  *,
  saturation: str = "hsv",
  axis: int = -1,
) -> jax.Array:
  """Applies brightness, contrast, saturation and hue in a traced order.

  Args:
    image: `[H, W, 3]` in [0, 1], or `[3, H, W]` with axis -3.
    factors: `[4]` of brightness, contrast, saturation, hue.
    order: `[4]` int, a permutation: 0 brightness, 1 contrast, 2 saturation,
      3 hue; applied from left to right.
    saturation: "hsv" or "blend", see `adjust_saturation`.
    axis: where the channels are, -1 or -3.
  """
  if saturation == "blend":
    return _jitter_blend(image, factors, order, axis)
  # Without branches, every order is one sequence: HSV, linear, HSV, linear,
  # HSV. Brightness and contrast are the linear steps, in their order.
  # Saturation and hue commute; each goes to the HSV step before, between or
  # after the linear ones, and a step that gets neither is neutral.
  place = jnp.argsort(order)
  brightness_first = place[0] < place[1]
  first = jnp.minimum(place[0], place[1])
  last = jnp.maximum(place[0], place[1])

  def hsv_step(image, after, before):
    here = (place[2:] > after) & (place[2:] < before)
    factor = jnp.where(here[0], factors[2], 1.0)
    shift = jnp.where(here[1], factors[3], 0.0)
    return adjust_hsv(image, factor, shift, axis=axis)

  image = hsv_step(image, -1, first)
  image = _linear_step(image, factors, brightness_first, axis)
  image = hsv_step(image, first, last)
  image = _linear_step(image, factors, ~brightness_first, axis)
  return hsv_step(image, last, 4)


def _linear_step(image, factors, is_brightness, axis):
  """Applies brightness or contrast, whichever a traced bool says."""
  brightness = jnp.where(is_brightness, factors[0], 1.0)
  contrast = jnp.where(is_brightness, 1.0, factors[1])
  mean = mean_luma(image, axis=axis)
  image = brightness * contrast * image + (1.0 - contrast) * mean
  return jnp.clip(image, 0.0, 1.0)


def _jitter_blend(image, factors, order, axis):
  """Every slot is linear, then a turn of the hue, of which one is neutral."""
  for slot in range(4):
    factor, shift = [
      jnp.where(order[slot] == op, factors[op], neutral)
      for op, neutral in ((2, 1.0), (3, 0.0))
    ]
    linear = jnp.where(order[slot] < 2, factors, jnp.ones_like(factors))
    image = _linear_step(image, linear, order[slot] == 0, axis)
    image = adjust_saturation(image, factor, form="blend", axis=axis)
    image = adjust_hue(image, shift, axis=axis)
  return image


def apply(images, parameters, settings, how) -> tuple[jax.Array, jax.Array]:
  """See `Operation.apply`; measures each channel's mean before minus after."""
  before = planes.channel_means(images, axis=-3)
  factors = effective_factors(parameters)
  change = functools.partial(jitter, saturation=settings.saturation, axis=-3)
  images = forms.where_applied(
    how.form,
    parameters.applied,
    lambda images: jax.vmap(change)(images, factors, parameters.order),
    images,
  )
  after = planes.channel_means(images, axis=-3)
  difference = (before - after)[:, :, 0, 0]
  return images, jnp.where(parameters.applied[:, None], difference, 0.0)


def describe(
  parameters, settings, sizes, measured, others
) -> dict[str, jax.Array]:
  """See `Operation.describe`."""
  scale = jnp.asarray(settings.scales, jnp.float32)[None]
  factors = effective_factors(parameters)
  color = (factors - jnp.asarray([_NEUTRAL])) * scale
  return {"color": color, "color_diff": measured}


def varies(settings: JitterSettings) -> bool:
  """Whether some factor can differ from neutral."""
  return settings.on and max(settings.strength) > 0


def _range_of_color(settings: JitterSettings) -> tuple[float, float]:
  ends = [
    (end - neutral) * scale
    for interval, neutral, scale in zip(
      settings.intervals, _NEUTRAL, settings.scales, strict=True
    )
    for end in interval
  ]
  return min(ends), max(ends)


def _sweep(place: int, values: tuple[float, ...], unit: str) -> Sweep:
  def change(still, value, sizes):
    neutral = jnp.broadcast_to(jnp.asarray([_NEUTRAL]), still.factors.shape)
    return still._replace(
      applied=jnp.ones_like(still.applied),
      factors=neutral.at[:, place].set(value),
    )

  def trained(settings):
    drawn = settings.on and settings.strength[place] > 0
    return settings.intervals[place] if drawn else None

  return Sweep(
    name=PARAMETERS[place],
    values=values,
    neutral=_NEUTRAL[place],
    unit=unit,
    set=change,
    trained=trained,
  )


JITTER = Operation(
  title="colour jitter",
  settings=JitterSettings,
  draws=6,
  draw=draw,
  apply=apply,
  fields=(
    Field(
      name="color",
      neutral=(0.0, 0.0, 0.0, 0.0),
      meaning="brightness, contrast, saturation, hue, of the interval",
      range=_range_of_color,
    ),
    Field(
      name="color_diff",
      neutral=(0.0, 0.0, 0.0),
      meaning="mean red, green, blue before minus after",
      range=lambda settings: (-1.0, 1.0),
    ),
  ),
  describe=describe,
  changes="appearance",
  group="color",
  example="jitter=0.8",
  amortised="always",
  varies=varies,
  measures=3,
  sweeps=(
    _sweep(0, steps(0.2, 1.8, 17), "factor"),
    _sweep(1, steps(0.2, 1.8, 17), "factor"),
    _sweep(2, steps(0.0, 2.0, 17), "factor"),
    _sweep(3, steps(-0.5, 0.5, 17), "turns"),
  ),
  common_stream=True,
)
