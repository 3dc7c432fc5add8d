"""What may happen to a view: the policy and its validation.

A `ViewPolicy` is static (hashable): pass it to jit as such or close over it.
`recipes.build` makes the policies of all views.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.augment import blur as blur_lib

JITTER_ORDERS = ("image", "batch", "fixed")
SATURATION_FORMS = ("hsv", "blend")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewPolicy:
  """How one view is drawn; a probability of 0 turns an operation off.

  Attributes:
    image_size: (height, width) of the view in pixels.
    crop: whether a box is drawn; if not, the box is the whole picture.
    crop_scale: area of the box relative to the picture, uniform.
    crop_ratio: width / height of the box, log-uniform.
    flip: probability of mirroring.
    jitter: probability of the colour jitter.
    jitter_strength: of (brightness, contrast, saturation, hue); the first three
      draw a factor from [max(0, 1 - s), 1 + s], hue a turn from [-s, s].
    jitter_order: of the four: "image" (drawn per image), "batch" (per batch, as
      in the published code) or "fixed" (brightness, contrast, saturation, hue).
    saturation: "hsv" or "blend" (torchvision's).
    grayscale: probability of the conversion to grey.
    blur: probability of the blur.
    blur_sigma: interval of sigma, in pixels of the view, uniform.
    blur_kernel: taps per axis, odd; 0 stands for about a tenth of the view.
    solarize: probability of the solarisation.
    solarize_threshold: a number, or an interval to draw from.
    rotation: probability of a turn by 0 to 3 quarters, all equally likely.
    mean: per channel, subtracted last.
    std: per channel, divided by last.
    dtype: of the view, "float32" or "bfloat16".
  """

  image_size: tuple[int, int] = (224, 224)
  crop: bool = True
  crop_scale: tuple[float, float] = (0.2, 1.0)
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip: float = 0.5
  jitter: float = 0.8
  jitter_strength: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
  jitter_order: str = "image"
  saturation: str = "hsv"
  grayscale: float = 0.2
  blur: float = 0.5
  blur_sigma: tuple[float, float] = (0.1, 2.0)
  blur_kernel: int = 0
  solarize: float = 0.0
  solarize_threshold: float | tuple[float, float] = 0.5
  rotation: float = 0.0
  mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
  std: tuple[float, float, float] = (0.229, 0.224, 0.225)
  dtype: str = "float32"

  def __post_init__(self):
    def fix(name, value):
      object.__setattr__(self, name, value)

    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, list):
        fix(field.name, tuple(value))
    if isinstance(self.image_size, int):
      fix("image_size", (self.image_size, self.image_size))
    if not isinstance(self.dtype, str):
      fix("dtype", jnp.dtype(self.dtype).name)
    _check(self)
    if self.blur_kernel == 0:
      fix("blur_kernel", blur_lib.default_kernel(self.image_size))
    if self.blur > 0:
      blur_lib.check_kernel(self.blur_kernel, self.image_size)

  @property
  def jitter_intervals(self) -> tuple[tuple[float, float], ...]:
    """[lo, hi] of brightness, contrast, saturation (factors), hue (turns)."""
    *factors, hue = self.jitter_strength
    return *((max(0.0, 1.0 - s), 1.0 + s) for s in factors), (-hue, hue)

  @property
  def solarize_interval(self) -> tuple[float, float]:
    """[lo, hi] of the threshold."""
    threshold = self.solarize_threshold
    fixed = not isinstance(threshold, tuple)
    return (threshold, threshold) if fixed else threshold


def _check(policy: ViewPolicy) -> None:
  """Raises a UserError for the first value that makes no sense."""

  def require(good: bool, name: str, rule: str):
    if not good:
      value = getattr(policy, name)
      raise errors.UserError(f"augment.{name} must be {rule}, got {value!r}.")

  def rising(name, low, high, rule):
    value = getattr(policy, name)
    require(
      are_numbers(value, 2) and low <= value[0] <= value[1] <= high, name, rule
    )

  size = policy.image_size
  whole = are_numbers(size, 2) and all(isinstance(n, int) for n in size)
  require(whole and min(size) > 1, "image_size", "one or two integers above 1")
  for name in ("flip", "jitter", "grayscale", "blur", "solarize", "rotation"):
    value = getattr(policy, name)
    good = are_numbers((value,), 1) and 0 <= value <= 1
    require(good, name, "a probability between 0 and 1")
  require(isinstance(policy.crop, bool), "crop", "True or False")
  rising("crop_scale", 1e-6, 1, "two rising numbers in (0, 1]")
  rising("crop_ratio", 1e-6, 1e6, "two rising positive numbers")
  rising("blur_sigma", 1e-6, 1e6, "two rising positive numbers")
  strength = policy.jitter_strength
  require(
    are_numbers(strength, 4) and min(strength) >= 0 and strength[3] <= 0.5,
    "jitter_strength",
    "(brightness, contrast, saturation, hue), none negative, hue at most 0.5",
  )
  for name, valid in (
    ("jitter_order", JITTER_ORDERS),
    ("saturation", SATURATION_FORMS),
    ("dtype", DTYPES),
  ):
    if getattr(policy, name) not in valid:
      raise errors.unknown(f"augment.{name}", getattr(policy, name), valid)
  rule = "a number or two rising ones in [0, 1]"
  if isinstance(policy.solarize_threshold, tuple):
    rising("solarize_threshold", 0, 1, rule)
  else:
    good = are_numbers((policy.solarize_threshold,), 1)
    good = good and 0 <= policy.solarize_threshold <= 1
    require(good, "solarize_threshold", rule)
  require(
    isinstance(policy.blur_kernel, int) and policy.blur_kernel >= 0,
    "blur_kernel",
    "an odd integer, or 0 for about a tenth of the image",
  )
  require(
    policy.rotation == 0 or size[0] == size[1],
    "rotation",
    "0 unless image_size is square",
  )
  require(are_numbers(policy.mean, 3), "mean", "three numbers")
  good = are_numbers(policy.std, 3) and min(policy.std) > 0
  require(good, "std", "three positive numbers")


def are_numbers(value: Any, count: int) -> bool:
  """Returns whether `value` is a tuple of `count` numbers."""
  return (
    isinstance(value, tuple)
    and len(value) == count
    and all(
      isinstance(part, int | float) and not isinstance(part, bool)
      for part in value
    )
  )


def active_fields(policies: Sequence[ViewPolicy]) -> tuple[str, ...]:
  """Returns the omega fields that can differ from neutral in some view.

  Args:
    policies: the policies of all views.

  Returns:
    Field names in alphabetical order; conditioning on any other field would
    feed the projector a constant.
  """

  def colors(policy):
    return policy.jitter > 0 and max(policy.jitter_strength) > 0

  active = {
    "blur": lambda policy: policy.blur > 0,
    "color": colors,
    "color_diff": colors,
    "crop": lambda policy: policy.crop,
    "flip": lambda policy: policy.flip > 0,
    "grayscale": lambda policy: policy.grayscale > 0,
    "rotation": lambda policy: policy.rotation > 0,
    "solarize": lambda policy: policy.solarize > 0,
  }
  return tuple(
    name for name, is_on in active.items() if any(map(is_on, policies))
  )
