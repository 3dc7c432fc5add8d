"""From a recognised file to the backbone's options and arrays.

Options are keys of the config section `model`; arrays have the names of
`torch_names`, which fit the network that the options make.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cassle_jax.errors import UserError, unknown
from cassle_jax.models import resnet, vit
from cassle_jax.weights import beside, foreign_names, reader
from cassle_jax.weights.recognize import Found

_COUNTER = "num_batches_tracked"


class Backbone(NamedTuple):
  """A backbone of a file.

  Attributes:
    options: of the config section `model`.
    state: our name (see `torch_names`) -> array.
    image_size: side of the pictures that it was made for, in px.
    notes: what shapes could not tell and where it was taken from, in words.
    used: names of the file that went into it.
  """

  options: dict[str, Any]
  state: dict[str, np.ndarray]
  image_size: int
  notes: tuple[str, ...]
  used: frozenset[str]


def read(
  found: Found, *, heads: int | None = None, pool: str | None = None
) -> Backbone:
  """Reads the backbone of a file.

  Args:
    found: from `recognize.recognize`.
    heads: attention heads of a ViT, where the table is not to decide.
    pool: of a ViT, likewise.

  Raises:
    UserError: it is of a kind that there is not here; an option that makes no
      sense of it; names in it that no network here has.
  """
  path, tensors = found.weights.path, found.below(found.prefix)
  is_vit = found.kind in ("vit", "big_vision")
  if not is_vit and (heads is not None or pool is not None):
    flag = "--heads" if heads is not None else "--pool"
    raise UserError(
      f"{flag} is of ViTs, and {path} has a ResNet; leave it out."
    )
  if found.kind == "big_vision":
    with reader.one_line(path):
      state = foreign_names.big_vision(tensors)
    left = foreign_names.big_vision_left(tensors)
    used = frozenset(found.prefix + name for name in tensors) - {
      found.prefix + name for name in left
    }
  else:
    kept = {
      name: tensor
      for name, tensor in tensors.items()
      if not name.endswith(_COUNTER)
      and not any(re.match(each, name) for each in found.family.ignored)
    }
    ours = foreign_names.renamed(found.kind, kept)
    with reader.one_line(path):
      state = {name: kept[real].read() for name, real in ours.items()}
    left = []
    used = frozenset(found.prefix + name for name in kept)
  read_kind = _vit if is_vit else _resnet
  made = read_kind(found, state, heads, pool, left)
  return made._replace(used=used)


def _resnet(found, state, heads, pool, left) -> Backbone:
  path = found.weights.path
  if "layer1.0.conv1.weight" not in state:
    raise UserError(
      f"{path}: a Sequential of lightly's own ResNet, which leaves out its"
      " first ReLU; there is no such backbone here."
    )
  counts = tuple(
    len({n.split(".")[1] for n in state if n.startswith(f"layer{i}.")})
    for i in range(1, 5)
  )
  bottleneck = "layer1.0.conv3.weight" in state
  block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
  names = [k for k, v in resnet.VARIANTS.items() if v == (block, counts)]
  kind = "bottleneck" if bottleneck else "basic"
  if not names:
    raise UserError(
      f"{path} has a ResNet of {counts} {kind} blocks; backbones here are"
      f" {', '.join(resnet.VARIANTS)}."
    )
  width, _, side = _shape(path, state, "conv1.weight", 4)[:3]
  inside = _shape(path, state, "layer1.0.conv2.weight", 4)
  if inside[:2] != (width, width):
    raise UserError(
      f"{path} has a ResNet whose first block is {inside[0]} wide, in groups of"
      f" {inside[1]}, behind a stem of {width}: a ResNeXt or Wide ResNet, which"
      " are no backbones here."
    )
  if side not in (3, 7):
    raise UserError(
      f"{path}: its first convolution is {side}x{side}; stems here are 7x7"
      " (imagenet) and 3x3 (small)."
    )
  if side == 3 and not found.family.small_stem:
    raise UserError(
      f"{path}: {found.family.title} pads its 3x3 stem by 2 px, here it is 1:"
      " the features would be others; it cannot be imported."
    )
  options = {
    "backbone": names[0],
    "width": 0 if width == 64 else width,
    "stem": "imagenet" if side == 7 else "small",
  }
  size = 224 if side == 7 else 32
  return Backbone(options, state, size, (), frozenset())


def _vit(found, state, heads, pool, left) -> Backbone:
  path, row, notes = found.weights.path, found.family, []
  state = foreign_names.split_swiglu(foreign_names.with_cls_position(state))
  if "norm.weight" not in state and "fc_norm.weight" in state:
    raise UserError(
      f"{path} pools its tokens before the last norm (fc_norm); there is no"
      " such backbone here."
    )
  size = _shape(path, state, "norm.weight", 1)[0]
  blocks = {n.split(".")[1] for n in state if n.startswith("blocks.")}
  conv_stem = "patch_embed.proj.0.weight" in state
  if conv_stem:
    stem = [n for n in state if re.fullmatch(r"patch_embed.proj.\d+.weight", n)]
    strides = sum(state[n].ndim == 4 and state[n].shape[2] == 3 for n in stem)
    patch = 2**strides
  else:
    patch = _shape(path, state, "patch_embed.proj.weight", 4)[2]
  options = {
    "backbone": _variant(path, size, len(blocks), conv_stem),
    "width": size,
    "patch_size": patch,
    "frozen_patches": bool(row.sincos) and not conv_stem,
    "class_token": "cls_token" in state,
    "pool": pool or _pool(path, state, left),
    "attention_heads": _heads(found, size, heads, notes),
  }
  if options["pool"] not in vit.POOLS:
    raise unknown("--pool", options["pool"], vit.POOLS)
  if size == vit.VARIANTS[options["backbone"]][0]:
    options["width"] = 0
  if "reg_token" in state:
    options["registers"] = _shape(path, state, "reg_token", 3)[1]
  if "blocks.0.ls1.gamma" in state:
    options["layer_scale"] = 1e-5
  if "blocks.0.mlp.w12.weight" in state:
    options["mlp"] = "swiglu"
  elif (
    found.kind == "big_vision"
    or _arguments(path).get("act_layer") == "gelu_tanh"
  ):
    options["mlp"] = "gelu_tanh"
  grid = _positions(found, state, options)
  if options["pool"] != "cls" and pool is None:
    notes.append(f"features are pooled as {options['pool']!r} (--pool)")
  return Backbone(options, state, grid * patch, tuple(notes), frozenset())


def _positions(found, state, options) -> int:
  """Settles positions; returns the side of their grid."""
  path = found.weights.path
  if "pos_embed" not in state:
    raise UserError(
      f"{path} has no positions (pos_embed); a ViT without them is none of"
      " those that can be read."
    )
  positions = state["pos_embed"]
  count = positions.shape[1] - options["class_token"]
  grid = foreign_names.grid_side(count) if positions.ndim == 3 else 0
  if not grid:
    raise UserError(
      f"{path} has positions of shape {positions.shape}, which are of no square"
      " grid of patches."
    )
  if foreign_names.has_sincos(
    found.weights, found.names, found.prefix, found.kind
  ):
    del state["pos_embed"]
    options["positions"] = "sincos"
  else:
    options["positions"] = "learned"
    options["positions_resize"] = found.family.resize
  options["positions_grid"] = grid
  return grid


def _pool(path: str, state: Mapping[str, Any], left: list[str]) -> str:
  if any(name.startswith("MAPHead") for name in left):
    raise UserError(
      f"{path} pools by an attention of its own (MAPHead), which there is not"
      " here; give --pool=mean for the mean of what it pools."
    )
  told = beside.read(path)
  if "pool" in told:
    return told["pool"]
  if _arguments(path).get("global_pool") == "avg":
    return "mean"
  return "cls" if "cls_token" in state else "mean"


def _arguments(path: str) -> Mapping[str, Any]:
  """What the config.json beside a file of timm gives to its network."""
  found = reader.timm_config(path).get("model_args")
  return found if isinstance(found, dict) else {}


def _heads(found: Found, size: int, given: int | None, notes) -> int:
  path, row = found.weights.path, found.family
  heads, where = given, "--heads"
  if given is None and found.kind == "big_vision":
    tensors = found.below(found.prefix)
    heads, where = foreign_names.big_vision_heads(tensors), "its shapes"
  told = beside.read(path)
  if heads is None and "heads" in told:
    heads, where = told["heads"], beside.NAME
  if heads is None:
    arguments = _arguments(path)
    if "num_heads" in arguments:
      heads, where = arguments["num_heads"], "config.json"
  if heads is None:
    heads, where = row.heads, f"the layout {found.layout!r}"
  if heads is None and row.head_width:
    heads = size // row.head_width if not size % row.head_width else None
    where += f": {row.head_width} numbers each"
  if type(heads) is not int or heads < 1 or size % heads:
    raise UserError(
      f"{path}: tokens of {size} numbers do not divide into"
      f" {heads if heads is not None else 'an unknown number of'} attention"
      f" heads ({where}); give --heads=N, a divisor of {size}."
    )
  notes.append(f"{heads} attention heads, by {where}")
  return heads


def _variant(path: str, size: int, depth: int, conv_stem: bool) -> str:
  fitting = [
    name
    for name, row in vit.VARIANTS.items()
    if row[1] == depth and row[3] == conv_stem
  ]
  if not fitting:
    depths = sorted({r[1] for r in vit.VARIANTS.values() if r[3] == conv_stem})
    raise UserError(
      f"{path} has a ViT of {depth} blocks; those here have"
      f" {', '.join(map(str, depths))}."
    )
  equal = [name for name in fitting if vit.VARIANTS[name][0] == size]
  return (equal or fitting)[0]


def _shape(
  path: str, state: Mapping[str, np.ndarray], name: str, axes: int
) -> tuple[int, ...]:
  """The shape of an array that must be there, with so many axes."""
  if name not in state:
    raise UserError(f"{path} has no {name}, which such a network has.")
  shape = state[name].shape
  if len(shape) != axes:
    raise UserError(
      f"{path}: {name} has the shape {shape}; it is to have {axes} axes."
    )
  return shape
