"""The published augmentations, and how the policies of all views are built.

The keyword arguments of `build` are the config section `augment`.
"""

import types
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

from cassle_jax import errors
from cassle_jax.augment.operation import are_numbers
from cassle_jax.augment.operations import OPERATIONS
from cassle_jax.augment.policy import ViewPolicy, unknown_key


class Preset(NamedTuple):
  """The augmentations of one paper, as arguments of `ViewPolicy`.

  Attributes:
    first: of the first global view.
    second: of the second global view.
    local: of each local crop.
    local_views: how many local crops the paper has.
  """

  first: dict[str, Any]
  second: dict[str, Any]
  local: dict[str, Any]
  local_views: int = 0


_CASSLE = dict(
  crop_scale=(0.2, 1.0),
  flip=0.5,
  jitter=0.8,
  jitter_strength=(0.4, 0.4, 0.4, 0.1),
  grayscale=0.2,
  blur=0.5,
  solarize=0.0,
)
_SIMCLR = _CASSLE | dict(
  crop_scale=(0.08, 1.0), jitter_strength=(0.8, 0.8, 0.8, 0.2)
)
_BYOL = _CASSLE | dict(
  crop_scale=(0.08, 1.0), jitter_strength=(0.4, 0.4, 0.2, 0.1)
)
_BYOL_VIEWS = (
  _BYOL | dict(blur=1.0, solarize=0.0),
  _BYOL | dict(blur=0.1, solarize=0.2),
)
# DINO's scale of local crops; also theirs in presets whose papers have none.
_LOCAL = dict(crop_scale=(0.05, 0.4))
# DINO adds local crops to BYOL's views: with blur half the time, no solarising.
_BYOL_LOCAL = _BYOL | _LOCAL

presets: dict[str, Preset] = {
  # CASSLE (arXiv 2306.06082), the augmentations of MoCo-v2.
  "cassle": Preset(_CASSLE, _CASSLE, _CASSLE | _LOCAL),
  # BYOL (arXiv 2006.07733), appendix B; also Barlow Twins.
  "byol": Preset(*_BYOL_VIEWS, _BYOL_LOCAL),
  # MoCo-v3 (arXiv 2104.02057); its ResNet-50 uses the smaller crop range.
  "mocov3_vit": Preset(*_BYOL_VIEWS, _BYOL_LOCAL),
  "mocov3_resnet": Preset(
    *(view | dict(crop_scale=(0.2, 1.0)) for view in _BYOL_VIEWS), _BYOL_LOCAL
  ),
  # SimCLR (arXiv 2002.05709), colour strength 1.
  "simclr": Preset(_SIMCLR, _SIMCLR, _SIMCLR | _LOCAL),
  # SwAV (arXiv 2006.09882), 2 x 224 + 6 x 96.
  "swav": Preset(
    *[_SIMCLR | dict(crop_scale=(0.14, 1.0))] * 2,
    _SIMCLR | dict(crop_scale=(0.05, 0.14)),
    local_views=6,
  ),
  # DINO (arXiv 2104.14294), 2 x 224 + 8 x 96.
  "dino": Preset(
    *(view | dict(crop_scale=(0.4, 1.0)) for view in _BYOL_VIEWS),
    _BYOL_LOCAL,
    local_views=8,
  ),
}


def keys() -> dict[str, Any]:
  """Config keys that override a preset -> the type of their value, or None."""
  overrides = {"mean": Sequence | None, "std": Sequence | None}
  for record in OPERATIONS.values():
    for key, hint in record.settings.hints().items():
      overrides[key] = _one_for_each_view(hint) | None
  return overrides


def _one_for_each_view(hint: Any) -> Any:
  """The type of one value, or of one for each view, from the former's."""
  union = isinstance(hint, types.UnionType)
  options = typing.get_args(hint) if union else (hint,)
  if any(typing.get_origin(option) is tuple for option in options):
    return (float | Sequence) if float in options else Sequence
  return hint | tuple[hint, ...]


