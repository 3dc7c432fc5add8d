"""What an instruction of the step is there for, by JAX's name and our line."""

import re

from cassle_jax.preflight.hlo import Instruction

# The first that fits: pattern of the file of this package, or of the name.
_FILES = {
  "augmentation": r"augment/",
  "monitor of collapse": r"step/monitor",
  "loss": r"methods/|awareness/",
  "optimiser": r"optim/",
}
_NAMES = {
  "attention": r"/attn/",
  "MLP of blocks": r"/block\d+/mlp/",
  "LayerNorm": r"/block\d+/norm\d|/norm/",
  "heads": r"\((?:ConditionedProjector|MLP|Prototypes|PairHeads)\)"
  r"|/(?:projector|predictor|prototypes|pair_heads)/",
  "patches": r"/patch_embed/|\(VisionTransformer\)/",
  "BatchNorm": r"/(?:last_)?bn\d*/",
  "convolutions": r"conv",
  "rest of the backbone": r"\((?:ResNet|ConvNet|VisionTransformer)\)",
}
OTHER = "optimiser, target, guard"
PARTS = (*_NAMES, *_FILES, OTHER)

_BY_FILE = {name: re.compile(text) for name, text in _FILES.items()}
_BY_NAME = {name: re.compile(text) for name, text in _NAMES.items()}


def part_of(one: Instruction) -> str:
  """The part of a step that an instruction belongs to, of PARTS.

  A fusion counts where the operation belongs that the compiler named it by.
  """
  for name, pattern in _BY_FILE.items():
    if pattern.match(one.source):
      return name
  text = one.op_name
  for name, pattern in _BY_NAME.items():
    if pattern.search(text):
      return name
  return OTHER
