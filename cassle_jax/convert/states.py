"""A run's networks as state dicts of other projects, and what loads them.

Each format is a function of a run that returns an `Export`; what a format has
no place for is refused with the reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from cassle_jax.data import decode
from cassle_jax.errors import UserError
from cassle_jax.models import ResNet, VisionTransformer, vit
from cassle_jax.training.trained import Trained
from cassle_jax.weights import torch_names

State = dict[str, np.ndarray]
_FOLDER = "FOLDER"
# What a ViT's options are where it is MoCo-v3's; those of `_TOLD` make another
# network of it.
_USUAL = {
  "positions": "sincos",
  "positions_grid": 0,
  "registers": 0,
  "layer_scale": 0.0,
  "mlp": "gelu",
  "class_token": True,
  "pool": "cls",
}
_TOLD = tuple(key for key in _USUAL if key != "positions_grid")


class Export(NamedTuple):
  """What is written for a format.

  Attributes:
    tensors: of model.safetensors: name -> array; None = no such file.
    torch: of model.pth: what torch.load is to return; None = no such file.
    files: further files, name -> JSON value.
    code: Python that loads them, for the card; FOLDER is the folder.
    notes: what a user has to know, in sentences.
    architecture: as the loader calls it.
  """

  tensors: State | None
  torch: Mapping[str, Any] | None
  files: Mapping[str, Any]
  code: str
  notes: tuple[str, ...] = ()
  architecture: str = ""


def timm(run: Trained, image_size: int, license_name: str) -> Export:
  """For timm, strictly: `local-dir:`, a hub, or `checkpoint_path`."""
  backbone = run.setup.networks.backbone
  if isinstance(backbone, VisionTransformer):
    arguments, evaluated = _vit_arguments(backbone, image_size), image_size
    image_size = arguments["img_size"]
    # All that a name stands for is given beside it.
    sizes = {192: "tiny", 384: "small", 1024: "large"}
    name = f"vit_{sizes.get(arguments['embed_dim'], 'base')}_patch16_224"
    pooled = arguments.get("global_pool", "token")
    first, last = "patch_embed.proj", "head"
  else:
    _check_resnet(backbone, "timm", stems=("imagenet",))
    name, arguments = backbone.variant, {"num_classes": 0}
    pooled, first, last = "avg", "conv1", "fc"
  policy = run.setup.policies[0]
  config = {
    "architecture": name,
    "num_classes": 0,
    "num_features": run.setup.networks.features,
    "global_pool": pooled,
    "model_args": arguments,
    "pretrained_cfg": {
      "input_size": [3, image_size, image_size],
      "fixed_input_size": isinstance(backbone, VisionTransformer),
      "interpolation": "bicubic",
      "crop_pct": crop_share(image_size),
      "crop_mode": "center",
      "mean": list(policy.mean),
      "std": list(policy.std),
      "num_classes": 0,
      "pool_size": None,
      "first_conv": first,
      "classifier": last,
      "custom_load": False,
      "license": license_name,
    },
  }
  given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
  code = (
    "import timm\n\n"
    f'model = timm.create_model("local-dir:{_FOLDER}", pretrained=True)\n'
    "# or, of one file:\n"
    "model = timm.create_model(\n"
    f'    "{name}", {given},\n'
    f'    checkpoint_path="{_FOLDER}/model.safetensors")\n'
    # Written out: a model of checkpoint_path has timm's own instead.
    "transform = timm.data.create_transform(\n"
    f'    {image_size}, interpolation="bicubic",'
    f" crop_pct={crop_share(image_size)!r},\n"
    f"    mean={tuple(policy.mean)}, std={tuple(policy.std)})\n"
    f"if picture.size == ({image_size}, {image_size}):  # is not resized\n"
    "    transform.transforms = transform.transforms[-2:]\n"
    "features = model.eval()(transform(picture)[None])"
  )
  notes = ()
  if isinstance(backbone, VisionTransformer):
    notes = (_heads_note(arguments["num_heads"]),)
    if image_size != evaluated:
      notes += (
        f"These lines take {image_size} px, of which the positions are; `embed`"
        f" takes {evaluated} px and interpolates them.",
      )
  tensors = backbone_state(run, image_size)
  return Export(tensors, None, {"config.json": config}, code, notes, name)


def crop_share(size: int) -> float:
  """timm's crop_pct with which it resizes as `decode.evaluation_crop` does.

  timm rounds size / crop_pct down, which of 0.875 is not always our short side.
  """
  short = decode.short_side_of(size)
  return 0.875 if int(size / 0.875) == short else size / (short + 0.5)


def _heads_note(heads: int) -> str:
  return (
    f"{heads} attention heads, which the shapes of the weights do not tell:"
    " other numbers load without a word and give other features."
  )


def torchvision(run: Trained, image_size: int, license_name: str) -> Export:
  """For torchvision's ResNets, without the classifier `fc`."""
  del image_size, license_name
  backbone = run.setup.networks.backbone
  if isinstance(backbone, VisionTransformer):
    raise UserError(
      "--format=torchvision has ResNets alone, for torchvision's ViTs have"
      " another structure; use --format=timm."
    )
  _check_resnet(backbone, "torchvision", stems=("imagenet", "small"))
  lines = [
    "import torch, torchvision\n",
    f"model = torchvision.models.{backbone.variant}()",
    "model.fc = torch.nn.Identity()",
  ]
  if backbone.stem == "small":
    lines += [
      "model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)",
      "model.maxpool = torch.nn.Identity()",
    ]
  lines += [
    f'model.load_state_dict(torch.load("{_FOLDER}/model.pth"))',
    "features = model.eval()(images)  # [B, 3, H, W], normalised",
  ]
  state = torch_names.to_torch(run.variables["backbone"])
  return Export(state, state, {}, "\n".join(lines), (), backbone.variant)