def build(
  *,
  preset: str = "cassle",
  image_size: int | tuple[int, int] = 224,
  dtype: str | None = None,
  local_views: int | None = None,
  local_size: int | None = None,
  local_scale: Sequence | None = None,
  **options: Any,
) -> tuple[ViewPolicy, ...]:
  """Builds the policies of all views: a preset with overrides.

  There are two global views and then `local_views` local crops: smaller
  pictures of smaller boxes (multi-crop, SwAV, arXiv 2006.09882).

  One value holds for every view. Where `ViewPolicy` takes one, a tuple of two
  gives one for each global view and leaves the local crops the preset's, and a
  tuple of three gives the third to all local crops, e.g. blur=(1.0, 0.1, 0.5);
  where it takes a tuple, a tuple of tuples does, e.g. crop_scale=((0.08, 1.0),
  (0.2, 1.0)). For `solarize_threshold`, (0.2, 0.8) is an interval and
  ((0.2, 0.8), (0.5, 0.5)) one for each global view. `image_size` and
  `crop_scale` are the global views' alone: local crops have `local_size` and
  `local_scale`.

  Args:
    preset: a name in `presets`.
    image_size: side of the global views in pixels, or (height, width).
    dtype: of the views, "float32" (None) or "bfloat16".
    local_views: number of local crops; None for the preset's, 0 for none.
    local_size: side of the local crops in pixels; None for 96 / 224 of
      `image_size`, to the nearest multiple of 16 and at least 16.
    local_scale: area of a local crop's box relative to the picture, interval.
      Presets whose papers have no local crops have (0.05, 0.4), DINO's.
    **options: what `ViewPolicy` takes, e.g. blur, blur_sigma or mean; None
      keeps the preset's value, or the default of the operation. A
      `blur_kernel` of 0 is about a tenth of the view, which is less for a local
      crop than for a global view.

  Returns:
    One `ViewPolicy` for each view, the two global ones first.

  Raises:
    UserError: the preset or a key is unknown, or a value makes no sense, e.g. a
      blur kernel that the view is too small for.
  """
  known = keys()
  for name in options:
    if name not in known:
      raise unknown_key(name)
  overrides = {n: value for n, value in options.items() if value is not None}
  if dtype is not None:
    overrides["dtype"] = dtype
  if preset not in presets:
    raise errors.unknown("augment.preset", preset, presets)
  chosen = presets[preset]
  if local_views is None:
    local_views = chosen.local_views
  _check_local(local_views, local_size, local_scale)

  of_kind = {
    name: _split(name, v, local_views, known) for name, v in overrides.items()
  }

  def policy(kind: int, base: dict, size: Any) -> ViewPolicy:
    own = {n: v[kind] for n, v in of_kind.items() if kind < len(v)}
    return ViewPolicy(image_size=size, **(base | own))

  views = tuple(
    policy(kind, base, image_size) for kind, base in enumerate(chosen[:2])
  )
  if not local_views:
    return views
  base = chosen.local
  if local_scale is not None:
    base = base | dict(crop_scale=tuple(local_scale))
  size = local_size or tuple(map(_local_side, views[0].image_size))
  return views + (policy(2, base, size),) * local_views


def _split(name: str, value: Any, local_views: int, known: dict) -> tuple:
  """Values of the first and the second global view, and of local crops.

  The third is missing where local crops keep the preset's value.
  """
  sequence = isinstance(value, list | tuple)
  takes_one = Sequence in typing.get_args(known.get(name))
  if not sequence or (
    takes_one and not any(isinstance(v, list | tuple) for v in value)
  ):
    return (value,) * (2 if name == "crop_scale" else 3)
  if len(value) not in (2, 3):
    raise errors.UserError(
      f"augment.{name} must be one value, a tuple of two, one for each global"
      f" view, or of three, the last for local crops; got {value!r}."
    )
  if name == "crop_scale" and len(value) == 3:
    raise errors.UserError(
      f"augment.crop_scale={value!r} has three values, but it concerns the two"
      " global views: local crops have augment.local_scale."
    )
  if len(value) == 3 and not local_views:
    raise errors.UserError(
      f"augment.{name}={value!r} has a third value, for local crops, but there"
      " are none: give two, or set augment.local_views."
    )
  return tuple(value)


def _check_local(count: Any, size: Any, scale: Any) -> None:
  """Raises a UserError for the first argument that makes no sense."""

  def refuse(name, value, rule):
    raise errors.UserError(f"augment.{name} must be {rule}, got {value!r}.")

  if not isinstance(count, int) or isinstance(count, bool) or count < 0:
    refuse("local_views", count, "the number of local crops, 0 for none")
  if size is not None and (not isinstance(size, int) or size < 2):
    refuse("local_size", size, "an integer above 1")
  if scale is not None:
    pair = tuple(scale) if isinstance(scale, list | tuple) else scale
    if not are_numbers(pair, 2) or not 1e-6 <= pair[0] <= pair[1] <= 1:
      refuse("local_scale", scale, "two rising numbers in (0, 1]")
  for name, value in (("local_size", size), ("local_scale", scale)):
    if value is not None and not count:
      raise errors.UserError(
        f"augment.{name}={value!r} concerns local crops, but there are none:"
        " leave it out, or set augment.local_views."
      )


def _local_side(side: int) -> int:
  """The multiple of 16 nearest to 96 / 224 of a side, at least 16."""
  return max(16, 16 * int(side * 96 / 224 / 16 + 0.5))
