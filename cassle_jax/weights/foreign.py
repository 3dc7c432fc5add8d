"""All that is taken from a recognised file: backbone, heads, their options."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cassle_jax.errors import UserError
from cassle_jax.models import resnet, vit
from cassle_jax.weights import backbones, beside, families, heads, reader
from cassle_jax.weights.recognize import Found

# omega of the published CASSLE; the alphabetical order is that of its packing.
PUBLISHED_OMEGA = ("blur", "color", "color_diff", "crop", "grayscale")
_PUBLISHED_SIZE = 13
# What trains networks and is no part of them.
_TRAINING = (
  *("optimizer", "optimizers", "scheduler", "schedulers", "scaler", "amp"),
  *("optimizer_states", "lr_schedulers", "dino_loss", "trainer"),
)


class Taken(NamedTuple):
  """What a file gives a run.

  Attributes:
    options: of the config section `model`.
    method: as in `config.method.name`.
    prototypes: how many, 0 = none.
    states: {network: {our name, see `torch_names`: array}}.
    omega_size: numbers of omega that the projector takes; 0 = it is told none.
    image_size: side of the pictures that the backbone was made for, in px.
    normalization: (mean, std).
    augment: what else of that config section the fields of omega need.
    notes: what was taken from tables, in words.
    left: what of the file is not used.
  """

  options: dict[str, Any]
  method: str
  prototypes: int
  states: dict[str, dict[str, np.ndarray]]
  omega_size: int
  image_size: int
  normalization: tuple[tuple[float, ...], tuple[float, ...]]
  augment: dict[str, Any]
  notes: tuple[str, ...]
  left: tuple[str, ...]


def take(
  found: Found,
  *,
  heads: int | None = None,
  pool: str | None = None,
  omega: tuple[str, ...] | None = None,
  conditioning: str | None = None,
  backbone_only: bool = False,
) -> Taken:
  """Reads backbone and heads.

  Args:
    found: from `recognize.recognize`.
    heads, pool: see `backbones.read`.
    omega: fields that the projector is told, where their number leaves it open.
    conditioning: see `heads.conditioned`.
    backbone_only: leave the heads aside.

  Raises:
    UserError: see `backbones.read` and `heads.conditioned`.
  """
  path = found.weights.path
  backbone = backbones.read(found, heads=heads, pool=pool)
  options, states = dict(backbone.options), {"backbone": backbone.state}
  used = set(backbone.used)
  row, told, omega_size, count = found.family, beside.read(path), 0, 0
  method, augment = told.get("method", row.method), {}
  given = {} if backbone_only else _heads(found)
  width = _features(options)
  projector = _projector(given, width, conditioning or told.get("conditioning"))
  if projector is not None:
    options |= projector.options
    options["projector_activation"] = row.activation
    states["projector"] = projector.state
    omega_size = projector.omega_size
    if omega_size:
      if omega is None and "omega" in told:
        omega, augment = tuple(told["omega"]), told.get("augment", {})
      options["omega"] = _fields(found, omega_size, omega)
  outputs = projector.options["projector"][-1] if projector else 0
  predictor = _sequential(given, "predictor")
  if predictor and predictor.inputs == outputs == predictor.widths[-1]:
    if predictor.hidden_norm:
      options |= {
        "predictor": predictor.widths,
        "predictor_norm": predictor.norm,
        "predictor_bias": predictor.last_bias,
      }
      states["predictor"] = predictor.state
  if method is None:
    method = "simclr"
    if "predictor" in states:
      method = "simsiam" if predictor.widths[0] < outputs else "byol"
  found_prototypes = _prototypes(given)
  if found_prototypes and projector:
    state, _ = found_prototypes
    if state["weight"].shape[1] == outputs and method in ("swav", "dino"):
      states["prototypes"], count = state, len(state["weight"])
  for head in ("projector", "predictor", "prototypes"):
    if head in states:
      prefix = families.head_prefix(row, head, found.prefix, found.names)
      used |= {name for name in found.names if name.startswith(prefix)}
  return Taken(
    options=options,
    method=method,
    prototypes=count,
    states=states,
    omega_size=omega_size,
    image_size=_image_size(path) or backbone.image_size,
    normalization=_normalization(found),
    augment=augment,
    notes=backbone.notes,
    left=_left(found, used),
  )


def _heads(found: Found) -> dict[str, dict[str, np.ndarray]]:
  """Arrays of the heads in a file, by head and name behind its prefix."""
  given = {}
  for head in ("projector", "predictor", "prototypes"):
    prefix = families.head_prefix(found.family, head, found.prefix, found.names)
    if prefix is not None:
      with reader.one_line(found.weights.path):
        given[head] = {
          name: tensor.read() for name, tensor in found.below(prefix).items()
        }
  return given


def _projector(given, width, conditioning):
  if not given.get("projector"):
    return None
  return heads.conditioned(given["projector"], width, conditioning=conditioning)


def _sequential(given, head):
  return heads.sequential(given[head]) if given.get(head) else None


def _prototypes(given):
  return (
    heads.prototypes(given["prototypes"]) if "prototypes" in given else None
  )


def _features(options: Mapping[str, Any]) -> int:
  """Size of the backbone's output."""
  name, width = options["backbone"], options["width"]
  if name in resnet.VARIANTS:
    return resnet.ResNet(variant=name, width=width or 64).features
  fields = ("width", "pool")
  network = vit.VisionTransformer(
    variant=name, **{field: options[field] for field in fields}
  )
  return network.features


def _fields(
  found: Found, size: int, omega: tuple[str, ...] | None
) -> tuple[str, ...]:
  if omega is not None:
    return omega
  if size == _PUBLISHED_SIZE:
    return PUBLISHED_OMEGA
  raise UserError(
    f"{found.weights.path}: its projector takes an omega of {size} numbers, and"
    " the file does not say of what; name the fields with"
    " --omega=blur,color,... (the published CASSLE's are"
    f" {','.join(PUBLISHED_OMEGA)}, {_PUBLISHED_SIZE} numbers)."
  )


def _image_size(path: str) -> int:
  """Side in px that a file beside the weights says; 0: none does."""
  told = beside.read(path)
  if "image_size" in told:
    return told["image_size"]
  size = reader.timm_config(path).get("pretrained_cfg", {}).get("input_size")
  if isinstance(size, list) and len(size) == 3:
    if type(size[1]) is int and size[1] == size[2] > 0:
      return size[1]
  return 0


def _normalization(found: Found):
  told = beside.read(found.weights.path)
  if "mean" in told and "std" in told:
    return tuple(told["mean"]), tuple(told["std"])
  timm = reader.timm_config(found.weights.path).get("pretrained_cfg", {})
  pair = timm.get("mean"), timm.get("std")
  if all(isinstance(x, list) and len(x) == 3 for x in pair):
    return tuple(map(tuple, pair))
  return families.NORMALIZATIONS[found.family.normalization]


def _left(found: Found, used: set[str]) -> tuple[str, ...]:
  """What is not used, by module: optimisers are no weights."""
  left: dict[str, int] = {}
  for name in found.names:
    if name in used or name.endswith("num_batches_tracked"):
      continue
    words = name.split(".")
    if words[0] in _TRAINING:
      left[words[0]] = left.get(words[0], 0) + 1
      continue
    top = name.removeprefix(found.prefix).split(".")[0]
    if not name.startswith(found.prefix):
      top = ".".join(words[:2])
    elif found.prefix:
      top = found.prefix + top
    left[top] = left.get(top, 0) + 1
  return tuple(
    f"{name} ({count} arrays)" if count > 1 else name
    for name, count in left.items()
  )
