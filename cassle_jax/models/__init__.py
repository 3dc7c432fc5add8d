"""Backbones and heads (Flax Linen). `build` makes the networks of one run."""

from cassle_jax.models.backbone import Backbone, check_backbone, check_output
from cassle_jax.models.build import (
  BACKBONES,
  HEAD_NAMES,
  MIRRORED,
  NETWORK_NAMES,
  RULES,
  Networks,
  Options,
  build,
)
from cassle_jax.models.convnet import ConvNet
from cassle_jax.models.heads import PairHeads, Prototypes
from cassle_jax.models.mlp import MLP
from cassle_jax.models.norm import BatchNorm
from cassle_jax.models.projector import CONDITIONINGS, ConditionedProjector
from cassle_jax.models.resnet import ResNet
from cassle_jax.models.vit import VisionTransformer

__all__ = [
  "BACKBONES",
  "CONDITIONINGS",
  "HEAD_NAMES",
  "MIRRORED",
  "MLP",
  "NETWORK_NAMES",
  "RULES",
  "Backbone",
  "BatchNorm",
  "ConditionedProjector",
  "ConvNet",
  "Networks",
  "Options",
  "PairHeads",
  "Prototypes",
  "ResNet",
  "VisionTransformer",
  "build",
  "check_backbone",
  "check_output",
]
