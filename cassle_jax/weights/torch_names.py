"""The names and layouts that torch state_dicts give to our variables.

Backbones follow torchvision (ResNets) and MoCo-v3 (ViTs), heads follow the
published CASSLE code; the references of tests/golden are in them too. In both
directions everything is numpy: no torch is needed.

Linear kernels are [in, out] here and [out, in] there, convolution kernels
[h, w, in, out] here and [out, in, h, w] there.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from cassle_jax.errors import UserError

Path = tuple[str, ...]

LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}

# Modules that only amortised backbones have.
AMORTISED = ("embedding", "prompt")


def torch_names(variables: Mapping[str, Any]) -> dict[Path, str]:
  """Names every leaf of a network's variables as torch would.

  Args:
    variables: {"params": tree, "batch_stats": tree} (either may be missing) of
      one network of `Networks`; leaves are not looked at.

  Returns:
    {(collection, ..., leaf): torch name}, e.g. ("params", "layer1_block0",
    "conv1", "kernel") -> "layer1.0.conv1.weight".

  Raises:
    UserError: an amortised backbone, for which torch has no layout.
  """
  paths = list(traverse_util.flatten_dict(dict(variables)))
  modules = {path[1:-1] for path in paths}
  if any(name in AMORTISED for module in modules for name in module):
    raise UserError(
      "an amortised backbone has no torch layout: its convolutions or its"
      " prompt are made from a descriptor; use a backbone of another awareness."
    )
  names = {}
  for path in paths:
    *module, leaf = path[1:]
    parts = [*_module_name(tuple(module), modules)]
    names[path] = ".".join([*parts, LEAVES.get(leaf, leaf)])
  return names


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts variables (or gradients) to a torch state_dict of numpy arrays.

  `num_batches_tracked` and a ViT's fixed `pos_embed` are left out.
  """
  names = torch_names(variables)
  leaves = traverse_util.flatten_dict(dict(variables))
  return {names[path]: _turn(np.asarray(leaf)) for path, leaf in leaves.items()}


def from_torch(
  template: Mapping[str, Any],
  state: Mapping[str, np.ndarray],
  *,
  prefix: str = "",
  ignore: tuple[str, ...] = ("fc.", "head.", "pos_embed"),
) -> dict[str, Any]:
  """Reads variables from a torch state_dict of numpy arrays.

  Args:
    template: variables of the right structure; leaves need only a shape
      (jax.eval_shape of init is enough).
    state: torch name -> array.
    prefix: read only names that start so, e.g. "module.base_encoder.".
    ignore: beginnings of names (after the prefix) that may be left unused.
      Counters named num_batches_tracked always may.

  Returns:
    The variables as numpy arrays, float32.

  Raises:
    UserError: a name is missing, unused or has the wrong shape.
  """
  given = {
    name.removeprefix(prefix): array
    for name, array in state.items()
    if name.startswith(prefix) and not name.endswith("num_batches_tracked")
  }
  names = torch_names(template)
  missing = sorted(set(names.values()) - set(given))
  unused = sorted(set(given) - set(names.values()))
  unused = [name for name in unused if not name.startswith(ignore)]
  if missing or unused:
    raise UserError(
      f"these weights are of another network: missing {_some(missing)},"
      f" unused {_some(unused)} (prefix {prefix!r}); check model.backbone and"
      " the prefix."
    )
  shapes = traverse_util.flatten_dict(dict(template))
  leaves = {}
  for path, name in names.items():
    array = _turn_back(np.asarray(given[name], np.float32))
    if array.shape != tuple(shapes[path].shape):
      raise UserError(
        f"{prefix}{name} is {given[name].shape} in torch's layout and does not"
        f" fit {'/'.join(path)} of shape {tuple(shapes[path].shape)}: check"
        " model.width, the sizes of the heads and patch_size."
      )
    leaves[path] = array
  return traverse_util.unflatten_dict(leaves)


def _module_name(module: Path, modules: set[Path]) -> list[str]:
  """Names one module; `modules` tells what surrounds it."""
  if not module:
    return []
  first, rest = module[0], module[1:]
  if first in ("gamma", "mlp", "hypernetwork"):
    outer = {
      "gamma": "aug_processor",
      "mlp": "projector",
      "hypernetwork": "projector_hn",
    }[first]
    return [outer, _position(rest[0], (first, "bn0") in modules)]
  if any(m[:1] == ("hypernetwork",) for m in modules):
    return ["projector_bns", first.removeprefix("bn")]
  if ("linear0",) in modules or ("bn0",) in modules:
    return [_position(first, ("bn0",) in modules)]
  if first == "patch_embed":
    if not rest:
      return ["patch_embed", "proj"]
    count = sum(m[0] == first and m[1][:4] == "conv" for m in modules if m[1:])
    index = f"linear{count}" if rest[0] == "proj" else rest[0]
    return ["patch_embed", "proj", _position(index, True)]
  block = re.fullmatch(r"layer(\d+)_block(\d+)", first)
  if block:
    inner = {"downsample_conv": ("downsample", "0")}
    inner["downsample_bn"] = ("downsample", "1")
    return [f"layer{block[1]}", block[2], *inner.get(rest[0], rest)]
  block = re.fullmatch(r"block(\d+)", first)
  if block:
    return ["blocks", block[1], *rest]
  if rest and re.fullmatch(r"(linear|bn)\d+", rest[0]):
    return [first, _position(rest[0], (first, "bn0") in modules)]
  return list(module)


def _position(name: str, normed: bool) -> str:
  """Position of linear0, bn0, linear1, ... in a torch Sequential."""
  index = int(re.sub(r"\D", "", name))
  # Linear, BatchNorm, activation; or Linear, activation.
  stride = 3 if normed else 2
  return str(index * stride + name.startswith("bn"))


def _turn(array: np.ndarray) -> np.ndarray:
  if array.ndim == 4:
    return array.transpose(3, 2, 0, 1)
  return array.T if array.ndim == 2 else array


def _turn_back(array: np.ndarray) -> np.ndarray:
  if array.ndim == 4:
    return array.transpose(2, 3, 1, 0)
  return array.T if array.ndim == 2 else array


def _some(names: list[str]) -> str:
  if not names:
    return "none"
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more
