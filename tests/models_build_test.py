"""build(), its errors, and weights to torch's names and back."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_variables import make

from cassle_jax import models
from cassle_jax.errors import UserError
from cassle_jax.models import convnet
from cassle_jax.weights import torch_names


def variables_of(networks, size=16):
  """Random variables of each network."""
  features = jnp.zeros((2, networks.backbone.features))
  trees = {
    "backbone": make(networks.backbone, jnp.zeros((2, size, size, 3))),
    "projector": make(networks.projector, features, jnp.zeros((2, 14))),
  }
  if networks.predictor is not None:
    z = jnp.zeros((2, networks.projector.widths[-1]))
    trees["predictor"] = make(networks.predictor, z)
  return trees


def test_zero_stands_for_the_feature_size():
  networks = models.build(backbone="resnet50", projector=(0, 0, 128))
  assert networks.projector.widths == (2048, 2048, 128)
  assert networks.predictor is None
  assert networks.frozen == ()


def test_heads_of_mocov3_vits():
  networks = models.build(
    backbone="vit_small",
    projector=(4096, 4096, 256),
    projector_norm="plain",
    predictor=(4096, 256),
    predictor_norm="plain",
  )
  assert networks.frozen == ("backbone/patch_embed",)
  assert networks.projector.norm == networks.predictor.norm == "plain"
  assert networks.predictor.widths == (4096, 256)


def test_frozen_names_exist_and_follow_the_option():
  networks = models.build(backbone="vit_debug", image_size=16, patch_size=8)
  params = variables_of(networks)["backbone"]["params"]
  for prefix in networks.frozen:
    first, name = prefix.split("/")
    assert first == "backbone" and name in params
  thawed = models.build(backbone="vit_debug", frozen_patches=False)
  assert thawed.frozen == ()
  assert models.build(backbone="vit_conv_small").frozen == ()


@pytest.mark.parametrize(
  "options, match",
  [
    ({"backbone": "resnet19"}, "Did you mean 'resnet18'"),
    ({"conditioning": "concatt"}, "Did you mean 'concat'"),
    ({"projector_norm": "bn"}, "projector_norm 'bn'"),
    ({"predictor_norm": "bn"}, "predictor_norm 'bn'"),
    ({"stem": "tiny"}, "imagenet, small, space_to_depth"),
    ({"stem": "small", "backbone": "vit_small"}, "ResNets"),
    ({"stem": "space_to_depth", "stem_factor": 3}, "stem_factor"),
    ({"backbone": "conv4", "norm": "layer"}, "batch, group"),
    ({"norm": "gruop"}, "model.norm 'gruop'. Did you mean 'group'"),
    ({"norm": "group"}, "model.norm='group' .* conv nets, not to resnet18"),
    ({"backbone": "vit_small", "norm": "layer"}, "model.norm 'layer'"),
    ({"backbone": "vit_small", "norm": "group"}, "conv nets, not to vit_small"),
    (
      {"backbone": "conv3", "norm": "group", "width": 50},
      "model.width=50 .* use model.width=51 or",
    ),
    # 25 channels are 1 group, but 50 would be 3; 24 are 1 and 48 are 3.
    (
      {"backbone": "conv2", "norm": "group", "width": 25},
      "model.width=25 .* use model.width=24 or",
    ),
    ({"conv_init": "torchh"}, "model.conv_init 'torchh'.*Did you mean 'torch'"),
    ({"conv_init": "torch", "backbone": "vit_small"}, "not to vit_small"),
    ({"backbone": "conv4", "image_size": 31}, "image_size=31"),
    ({"backbone": "conv4", "remat": True}, "remat"),
    ({"backbone": "vit_small", "patch_size": 15}, "patch_size=15"),
    ({"backbone": "vit_small", "width": 100}, "width=100"),
    ({"backbone": "vit_small", "attention": "flash"}, "auto, cudnn, xla"),
    (
      {"backbone": "vit_conv_small", "patch_size": 14},
      "convolution stem",
    ),
    ({"projector": ()}, "model.projector"),
    ({"projector": (512, 0)}, "model.projector"),
    ({"predictor": (512, 256)}, "128"),
    ({"omega_size": 0}, "omega"),
    ({"bn_groups": 0}, "bn_groups"),
    ({"width": -1}, "width"),
  ],
)
def test_mistakes_are_one_line(options, match):
  with pytest.raises(UserError, match=match) as error:
    models.build(**options)
  assert "\n" not in str(error.value)


def groups_of(backbone):
  """Groups of each GroupNorm, as flax sees them; flax's error if impossible."""
  groups = []

  def see(module, _):
    if isinstance(module, nn.GroupNorm):
      groups.append(module.num_groups)
    return False

  jax.eval_shape(
    lambda: backbone.init(
      jax.random.key(0),
      jnp.zeros((1, 16, 16, 3)),
      train=False,
      capture_intermediates=see,
    )
  )
  return groups


