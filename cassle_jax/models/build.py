"""Makes the networks of a run from the keyword arguments of config.model."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.errors import UserError
from cassle_jax.models import convnet, resnet, vit
from cassle_jax.models.mlp import ACTIVATIONS, MLP
from cassle_jax.models.mlp import NORMS as LAST_NORMS
from cassle_jax.models.pair_heads import PairHeads
from cassle_jax.models.projector import CONDITIONINGS, ConditionedProjector
from cassle_jax.models.prototypes import Prototypes

BACKBONES = (*resnet.VARIANTS, *vit.VARIANTS, *convnet.VARIANTS)
# What stands behind a backbone, and once for each descriptor (AI) or embedding
# space (LooC) where there are several.
HEADS = ("projector", "predictor", "prototypes")
# What a target has a moving average of.
MIRRORED = ("backbone", "projector", "prototypes")


class Networks(NamedTuple):
  """The modules of one run; their variables live in the train state.

  Attributes:
    backbone: f: apply(variables, images [B, H, W, 3], train=, descriptor=) ->
      (features [B, d] float32, intermediates). `backbone.features` is d. The
      descriptor is [k] in [0, 1] where the backbone is amortised, else None.
    projector: pi: apply(variables, features [B, d], omega [B, k], train=) ->
      [B, out] float32.
    predictor: p: apply(variables, z [B, out], train=) -> [B, out] float32, or
      None where the method has none.
    prototypes: apply(variables, z [B, out]) -> scores [B, n] float32, or None.
    pair_heads: apply(variables, first [B, d], second [B, d], train=) ->
      {field: [2B, n] float32}, or None.
    frozen: "/"-joined prefixes of parameters that no optimiser may touch.
  """

  backbone: nn.Module
  projector: ConditionedProjector
  predictor: MLP | None = None
  prototypes: Prototypes | None = None
  pair_heads: PairHeads | None = None
  frozen: tuple[str, ...] = ()


def build(
  *,
  backbone: str = "resnet18",
  width: int = 0,
  stem: str = "imagenet",
  stem_factor: int = 2,
  zero_init_residual: bool = True,
  norm: str = "batch",
  patch_size: int = 16,
  frozen_patches: bool = True,
  attention: str = "auto",
  image_size: int = 224,
  conditioning: str = "concat",
  omega_size: int = 14,
  projector: tuple[int, ...] = (0, 128),
  projector_norm: str = "none",
  projector_bias: bool | None = None,
  projector_hidden_norm: bool = True,
  projector_activation: str = "relu",
  gamma_depth: int = 6,
  gamma_width: int = 64,
  hypernetwork_norm: bool = False,
  predictor: tuple[int, ...] = (),
  predictor_norm: str = "none",
  predictor_bias: bool | None = None,
  prototypes: int = 0,
  prototypes_weight_norm: bool = False,
  pair_outputs: tuple[tuple[str, int], ...] = (),
  pair_hidden: tuple[int, ...] = (512, 512),
  descriptor_size: int = 0,
  amortised_rank: int = 32,
  prompt_mlps: int = 256,
  remat: bool = False,
  bn_groups: int = 1,
  dtype: jnp.dtype = jnp.float32,
) -> Networks:
  """Makes the backbone and its heads, and checks that they fit.

  Args:
    backbone: a name of BACKBONES.
    width: base number of channels (ResNets: the stem's; conv nets: the first
      convolution's; ViTs: the token dimension); 0 = the backbone's own.
    stem: ResNets: "imagenet", "small" or "space_to_depth".
    stem_factor: side in px of the patches of the space_to_depth stem.
    zero_init_residual: ResNets: start each block's last scale at 0.
    norm: "batch" or, for conv nets only, "group".
    patch_size: ViTs: side of a patch in px.
    frozen_patches: ViTs: leave the patch projection at its random start.
    attention: ViTs: "auto", "xla" or "cudnn".
    image_size: side of the views in px, for checks only.
    conditioning: how the projector sees omega, see ConditionedProjector.
    omega_size: length of the packed omega, for checks only.
    projector: sizes of the hidden layers and the output; 0 = the backbone's
      feature size.
    projector_norm: BatchNorm after the last Linear: "none", "plain" (no learned
      scale and bias) or "affine".
    projector_bias: bias of the last Linear; None = iff there is no last norm.
    projector_hidden_norm: BatchNorm in hidden layers (else Linear with bias).
    projector_activation: of hidden layers, "relu" or "gelu".
    gamma_depth: Linear layers of gamma; 0 = omega as it is.
    gamma_width: width of gamma.
    hypernetwork_norm: BatchNorm between the layers that are emitted.
    predictor: sizes as of the projector, () = no predictor; its output must be
      as long as the projector's.
    predictor_norm: as projector_norm.
    predictor_bias: as projector_bias.
    prototypes: number of prototypes, 0 = none.
    prototypes_weight_norm: divide them by their length in the forward pass.
    pair_outputs: (field of omega, number of outputs) of each head that
      predicts a difference of two views' augmentations; () = none.
    pair_hidden: sizes of these heads' hidden layers.
    descriptor_size: length of the invariance descriptor that an amortised
      backbone takes; 0 = an ordinary backbone.
    amortised_rank: amortised ResNets and conv nets: width of the layer from
      which a convolution's weights are emitted.
    prompt_mlps: amortised ViTs: number of MLPs whose mean is the prompt.
    remat: recompute blocks in the backward pass to save memory.
    bn_groups: BatchNorm over this many sub-batches.
    dtype: compute type; parameters are float32.

  Returns:
    The networks.

  Raises:
    UserError: unknown names, sizes that do not fit together.
  """
  for name, value, least in (
    ("width", width, 0),
    ("gamma_width", gamma_width, 1),
    ("bn_groups", bn_groups, 1),
    ("prototypes", prototypes, 0),
    ("descriptor_size", descriptor_size, 0),
    ("amortised_rank", amortised_rank, 1),
    ("prompt_mlps", prompt_mlps, 1),
  ):
    if value < least:
      raise UserError(f"model.{name}={value} must be {least} or more.")
  network, frozen = _backbone(
    backbone,
    width=width,
    stem=stem,
    stem_factor=stem_factor,
    zero_init_residual=zero_init_residual,
    norm=norm,
    patch_size=patch_size,
    frozen_patches=frozen_patches,
    attention=attention,
    image_size=image_size,
    descriptor_size=descriptor_size,
    amortised_rank=amortised_rank,
    prompt_mlps=prompt_mlps,
    remat=remat,
    bn_groups=bn_groups,
    dtype=dtype,
  )
  if conditioning not in CONDITIONINGS:
    raise errors.unknown("model.conditioning", conditioning, CONDITIONINGS)
  for name, value in (
    ("model.projector_norm", projector_norm),
    ("model.predictor_norm", predictor_norm),
  ):
    if value not in LAST_NORMS:
      raise errors.unknown(name, value, LAST_NORMS)
  if projector_activation not in ACTIVATIONS:
    raise errors.unknown(
      "model.projector_activation", projector_activation, ACTIVATIONS
    )
  if hypernetwork_norm and conditioning != "hypernetwork":
    raise UserError(
      "model.hypernetwork_norm=True goes with model.conditioning='hypernetwork'"
      f" alone, not with {conditioning!r}; set"
      " --config.model.hypernetwork_norm=False."
    )
  size = network.features
  projector_sizes = _sizes("projector", projector, size)
  head = ConditionedProjector(
    projector_sizes,
    conditioning=conditioning,
    norm=projector_norm,
    last_bias=projector_bias,
    hidden_norm=projector_hidden_norm,
    activation=projector_activation,
    gamma_depth=gamma_depth,
    gamma_width=gamma_width,
    hypernetwork_norm=hypernetwork_norm,
    bn_groups=bn_groups,
    dtype=dtype,
  )
  head.check(size, omega_size)
  second = None
  if predictor:
    predictor_sizes = _sizes("predictor", predictor, size)
    if predictor_sizes[-1] != projector_sizes[-1]:
      raise UserError(
        f"model.predictor={tuple(predictor)} must end in the projector's output"
        f" size {projector_sizes[-1]}: it is compared with projections."
      )
    second = MLP(
      predictor_sizes,
      norm=predictor_norm,
      last_bias=predictor_bias,
      bn_groups=bn_groups,
      dtype=dtype,
    )
  directions = None
  if prototypes:
    directions = Prototypes(prototypes, weight_norm=prototypes_weight_norm)
  return Networks(
    backbone=network,
    projector=head,
    predictor=second,
    prototypes=directions,
    pair_heads=_pair_heads(pair_outputs, pair_hidden, dtype),
    frozen=frozen,
  )


def _pair_heads(
  outputs: tuple[tuple[str, int], ...], hidden: tuple[int, ...], dtype
) -> PairHeads | None:
  if not outputs:
    return None
  outputs = tuple((field, size) for field, size in outputs)
  return PairHeads(outputs, hidden=tuple(hidden), dtype=dtype)


def _sizes(
  name: str, widths: tuple[int, ...], features: int
) -> tuple[int, ...]:
  if not widths or any(w < 0 for w in widths) or widths[-1] == 0:
    raise UserError(
      f"model.{name}={tuple(widths)} must be sizes of hidden layers (0 = the"
      f" backbone's {features}) and then of the output, e.g. (0, 128)."
    )
  return tuple(w or features for w in widths)


def _backbone(
  name: str,
  *,
  width: int,
  stem: str,
  stem_factor: int,
  zero_init_residual: bool,
  norm: str,
  patch_size: int,
  frozen_patches: bool,
  attention: str,
  image_size: int,
  descriptor_size: int,
  amortised_rank: int,
  prompt_mlps: int,
  remat: bool,
  bn_groups: int,
  dtype: jnp.dtype,
) -> tuple[nn.Module, tuple[str, ...]]:
  """Makes the backbone and names its frozen parameters."""
  if name not in BACKBONES:
    raise errors.unknown("model.backbone", name, BACKBONES)
  if norm not in convnet.NORMS:
    raise errors.unknown("model.norm", norm, convnet.NORMS)
  if norm != "batch" and name not in convnet.VARIANTS:
    raise UserError(
      f"model.norm={norm!r} applies to conv nets, not to {name}: use 'batch'."
    )
  if name in resnet.VARIANTS:
    if stem not in resnet.STEMS:
      raise errors.unknown("model.stem", stem, resnet.STEMS)
    if stem == "space_to_depth":
      _check_patch("model.stem_factor", stem_factor, image_size)
    network = resnet.ResNet(
      variant=name,
      width=width or 64,
      stem=stem,
      stem_factor=stem_factor,
      zero_init_residual=zero_init_residual,
      descriptor_size=descriptor_size,
      amortised_rank=amortised_rank,
      remat=remat,
      bn_groups=bn_groups,
      dtype=dtype,
    )
    return network, ()
  if stem != "imagenet":
    raise UserError(
      f"model.stem={stem!r} applies to ResNets, not to {name}: leave it out."
    )
  if name in vit.VARIANTS:
    _, _, heads, conv_stem = vit.VARIANTS[name]
    network = vit.VisionTransformer(
      variant=name,
      width=width,
      patch_size=patch_size,
      frozen_patches=frozen_patches,
      attention=attention,
      descriptor_size=descriptor_size,
      prompt_mlps=prompt_mlps,
      remat=remat,
      bn_groups=bn_groups,
      dtype=dtype,
    )
    vit.check_sizes(
      (image_size, image_size),
      patch_size=patch_size,
      width=network.features,
      heads=heads,
      conv_stem=conv_stem,
    )
    if attention not in vit.ATTENTIONS:
      raise errors.unknown("model.attention", attention, vit.ATTENTIONS)
    frozen = frozen_patches and not conv_stem
    return network, ("backbone/patch_embed",) if frozen else ()
  if remat:
    raise UserError(
      f"model.remat applies to ResNets and ViTs, not to {name}: leave it out."
    )
  multiples, strides, patch, default = convnet.VARIANTS[name]
  _check_patch(f"the patch of {name}", patch, image_size)
  width = width or default
  if norm == "group":
    convnet.check_groups(width, multiples)
  network = convnet.ConvNet(
    tuple(m * width for m in multiples),
    strides,
    patch=patch,
    norm=norm,
    descriptor_size=descriptor_size,
    amortised_rank=amortised_rank,
    bn_groups=bn_groups,
    dtype=dtype,
  )
  return network, ()


def _check_patch(name: str, patch: int, image_size: int) -> None:
  if patch < 1 or image_size % patch:
    raise UserError(
      f"{name} is {patch} px, which does not divide image_size={image_size}:"
      f" use an image size that is a multiple of it."
    )