def cassle(run: Trained, image_size: int, license_name: str) -> Export:
  """The layout of the published CASSLE and AugSelf code: ckpt-N.pth."""
  del license_name
  backbone, notes = run.setup.networks.backbone, ()
  if isinstance(backbone, VisionTransformer):
    net = vit_settings(backbone)
    if any(net[key] != usual for key, usual in _USUAL.items() if key in _TOLD):
      raise UserError(
        "--format=cassle has MoCo-v3's ViTs alone, and this one has learned"
        " positions, registers, LayerScale, another pooling or another MLP; use"
        " --format=timm."
      )
    notes = (_heads_note(net["attention_heads"]),)
  else:
    _check_resnet(backbone, "cassle", stems=("imagenet", "small"))
  held: dict[str, Any] = {"backbone": backbone_state(run, image_size)}
  for name in ("projector", "predictor", "prototypes"):
    if name in run.variables:
      held[name] = torch_names.to_torch(run.variables[name])
  if run.config.model.conditioning == "none":
    # There it is the layers themselves, here they are in `mlp`.
    held["projector"] = {
      name.removeprefix("projector."): array
      for name, array in held["projector"].items()
    }
  if "pair_heads" in run.variables:
    heads = torch_names.to_torch(run.variables["pair_heads"])
    held["ss_predictor"] = nets = {}
    for name, array in heads.items():
      field, _, rest = name.partition(".")
      nets.setdefault(field, {})[rest] = array
  code = (
    "import torch\n\n"
    f'checkpoint = torch.load("{_FOLDER}/model.pth")\n'
    'backbone.load_state_dict(checkpoint["backbone"])\n'
    'projector.load_state_dict(checkpoint["projector"])'
  )
  told = ", ".join(run.setup.fields)
  notes += ("`backbone` and `projector` are modules of the published code.",)
  if run.config.model.conditioning != "none":
    notes += (
      f"Its projector is told, in this order, {told}:"
      f" {run.setup.omega_size} numbers.",
    )
  tensors = {
    f"{network}.{name}": array
    for network, state in held.items()
    for name, array in _flat(state).items()
  }
  return Export(tensors, held, {}, code, notes, backbone.variant)


def detectron2(run: Trained, image_size: int, license_name: str) -> Export:
  """For detectron2's ResNets, by the names of its model zoo."""
  del image_size, license_name
  backbone = run.setup.networks.backbone
  if isinstance(backbone, VisionTransformer):
    raise UserError(
      "--format=detectron2 has ResNets alone; use --format=timm for a ViT."
    )
  _check_resnet(backbone, "detectron2", stems=("imagenet",))
  state = torch_names.to_torch(run.variables["backbone"])
  state = {detectron2_name(name): array for name, array in state.items()}
  held = {
    "model": state,
    "__author__": "cassle_jax",
    # Has detectron2 find the backbone inside of its detector.
    "matching_heuristics": True,
  }
  policy = run.setup.policies[0]
  mean = [round(255 * x, 3) for x in policy.mean]
  std = [round(255 * x, 3) for x in policy.std]
  code = (
    "MODEL:\n"
    f"  WEIGHTS: {_FOLDER}/model.pth\n"
    f"  PIXEL_MEAN: {mean}\n"
    f"  PIXEL_STD: {std}\n"
    "  RESNETS:\n"
    f"    DEPTH: {backbone.variant.removeprefix('resnet')}\n"
    "    STRIDE_IN_1X1: False\n"
    "INPUT:\n"
    '  FORMAT: "RGB"'
  )
  notes = ("The last lines are keys of detectron2's config.",)
  return Export(state, held, {}, code, notes, backbone.variant)