@pytest.mark.parametrize("name", ["conv2", "conv3", "conv4"])
@pytest.mark.parametrize("width", [0, 1, 7, 17, 25, 36, 48, 50, 51])
def test_group_norm_is_refused_only_where_flax_refuses(name, width):
  options = dict(backbone=name, image_size=16, norm="group")
  multiples, strides, patch, default = convnet.VARIANTS[name]
  widths = tuple(m * (width or default) for m in multiples)
  try:
    groups_of(convnet.ConvNet(widths, strides, patch, norm="group"))
  except ValueError:
    with pytest.raises(UserError, match=f"model.width={width} ") as error:
      models.build(**options, width=width)
    near = int(re.search(r"use model.width=(\d+)", str(error.value))[1])
    groups_of(models.build(**options, width=near).backbone)
  else:
    assert models.build(**options, width=width).backbone.widths == widths


def test_default_conv3_keeps_its_groups():
  """Measured results depend on these groups of 36, 72 and 144 channels."""
  backbone = models.build(
    backbone="conv3", image_size=16, norm="group"
  ).backbone
  assert backbone.widths == (36, 72, 144)
  assert groups_of(backbone) == [2, 4, 9]


ROUND_TRIPS = {
  "resnet18": dict(backbone="resnet18", width=8, predictor=(8, 128)),
  "resnet50": dict(backbone="resnet50", width=4, conditioning="none"),
  "conv2": dict(backbone="conv2", projector_hidden_norm=False),
  "vit": dict(backbone="vit_debug", patch_size=8, projector_norm="affine"),
  "vit_conv": dict(
    backbone="vit_conv_debug",
    patch_size=8,
    conditioning="hypernetwork",
    hypernetwork_norm=True,
    projector=(4, 4),
    projector_norm="affine",
  ),
}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_to_torch_and_back(case):
  trees = variables_of(models.build(image_size=16, **ROUND_TRIPS[case]))
  for tree in trees.values():
    names = torch_names.torch_names(tree)
    assert len(set(names.values())) == len(names)
    state = torch_names.to_torch(tree)
    prefixed = {"module." + name: array for name, array in state.items()}
    prefixed["other.weight"] = np.zeros(3)
    prefixed["module.bn1.num_batches_tracked"] = np.zeros((), np.int64)
    back = torch_names.from_torch(tree, prefixed, prefix="module.")
    jax.tree.map(np.testing.assert_array_equal, back, tree)


def test_names_are_torchs():
  trees = variables_of(
    models.build(backbone="resnet50", width=4, predictor=(8, 128))
  )
  backbone = torch_names.to_torch(trees["backbone"])
  for name, shape in {
    "conv1.weight": (4, 3, 7, 7),
    "bn1.running_var": (4,),
    "layer1.0.downsample.0.weight": (16, 4, 1, 1),
    "layer1.0.downsample.1.bias": (16,),
    "layer4.2.conv2.weight": (32, 32, 3, 3),
  }.items():
    assert backbone[name].shape == shape
  projector = torch_names.to_torch(trees["projector"])
  assert projector["aug_processor.15.weight"].shape == (64, 64)
  assert projector["projector.0.weight"].shape == (128, 128 + 64)
  predictor = torch_names.to_torch(trees["predictor"])
  assert set(predictor) >= {"0.weight", "1.running_mean", "3.bias"}
  # MoCo-v3's convolution stem is a Sequential of conv, BN and ReLU.
  stem = torch_names.to_torch(
    variables_of(
      models.build(backbone="vit_conv_debug", image_size=16, patch_size=8)
    )["backbone"]
  )
  assert stem["patch_embed.proj.6.weight"].shape == (64, 32, 3, 3)
  assert stem["patch_embed.proj.7.running_mean"].shape == (64,)
  assert stem["patch_embed.proj.9.weight"].shape == (64, 64, 1, 1)
  assert stem["patch_embed.proj.9.bias"].shape == (64,)


def test_wrong_weights_are_user_errors():
  networks = models.build(backbone="conv2", image_size=16)
  tree = variables_of(networks)["backbone"]
  state = torch_names.to_torch(tree)
  renamed = {**state, "conv9.weight": state["conv1.weight"]}
  del renamed["conv1.weight"]
  with pytest.raises(UserError, match="missing conv1.weight.*conv9.weight"):
    torch_names.from_torch(tree, renamed)
  with pytest.raises(UserError, match="unused extra.weight"):
    torch_names.from_torch(tree, {**state, "extra.weight": np.zeros(3)})
  torch_names.from_torch(tree, {**state, "fc.weight": np.zeros(3)})
  state["conv2.weight"] = np.zeros((4, 8, 3, 3))
  with pytest.raises(UserError, match="conv2.weight"):
    torch_names.from_torch(tree, state)
