"""Makes the networks of a run from the config section `model`."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from cassle_jax.errors import (
  AT_LEAST_0,
  AT_LEAST_1,
  UserError,
  Words,
  problems,
  together,
  unknown,
)
from cassle_jax.models import convnet, positions, resnet, vit
from cassle_jax.models.backbone import Backbone, feature_size
from cassle_jax.models.conv import INITS
from cassle_jax.models.convnet import ConvNet
from cassle_jax.models.heads import PairHeads, Prototypes
from cassle_jax.models.mlp import ACTIVATIONS, MLP
from cassle_jax.models.mlp import NORMS as LAST_NORMS
from cassle_jax.models.projector import CONDITIONINGS, ConditionedProjector
from cassle_jax.models.resnet import ResNet
from cassle_jax.models.vit import VisionTransformer

BACKBONES = (*resnet.VARIANTS, *vit.VARIANTS, *convnet.VARIANTS)
# Options of vision transformers alone.
_OF_VITS = (
  *("attention_heads", "positions", "positions_grid", "positions_resize"),
  *("registers", "layer_scale", "mlp", "class_token", "pool"),
)
# What stands behind a backbone, and once for each descriptor (AI) or embedding
# space (LooC) where there are several.
HEAD_NAMES = ("projector", "predictor", "prototypes")
# Whose variables a train state has.
NETWORK_NAMES = ("backbone", *HEAD_NAMES, "pair_heads")
# What a target has a moving average of.
MIRRORED = ("backbone", "projector", "prototypes")
# What the config section `model` may hold, apart from how it fits together.
RULES = {
  "backbone": Words(BACKBONES),
  "width": AT_LEAST_0,
  "bn_groups": AT_LEAST_1,
  "stem": Words(resnet.STEMS),
  "conv_init": Words(INITS),
  "stem_factor": AT_LEAST_1,
  "patch_size": AT_LEAST_1,
  "attention": Words(vit.ATTENTIONS),
  "attention_heads": AT_LEAST_0,
  "positions": Words(positions.POSITIONS),
  "positions_grid": AT_LEAST_0,
  "positions_resize": Words(positions.RESIZES),
  "registers": AT_LEAST_0,
  "layer_scale": AT_LEAST_0,
  "mlp": Words(vit.MLPS),
  "pool": Words(vit.POOLS),
  "norm": Words(convnet.NORMS),
  "amortised_rank": AT_LEAST_1,
  "prompt_mlps": AT_LEAST_1,
  "conditioning": Words(CONDITIONINGS),
  "projector": AT_LEAST_0,
  "projector_norm": Words(LAST_NORMS),
  "projector_activation": Words(ACTIVATIONS),
  "gamma_depth": AT_LEAST_0,
  "gamma_width": AT_LEAST_1,
  "predictor": AT_LEAST_0,
  "predictor_norm": Words(LAST_NORMS),
}


class Networks(NamedTuple):
  """The modules of one run; their variables live in the train state.

  Attributes:
    backbone: f: apply(variables, images [B, H, W, 3], train=, descriptor=) ->
      (features [B, d] float32, intermediates); see `Backbone`. The descriptor
      is [k] in [0, 1] where the backbone is amortised, else not given.
    features: d.
    projector: pi: apply(variables, features [B, d], omega [B, k], train=) ->
      [B, out] float32.
    predictor: p: apply(variables, z [B, out], train=) -> [B, out] float32, or
      None where the method has none.
    prototypes: apply(variables, z [B, out]) -> scores [B, n] float32, or None.
    pair_heads: apply(variables, first [B, d], second [B, d], train=) ->
      {field: [2B, n] float32}, or None.
    frozen: "/"-joined prefixes of parameters that no optimiser may touch.
  """

  backbone: Backbone
  features: int
  projector: ConditionedProjector
  predictor: MLP | None = None
  prototypes: Prototypes | None = None
  pair_heads: PairHeads | None = None
  frozen: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneOptions:
  """The backbone, in the config section `model`.

  Attributes:
    backbone: a name of BACKBONES; in Python also a module, see `Backbone`.
    width: base number of channels (ResNets: the stem's; conv nets: the first
      convolution's; ViTs: the token dimension); 0 = the backbone's own.
    bn_groups: BatchNorm over this many sub-batches, in the heads too.
    remat: ResNets, ViTs: recompute blocks in the backward pass to save memory.
    stem, stem_factor, zero_init_residual: of `ResNet`.
    patch_size, frozen_patches, attention, attention_heads, positions,
      positions_resize, registers, layer_scale, mlp, class_token, pool: of
      `VisionTransformer`.
    positions_grid: likewise; 0 = that of the views.
    conv_init: of `ResNet` and `ConvNet`.
    norm: of `ConvNet`; the others have "batch".
    amortised_rank: of amortised ResNets and conv nets.
    prompt_mlps: of amortised ViTs.
  """

  backbone: str | Backbone = "resnet18"
  width: int = 0
  bn_groups: int = 1
  remat: bool = False
  stem: str = ResNet.stem
  stem_factor: int = ResNet.stem_factor
  zero_init_residual: bool = ResNet.zero_init_residual
  conv_init: str = ResNet.conv_init
  patch_size: int = VisionTransformer.patch_size
  frozen_patches: bool = VisionTransformer.frozen_patches
  attention: str = VisionTransformer.attention
  attention_heads: int = VisionTransformer.attention_heads
  positions: str = VisionTransformer.positions
  positions_grid: int = VisionTransformer.positions_grid
  positions_resize: str = VisionTransformer.positions_resize
  registers: int = VisionTransformer.registers
  layer_scale: float = VisionTransformer.layer_scale
  mlp: str = VisionTransformer.mlp
  class_token: bool = VisionTransformer.class_token
  pool: str = VisionTransformer.pool
  norm: str = ConvNet.norm
  amortised_rank: int = ResNet.amortised_rank
  prompt_mlps: int = VisionTransformer.prompt_mlps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(BackboneOptions):
  """The config section `model` without `omega`: the heads too.

  Attributes:
    projector: sizes of the hidden layers and the output; 0 = the backbone's
      feature size.
    conditioning, gamma_depth, gamma_width, hypernetwork_norm: of
      `ConditionedProjector`.
    projector_norm, projector_bias, projector_hidden_norm, projector_activation:
      its norm, last_bias, hidden_norm and activation.
    predictor: sizes as of the projector, () = no predictor; its output must be
      as long as the projector's.
    predictor_norm, predictor_bias: its norm and last_bias, see `MLP`.
  """

  conditioning: str = ConditionedProjector.conditioning
  projector: tuple[int, ...] = (0, 128)
  projector_norm: str = ConditionedProjector.norm
  projector_bias: bool | None = ConditionedProjector.last_bias
  projector_hidden_norm: bool = ConditionedProjector.hidden_norm
  projector_activation: str = ConditionedProjector.activation
  gamma_depth: int = ConditionedProjector.gamma_depth
  gamma_width: int = ConditionedProjector.gamma_width
  hypernetwork_norm: bool = ConditionedProjector.hypernetwork_norm
  predictor: tuple[int, ...] = ()
  predictor_norm: str = MLP.norm
  predictor_bias: bool | None = MLP.last_bias


def build(
  *,
  image_size: int = 224,
  omega_size: int = 14,
  prototypes: int = 0,
  prototypes_weight_norm: bool = False,
  pair_outputs: tuple[tuple[str, int], ...] = (),
  pair_hidden: tuple[int, ...] = PairHeads.hidden,
  descriptor_size: int = 0,
  dtype: jnp.dtype = jnp.float32,
  **options: Any,
) -> Networks:
  """Makes the backbone and its heads, and checks that they fit.

  Args:
    image_size: side of the views in px, for checks only.
    omega_size: length of the packed omega, for checks only.
    prototypes: number of prototypes, 0 = none.
    prototypes_weight_norm: divide them by their length in the forward pass.
    pair_outputs: (field of omega, number of outputs) of each head that
      predicts a difference of two views' augmentations; () = none.
    pair_hidden: sizes of these heads' hidden layers.
    descriptor_size: length of the invariance descriptor that an amortised
      backbone takes; 0 = an ordinary backbone.
    dtype: compute type; parameters are float32.
    **options: the fields of `Options`.

  Returns:
    The networks.

  Raises:
    UserError: unknown names, sizes that do not fit together.
  """
  options = Options(**options)
  sizes = {"prototypes": prototypes, "descriptor_size": descriptor_size}
  own = vars(options)
  if not isinstance(options.backbone, str):
    own = {key: value for key, value in own.items() if key != "backbone"}
  wrong = problems(
    "model", RULES | dict.fromkeys(sizes, AT_LEAST_0), own | sizes
  )
  if wrong:
    raise together(wrong)
  if isinstance(options.backbone, str):
    shared = dict(descriptor_size=descriptor_size, dtype=dtype)
    backbone = _backbone(options, image_size, shared)
    features = backbone.features
    rests = isinstance(backbone, VisionTransformer) and backbone.patches_rest
    frozen = ("backbone/patch_embed",) if rests else ()
  else:
    backbone, frozen = _given(options), ()
    features = feature_size(backbone, image_size, descriptor_size)
  projector = ConditionedProjector(
    _sizes("projector", options.projector, features),
    conditioning=options.conditioning,
    norm=options.projector_norm,
    last_bias=options.projector_bias,
    hidden_norm=options.projector_hidden_norm,
    activation=options.projector_activation,
    gamma_depth=options.gamma_depth,
    gamma_width=options.gamma_width,
    hypernetwork_norm=options.hypernetwork_norm,
    bn_groups=options.bn_groups,
    dtype=dtype,
  )
  projector.check(features, omega_size)
  pair_outputs = tuple((field, size) for field, size in pair_outputs)
  return Networks(
    backbone=backbone,
    features=features,
    projector=projector,
    predictor=_predictor(options, features, projector.widths[-1], dtype),
    prototypes=Prototypes(prototypes, weight_norm=prototypes_weight_norm)
    if prototypes
    else None,
    pair_heads=PairHeads(pair_outputs, hidden=tuple(pair_hidden), dtype=dtype)
    if pair_outputs
    else None,
    frozen=frozen,
  )


def _given(options: BackboneOptions) -> Backbone:
  """A backbone that is no name; what is for those that are is refused."""
  for field in dataclasses.fields(BackboneOptions):
    value = getattr(options, field.name)
    if field.name not in ("backbone", "bn_groups") and value != field.default:
      raise UserError(
        f"model.{field.name}={value!r} is for the backbones of this package;"
        f" give it to {type(options.backbone).__name__} itself."
      )
  return options.backbone


def _backbone(
  options: BackboneOptions, image_size: int, shared: dict[str, Any]
) -> ResNet | VisionTransformer | ConvNet:
  """Makes a backbone of this package; `shared` is what all of them take."""
  name, norm, stem = options.backbone, options.norm, options.stem
  if name not in BACKBONES:
    raise unknown("model.backbone", name, BACKBONES)
  if norm not in convnet.NORMS:
    raise unknown("model.norm", norm, convnet.NORMS)
  if norm != "batch" and name not in convnet.VARIANTS:
    raise UserError(
      f"model.norm={norm!r} applies to conv nets, not to {name}: use 'batch'."
    )
  if stem != "imagenet" and name not in resnet.VARIANTS:
    raise UserError(
      f"model.stem={stem!r} applies to ResNets, not to {name}: leave it out."
    )
  for key in _OF_VITS:
    value, usual = getattr(options, key), getattr(BackboneOptions, key)
    if name not in vit.VARIANTS and value != usual:
      raise UserError(
        f"model.{key}={value!r} applies to vision transformers, not to {name}:"
        " leave it out."
      )
  if options.conv_init != ResNet.conv_init and name in vit.VARIANTS:
    raise UserError(
      f"model.conv_init={options.conv_init!r} applies to ResNets and conv nets,"
      f" not to {name}: leave it out."
    )
  if options.remat and name in convnet.VARIANTS:
    raise UserError(
      f"model.remat applies to ResNets and ViTs, not to {name}: leave it out."
    )

  def fields(module: type[nn.Module]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(module)}
    values = dataclasses.asdict(options)
    return shared | {k: v for k, v in values.items() if k in names}

  if name in vit.VARIANTS:
    given = fields(VisionTransformer)
    if not given["positions_grid"]:
      given["positions_grid"] = image_size // max(options.patch_size, 1)
    network = VisionTransformer(variant=name, **given)
    network.check(image_size, image_size)
    return network
  if name in resnet.VARIANTS:
    if stem not in resnet.STEMS:
      raise unknown("model.stem", stem, resnet.STEMS)
    if stem == "space_to_depth":
      _check_patch("model.stem_factor", options.stem_factor, image_size)
    width = options.width or ResNet.width
    return ResNet(variant=name, **fields(ResNet) | {"width": width})
  multiples, strides, patch, default = convnet.VARIANTS[name]
  _check_patch(f"the patch of {name}", patch, image_size)
  width = options.width or default
  if norm == "group":
    convnet.check_groups(width, multiples)
  widths = tuple(m * width for m in multiples)
  return ConvNet(widths, strides, patch=patch, **fields(ConvNet))


def _predictor(
  options: Options, features: int, output: int, dtype: jnp.dtype
) -> MLP | None:
  if not options.predictor:
    return None
  sizes = _sizes("predictor", options.predictor, features)
  if sizes[-1] != output:
    raise UserError(
      f"model.predictor={tuple(options.predictor)} must end in the projector's"
      f" output size {output}: it is compared with projections."
    )
  return MLP(
    sizes,
    norm=options.predictor_norm,
    last_bias=options.predictor_bias,
    bn_groups=options.bn_groups,
    dtype=dtype,
  )


def _sizes(
  name: str, widths: tuple[int, ...], features: int
) -> tuple[int, ...]:
  if not widths or any(w < 0 for w in widths) or widths[-1] == 0:
    raise UserError(
      f"model.{name}={tuple(widths)} must be sizes of hidden layers (0 = the"
      f" backbone's {features}) and then of the output, e.g. (0, 128)."
    )
  return tuple(w or features for w in widths)


def _check_patch(name: str, patch: int, image_size: int) -> None:
  if patch < 1 or image_size % patch:
    raise UserError(
      f"{name} is {patch} px, which does not divide image_size={image_size}:"
      f" use an image size that is a multiple of it."
    )