def detectron2_name(name: str) -> str:
  """detectron2's name for one of torchvision's: layer1.0.bn1.weight ->
  res2.0.conv1.norm.weight."""
  first, _, rest = name.partition(".")
  if first.startswith("layer"):
    first = f"res{int(first.removeprefix('layer')) + 1}"
  else:
    first, rest = "stem", name
  words = rest.split(".")
  for place, word in enumerate(words):
    if word.startswith("bn"):
      words[place : place + 1] = [f"conv{word.removeprefix('bn')}", "norm"]
      break
    if word == "downsample":
      inner = [] if words[place + 1] == "0" else ["norm"]
      words[place : place + 2] = ["shortcut", *inner]
      break
  return ".".join([first, *words])


FORMATS: dict[str, Callable[[Trained, int, str], Export]] = {
  "timm": timm,
  "torchvision": torchvision,
  "cassle": cassle,
  "detectron2": detectron2,
}


def backbone_state(run: Trained, image_size: int) -> State:
  """The backbone by torch's names; a ViT's fixed positions too."""
  state = torch_names.to_torch(run.variables["backbone"])
  backbone = run.setup.networks.backbone
  if not isinstance(backbone, VisionTransformer):
    return state
  net = vit_settings(backbone)
  if "pos_embed" not in state:
    grid = _grid(net, image_size)
    known = vit.sincos_positions(grid, grid, net["width"])
    state["pos_embed"] = known if net["class_token"] else known[:, 1:]
  if net["registers"] and net["class_token"]:
    # timm's networks with registers have [cls]'s position in the token.
    known = state["pos_embed"]
    state["cls_token"] = state["cls_token"] + known[:, :1]
    state["pos_embed"] = known[:, 1:]
  return state


def vit_settings(backbone: VisionTransformer) -> dict[str, Any]:
  """A ViT's fields, its variant's sizes settled."""
  size, depth, heads, conv_stem = vit.VARIANTS[backbone.variant]
  given = {x.name: getattr(backbone, x.name) for x in fields(backbone)}
  return (
    _USUAL
    | given
    | {
      "width": backbone.width or size,
      "depth": depth,
      "attention_heads": given.get("attention_heads") or heads,
      "conv_stem": conv_stem,
    }
  )


def _vit_arguments(
  backbone: VisionTransformer, image_size: int
) -> dict[str, Any]:
  """timm's arguments for such a network."""
  net = vit_settings(backbone)
  for wrong, words in (
    (net["conv_stem"], "with a convolution stem"),
    (net["mlp"] == "swiglu", "with SwiGLU layers"),
    (net["pool"] == "both", "whose features are [cls ; mean]"),
  ):
    if wrong:
      raise UserError(
        f"--format=timm has no ViT {words} that arguments could ask for; use"
        " --format=onnx or stablehlo."
      )
  arguments = {
    "img_size": _grid(net, image_size) * net["patch_size"],
    "patch_size": net["patch_size"],
    "embed_dim": net["width"],
    "depth": net["depth"],
    "num_heads": net["attention_heads"],
    "num_classes": 0,
  }
  if net["layer_scale"]:
    arguments["init_values"] = net["layer_scale"]
  if net["mlp"] == "gelu_tanh":
    arguments["act_layer"] = "gelu_tanh"
  if net["registers"]:
    arguments |= {"reg_tokens": net["registers"], "no_embed_class": True}
  if not net["class_token"]:
    arguments["class_token"] = False
  if net["pool"] == "mean":
    arguments |= {"global_pool": "avg", "fc_norm": False}
  return arguments


def _grid(net: Mapping[str, Any], image_size: int) -> int:
  """Side of the grid of known positions, in patches."""
  return net["positions_grid"] or image_size // net["patch_size"]


def _check_resnet(backbone: Any, kind: str, *, stems: tuple[str, ...]) -> None:
  """Refuses what such a loader has no network for."""
  if not isinstance(backbone, ResNet):
    raise UserError(
      f"--format={kind} has ResNets and ViTs, not a"
      f" {type(backbone).__name__}; use --format=onnx or stablehlo."
    )
  if backbone.stem not in stems:
    raise UserError(
      f"--format={kind} has no ResNet with the stem {backbone.stem!r}, only"
      f" with {' or '.join(stems)}; use --format=onnx or stablehlo."
    )
  if backbone.width != 64 and kind != "cassle":
    raise UserError(
      f"--format={kind} has ResNets of width 64, not {backbone.width}; use"
      " --format=cassle, onnx or stablehlo."
    )


def _flat(state: Mapping[str, Any]) -> State:
  """Nested dicts as one, names joined with dots."""
  flat = {}
  for name, value in state.items():
    if isinstance(value, Mapping):
      flat |= {f"{name}.{k}": v for k, v in _flat(value).items()}
    else:
      flat[name] = value
  return flat
