"""Backbones of other projects under the names of `torch_names`.

Each function takes the tensors of one backbone by their names behind its prefix
and gives arrays by the names that `torch_names` has: torchvision's for ResNets,
timm's for ViTs, whose position 0 is that of [cls].
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cassle_jax.errors import UserError
from cassle_jax.models.positions import sincos_positions
from cassle_jax.weights import reader
from cassle_jax.weights.tensor import Tensor, Weights

State = dict[str, np.ndarray]

# Places of torchvision's children in Sequential(*children).
_CHILDREN = {"0": "conv1", "1": "bn1"} | {
  str(i + 4): f"layer{i + 1}" for i in range(4)
}
# big_vision's and vit_jax's names of a block's parts: ours.
_BLOCK = {
  "LayerNorm_0": "norm1",
  "MultiHeadDotProductAttention_0": "attn",
  "LayerNorm_1": "norm2",
  "MlpBlock_0": "mlp",
}
_OLD_BLOCK = {
  "LayerNorm_0": "norm1",
  "MultiHeadDotProductAttention_1": "attn",
  "LayerNorm_2": "norm2",
  "MlpBlock_3": "mlp",
}


def has_sincos(
  weights: Weights, names: Mapping[str, str], prefix: str, kind: str
) -> bool | None:
  """Whether a ViT's positions are MoCo v3's; None where it has none."""
  name = f"{prefix}pos_embed"
  if kind != "vit" or name not in names:
    return None
  shape = weights.tensors[names[name]].shape
  side = grid_side(shape[1] - 1) if len(shape) == 3 else 0
  if not side or shape[2] % 4:
    return False
  positions = reader.array(weights, names[name]).astype(np.float32)
  expected = sincos_positions(side, side, shape[2])
  return bool(np.allclose(positions, expected, atol=1e-3))


def grid_side(count: int) -> int:
  """The side of a square grid of so many patches; 0 where it is none."""
  side = round(max(count, 0) ** 0.5)
  return side if side * side == count else 0


def renamed(kind: str, names: Mapping[str, Any]) -> dict[str, str]:
  """Our name -> the file's, for layouts in which nothing else differs."""
  found = {}
  for name in names:
    first, _, rest = name.partition(".")
    new = name
    if kind == "sequential":
      new = f"{_CHILDREN.get(first, first)}.{rest}"
    if kind in ("resnet", "sequential"):
      new = new.replace(".shortcut.", ".downsample.")
    if kind == "vit":
      # DINOv2 writes chunks of blocks: blocks.CHUNK.BLOCK.
      new = re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", new)
      new = re.sub(r"^register_tokens$", "reg_token", new)
    found[new] = name
  return found


def split_swiglu(state: State) -> State:
  """timm packs SwiGLU's two Linear layers under the names of an MLP's."""
  packed = state.get("blocks.0.mlp.fc1.weight")
  second = state.get("blocks.0.mlp.fc2.weight")
  if packed is None or second is None:
    return state
  if packed.shape[0] != 2 * second.shape[1]:
    return state
  return {
    name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3."): x
    for name, x in state.items()
  }


def with_cls_position(state: State) -> State:
  """Adds a position 0 for a [cls] that has its own in it, as timm's reg4."""
  positions, cls = state.get("pos_embed"), state.get("cls_token")
  if positions is None or cls is None or not grid_side(positions.shape[1]):
    return state
  positions = np.pad(positions, ((0, 0), (1, 0), (0, 0)))
  return {**state, "pos_embed": positions}


def big_vision(tensors: Mapping[str, Tensor]) -> State:
  """Google's names and layouts, of big_vision, vit_jax and augreg.

  Queries, keys and values are packed as torch packs them, kernels turned, and
  scanned blocks (one, with the depth as its first axis) are taken apart.
  big_vision adds positions to patches only; old files have one more, for `cls`.
  """
  given = {name: tensor.read() for name, tensor in tensors.items()}
  state = {
    "patch_embed.proj.weight": given["embedding.kernel"].transpose(3, 2, 0, 1),
    "patch_embed.proj.bias": given["embedding.bias"],
  }
  for ours, theirs in (("weight", "scale"), ("bias", "bias")):
    name = f"Transformer.encoder_norm.{theirs}"
    if name in given:
      state[f"norm.{ours}"] = given[name]
  blocks: dict[str, dict[str, np.ndarray]] = {}
  for name, x in given.items():
    match = re.match(r"Transformer\.encoderblock(?:_(\d+))?\.(.*)", name)
    if match and match[1] is not None:
      blocks.setdefault(match[1], {})[match[2]] = x
    elif match:
      for i, part in enumerate(x):
        blocks.setdefault(str(i), {})[match[2]] = part
  for i, block in blocks.items():
    state |= {f"blocks.{i}.{name}": x for name, x in _block(block).items()}
  positions = given.get(
    "pos_embedding", given.get("Transformer.posembed_input.pos_embedding")
  )
  if positions is not None:
    positions = positions.reshape(1, -1, positions.shape[-1])
    if "cls" in given and grid_side(positions.shape[1]):
      positions = np.pad(positions, ((0, 0), (1, 0), (0, 0)))
    state["pos_embed"] = positions
  if "cls" in given:
    state["cls_token"] = given["cls"].reshape(1, 1, -1)
  return state


def _block(block: Mapping[str, np.ndarray]) -> State:
  old = any(name.startswith("MlpBlock_3.") for name in block)
  words = _OLD_BLOCK if old else _BLOCK
  parts: dict[str, dict[str, np.ndarray]] = {}
  for name, x in block.items():
    module, _, rest = name.partition(".")
    if module not in words:
      raise UserError(
        f"a block of this file has {name}, which no block here has; it is no"
        " plain ViT."
      )
    parts.setdefault(words[module], {})[rest] = x
  attention, mlp, made = parts["attn"], parts["mlp"], {}
  size = parts["norm1"]["scale"].size
  three = ("query", "key", "value")
  made["attn.qkv.weight"] = np.concatenate(
    [attention[f"{one}.kernel"].reshape(size, size).T for one in three]
  )
  made["attn.qkv.bias"] = np.concatenate(
    [attention[f"{one}.bias"].reshape(size) for one in three]
  )
  made["attn.proj.weight"] = attention["out.kernel"].reshape(size, size).T
  made["attn.proj.bias"] = attention["out.bias"]
  for i in range(2):
    made[f"mlp.fc{i + 1}.weight"] = mlp[f"Dense_{i}.kernel"].T
    made[f"mlp.fc{i + 1}.bias"] = mlp[f"Dense_{i}.bias"]
  for norm in ("norm1", "norm2"):
    made[f"{norm}.weight"] = parts[norm]["scale"]
    made[f"{norm}.bias"] = parts[norm]["bias"]
  return made


def big_vision_heads(tensors: Mapping[str, Tensor]) -> int | None:
  """Attention heads, which these files do tell."""
  for name, tensor in tensors.items():
    if name.endswith(".query.kernel"):
      return tensor.shape[-2]
  return None


def big_vision_left(names: Mapping[str, Any]) -> list[str]:
  """What `big_vision` does not take."""
  used = re.compile(
    r"embedding\.|cls$|pos_embedding$|Transformer\.(encoder(block|_norm)"
    r"|posembed_input)"
  )
  return [name for name in names if not used.match(name)]
