"""What may happen to a view: the policy, the presets, their validation.

A `ViewPolicy` is static (hashable): pass it to jit as such or close over it.
The keyword arguments of `build` are the config section `augment`.
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
      _numbers(value, 2) and low <= value[0] <= value[1] <= high, name, rule
    )

  size = policy.image_size
  whole = _numbers(size, 2) and all(isinstance(n, int) for n in size)
  require(whole and min(size) > 1, "image_size", "one or two integers above 1")
  for name in ("flip", "jitter", "grayscale", "blur", "solarize", "rotation"):
    value = getattr(policy, name)
    good = _numbers((value,), 1) and 0 <= value <= 1
    require(good, name, "a probability between 0 and 1")
  require(isinstance(policy.crop, bool), "crop", "True or False")
  rising("crop_scale", 1e-6, 1, "two rising numbers in (0, 1]")
  rising("crop_ratio", 1e-6, 1e6, "two rising positive numbers")
  rising("blur_sigma", 1e-6, 1e6, "two rising positive numbers")
  strength = policy.jitter_strength
  require(
    _numbers(strength, 4) and min(strength) >= 0 and strength[3] <= 0.5,
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
    good = _numbers((policy.solarize_threshold,), 1)
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
  require(_numbers(policy.mean, 3), "mean", "three numbers")
  good = _numbers(policy.std, 3) and min(policy.std) > 0
  require(good, "std", "three positive numbers")


def _numbers(value: Any, count: int) -> bool:
  """Whether `value` is a tuple of so many numbers."""
  return (
    isinstance(value, tuple)
    and len(value) == count
    and all(
      isinstance(part, int | float) and not isinstance(part, bool)
      for part in value
    )
  )


_CASSLE = dict(
  crop_scale=(0.2, 1.0),
  flip=0.5,
  jitter=0.8,
  jitter_strength=(0.4, 0.4, 0.4, 0.1),
  grayscale=0.2,
  blur=0.5,
  solarize=0.0,
)
_BYOL = _CASSLE | dict(
  crop_scale=(0.08, 1.0), jitter_strength=(0.4, 0.4, 0.2, 0.1)
)
_BYOL_VIEWS = (
  _BYOL | dict(blur=1.0, solarize=0.0),
  _BYOL | dict(blur=0.1, solarize=0.2),
)
_SIMCLR = _CASSLE | dict(
  crop_scale=(0.08, 1.0), jitter_strength=(0.8, 0.8, 0.8, 0.2)
)

# One dict of ViewPolicy arguments for each of the two views.
presets: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
  # CASSLE (arXiv 2306.06082), the augmentations of MoCo-v2.
  "cassle": (_CASSLE, _CASSLE),
  # BYOL (arXiv 2006.07733), appendix B; also Barlow Twins.
  "byol": _BYOL_VIEWS,
  # MoCo-v3 (arXiv 2104.02057); its ResNet-50 uses the smaller crop range.
  "mocov3_vit": _BYOL_VIEWS,
  "mocov3_resnet": tuple(
    view | dict(crop_scale=(0.2, 1.0)) for view in _BYOL_VIEWS
  ),
  # SimCLR (arXiv 2002.05709), colour strength 1.
  "simclr": (_SIMCLR, _SIMCLR),
}


def build(
  *,
  preset: str = "cassle",
  image_size: int | tuple[int, int] = 224,
  crop: bool | tuple[bool, bool] | None = None,
  crop_scale: Sequence | None = None,
  crop_ratio: Sequence | None = None,
  flip: float | tuple[float, float] | None = None,
  jitter: float | tuple[float, float] | None = None,
  jitter_strength: Sequence | None = None,
  jitter_order: str | None = None,
  saturation: str | None = None,
  grayscale: float | tuple[float, float] | None = None,
  blur: float | tuple[float, float] | None = None,
  blur_sigma: Sequence | None = None,
  blur_kernel: int | None = None,
  solarize: float | tuple[float, float] | None = None,
  solarize_threshold: float | Sequence | None = None,
  rotation: float | tuple[float, float] | None = None,
  mean: Sequence | None = None,
  std: Sequence | None = None,
  dtype: str | None = None,
) -> tuple[ViewPolicy, ...]:
  """Builds the policies of the two views: a preset with overrides.

  None keeps the preset's value (or the default of `ViewPolicy`, which lists
  what each argument means). One value holds for both views. Where `ViewPolicy`
  takes one number or bool, a tuple of two gives one for each view, e.g.
  blur=(1.0, 0.1); where it takes a tuple, a tuple of two tuples does, e.g.
  crop_scale=((0.08, 1.0), (0.2, 1.0)). For `solarize_threshold`, (0.2, 0.8) is
  an interval and ((0.2, 0.8), (0.5, 0.5)) one for each view.

  Args:
    preset: a name in `presets`.
    image_size: side of the view in pixels, or (height, width).
    crop: see `ViewPolicy`, as for all the others.
    crop_scale: interval.
    crop_ratio: interval.
    flip: probability.
    jitter: probability.
    jitter_strength: four numbers.
    jitter_order: "image", "batch" or "fixed".
    saturation: "hsv" or "blend".
    grayscale: probability.
    blur: probability.
    blur_sigma: interval.
    blur_kernel: odd number of taps; 0 or None for about image_size / 10.
    solarize: probability.
    solarize_threshold: number or interval.
    rotation: probability.
    mean: three numbers.
    std: three numbers.
    dtype: "float32" or "bfloat16".

  Returns:
    One `ViewPolicy` for each view.

  Raises:
    UserError: the preset is unknown or a value makes no sense, e.g. a blur
      kernel that the image is too small for.
  """
  overrides = {
    name: value
    for name, value in locals().items()
    if name not in ("preset", "image_size") and value is not None
  }
  if preset not in presets:
    raise errors.unknown("augment.preset", preset, presets)
  policies = []
  for view, base in enumerate(presets[preset]):
    chosen = {
      name: _of_view(name, value, view) for name, value in overrides.items()
    }
    policies.append(ViewPolicy(image_size=image_size, **(base | chosen)))
  return tuple(policies)


_SEQUENCES = (
  "crop_scale",
  "crop_ratio",
  "jitter_strength",
  "blur_sigma",
  "solarize_threshold",
  "mean",
  "std",
)


def _of_view(name: str, value: Any, view: int) -> Any:
  """Picks the value of one view out of an override."""
  sequence = isinstance(value, list | tuple)
  if not sequence or (name in _SEQUENCES and not _nested(value)):
    return value
  if len(value) != 2:
    raise errors.UserError(
      f"augment.{name} must be one value, or a tuple of two, one for each"
      f" view; got {value!r}."
    )
  return value[view]


def _nested(value: Sequence) -> bool:
  return any(isinstance(part, list | tuple) for part in value)


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
