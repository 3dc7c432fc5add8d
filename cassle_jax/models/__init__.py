"""Backbones and heads (Flax Linen). `build` makes the networks of one run."""

from cassle_jax.models.build import (
  BACKBONES,
  HEADS,
  MIRRORED,
  Networks,
  build,
)
from cassle_jax.models.convnet import ConvNet
from cassle_jax.models.mlp import MLP
from cassle_jax.models.norm import BatchNorm
from cassle_jax.models.pair_heads import PairHeads
from cassle_jax.models.projector import CONDITIONINGS, ConditionedProjector
from cassle_jax.models.prototypes import Prototypes
from cassle_jax.models.resnet import ResNet
from cassle_jax.models.vit import VisionTransformer

__all__ = [
  "BACKBONES",
  "CONDITIONINGS",
  "HEADS",
  "MIRRORED",
  "MLP",
  "BatchNorm",
  "ConditionedProjector",
  "ConvNet",
  "Networks",
  "PairHeads",
  "Prototypes",
  "ResNet",
  "VisionTransformer",
  "build",
]
