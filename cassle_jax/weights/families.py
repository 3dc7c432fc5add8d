"""Who writes which file: one row each, for reading and for writing.

A row says by which names a file is known, where the backbone and the heads are
in it, and what the shapes of its arrays cannot tell. Names are those of the
reader without the words of WRAPPERS. Source: the code that writes the files, as
of 2026-11.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SWAV = ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
STL10 = ((0.43, 0.42, 0.39), (0.27, 0.26, 0.27))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NORMALIZATIONS = {
  "imagenet": IMAGENET,
  "swav": SWAV,
  "stl10": STL10,
  "half": HALF,
}

# Words that say how a network was run, not what it is.
WRAPPERS = (
  *("module", "_orig_mod", "_fsdp_wrapped_module"),
  "_checkpoint_wrapped_module",
)
# (trained by gradients, moving average of it) in a prefix.
NETWORKS = (
  ("encoder_q", "encoder_k"),
  ("base_encoder", "momentum_encoder"),
  ("student", "teacher"),
  ("student_backbone", "teacher_backbone"),
  ("online_network", "target_network"),
  ("backbone", "momentum_backbone"),
  ("backbone", "backbone_momentum"),
  ("encoder", "momentum_encoder"),
)


class Family(NamedTuple):
  """One kind of file.

  Attributes:
    title: whose it is.
    prefix: expression that the backbone's prefix matches as a whole.
    signs: expressions; each must be found at the start of some name.
    never: expressions; none may be.
    kinds: of network: "resnet", "sequential", "vit", "big_vision".
    method: as in `config.method.name`; None = by the heads.
    normalization: a key of NORMALIZATIONS.
    head_width: of ViTs, numbers of a token that an attention head has; the
      count of heads is the width divided by it. None: `heads` says it.
    heads: of ViTs, the count of heads at any width.
    resize: of learned positions; see `models.positions`.
    sincos: whether its ViTs have MoCo-v3's fixed positions; None = either.
    small_stem: whether a 3x3 stem is ours, padded by 1.
    target: whether the moving average is what its authors evaluate.
    projector, predictor, prototypes: prefixes of the heads, where "<b>" stands
      for the backbone's prefix and "<r>" for it without its last word.
    activation: of the projector.
    ignored: expressions of names behind the backbone's prefix that are no part
      of it.
  """

  title: str
  prefix: str
  signs: tuple[str, ...] = ()
  never: tuple[str, ...] = ()
  kinds: tuple[str, ...] = ("resnet", "vit")
  method: str | None = None
  normalization: str = "imagenet"
  head_width: int | None = 64
  heads: int | None = None
  resize: str = "antialias"
  sincos: bool | None = None
  small_stem: bool = True
  target: bool = False
  projector: str | None = None
  predictor: str | None = None
  prototypes: str | None = None
  activation: str = "relu"
  ignored: tuple[str, ...] = ()


_CONDITIONED = r"projector\.(aug_processor|projector|projector_hn)\."
_LIGHTNING = r"state_dict\.((momentum_)?(backbone|encoder)|backbone_momentum)\."
_LIGHTLY = r"state_dict\.(projection_head|prediction_head|online_classifier)\."
_SOLO = (
  r"state_dict\.(projector|predictor|classifier|momentum_projector)\.|"
  r"state_dict\.momentum_(backbone|encoder)\."
)
_SWAV_HEAD = r"(state_dict\.)?(projection_head\.\d|prototypes\.)"
_BARE = r"(state_dict\.|model\.|model_state\.)?"

FAMILIES: dict[str, Family] = {
  "cassle": Family(
    "CASSLE, conditioned projector (gmum/CASSLE)",
    r"backbone\.",
    signs=(_CONDITIONED,),
    heads=12,
    projector="projector.",
    predictor="predictor.",
    prototypes="prototypes.",
  ),
  "augself": Family(
    "AugSelf, or CASSLE's baselines (hankook/AugSelf, gmum/CASSLE)",
    r"backbone\.",
    signs=(r"projector\.(\d+\.)?(weight|running_mean)",),
    never=(_CONDITIONED,),
    heads=12,
    projector="projector.",
    predictor="predictor.",
    prototypes="prototypes.",
  ),
  "moco": Family(
    "MoCo v1 or v2 (facebookresearch/moco)",
    r"(.*\.)?encoder_[qk]\.",
    kinds=("resnet",),
    method="mocov2",
    projector="<b>fc.",
    ignored=(r"fc\.",),
  ),
  "mocov3": Family(
    "MoCo v3 (facebookresearch/moco-v3)",
    r"(.*\.)?(base_encoder|momentum_encoder)\.",
    never=(r"state_dict\.(backbone|encoder|classifier)\.",),
    method="mocov3",
    heads=12,
    sincos=True,
    projector="<b>(fc|head).",
    predictor="<r>predictor.",
    ignored=(r"fc\.", r"head\."),
  ),
  "simsiam": Family(
    "SimSiam (facebookresearch/simsiam)",
    r"state_dict\.encoder\.",
    signs=(r"state_dict\.encoder\.fc\.0\.", r"state_dict\.predictor\.0\."),
    kinds=("resnet",),
    method="simsiam",
    projector="<b>fc.",
    predictor="<r>predictor.",
    ignored=(r"fc\.",),
  ),
  "barlow_twins": Family(
    "Barlow Twins (facebookresearch/barlowtwins)",
    r"model\.backbone\.",
    signs=(r"model\.projector\.0\.", r"model\.bn\."),
    kinds=("resnet",),
    method="barlow_twins",
    projector="<r>projector.",
  ),
  "vicreg": Family(
    "VICReg (facebookresearch/vicreg)",
    r"model\.backbone\.",
    signs=(r"model\.projector\.0\.",),
    never=(r"model\.bn\.",),
    kinds=("resnet",),
    method="vicreg",
    projector="<r>projector.",
  ),
  "swav": Family(
    "SwAV (facebookresearch/swav)",
    r"(state_dict\.)?",
    signs=(_SWAV_HEAD,),
    kinds=("resnet",),
    method="swav",
    normalization="swav",
    projector="<b>projection_head.",
    prototypes="<b>prototypes.",
    ignored=(r"projection_head\.", r"prototypes"),
  ),
  "dino": Family(
    "DINO (facebookresearch/dino)",
    r"(teacher|student)\.backbone\.|",
    never=(
      *(r".*\bls1\.gamma", r".*\bregister_tokens", r".*\bmask_token"),
      *(r"reg_token", r"head\.weight", r"fc_norm\.", r".*\bfc\.weight"),
      _SWAV_HEAD,
    ),
    kinds=("vit",),
    method="dino",
    resize="bicubic",
    sincos=False,
    target=True,
    projector="<r>head.mlp.",
    prototypes="<r>head.last_layer.",
    activation="gelu",
    ignored=(r"head\.",),
  ),
  "dino_resnet": Family(
    "DINO, ResNet (facebookresearch/dino)",
    r"(teacher|student)\.backbone\.",
    kinds=("resnet",),
    method="dino",
    target=True,
    projector="<r>head.mlp.",
    prototypes="<r>head.last_layer.",
    activation="gelu",
    ignored=(r"head\.", r"fc\."),
  ),
  "dinov2": Family(
    "DINOv2 (facebookresearch/dinov2)",
    r"((teacher|student)\.backbone\.|teacher\.)?",
    signs=(r".*\bls1\.gamma", r".*\bmask_token"),
    never=(r".*\bregister_tokens",),
    kinds=("vit",),
    method="dino",
    resize="bicubic",
    sincos=False,
    target=True,
    ignored=(r"mask_token", r"head\."),
  ),
  "dinov2_registers": Family(
    "DINOv2 with registers (facebookresearch/dinov2)",
    r"((teacher|student)\.backbone\.|teacher\.)?",
    signs=(r".*\bregister_tokens",),
    kinds=("vit",),
    method="dino",
    sincos=False,
    target=True,
    ignored=(r"mask_token", r"head\."),
  ),
  "byol_pytorch": Family(
    "BYOL (yaox12/BYOL-PyTorch)",
    r"(.*\.)?(online_network|target_network)\.encoder\.",
    kinds=("resnet", "sequential"),
    method="byol",
    projector="<r>(projetion|projection).net.",
    predictor="model.predictor.net.",
  ),
  "solo_learn": Family(
    "solo-learn (vturrisi/solo-learn)",
    _LIGHTNING,
    never=(_LIGHTLY, r"state_dict\.encoder\.fc\.0\."),
    heads=12,
    small_stem=False,
    projector="<r>projector.",
    predictor="<r>predictor.",
    ignored=(r"fc\.", r"head\."),
  ),
  "lightly": Family(
    "lightly (lightly-ai/lightly)",
    _LIGHTNING + r"|state_dict\.(student|teacher)_backbone\.",
    never=(_SOLO,),
    kinds=("resnet", "sequential", "vit"),
    projector="state_dict.projection_head.layers.",
    predictor="state_dict.prediction_head.layers.",
    ignored=(r"fc\.", r"head\.", r"linear\."),
  ),
  "torchvision": Family(
    "torchvision's names (torchvision, timm, Barlow Twins, VICReg, MoCo)",
    _BARE,
    never=(_SWAV_HEAD,),
    kinds=("resnet",),
    ignored=(r"fc\.",),
  ),
  "mocov3_vit": Family(
    "a ViT with MoCo v3's positions",
    _BARE,
    kinds=("vit",),
    method="mocov3",
    heads=12,
    sincos=True,
    ignored=(r"head\.",),
  ),
  "deit": Family(
    "DeiT (facebookresearch/deit)",
    r"model\.",
    signs=(r"model\.head\.weight",),
    kinds=("vit",),
    sincos=False,
    ignored=(r"head\.",),
  ),
  "timm": Family(
    "timm",
    r"(state_dict\.|state_dict_ema\.)?",
    never=(
      *(r".*\bregister_tokens", r".*\bmask_token", r"head\.mlp\."),
      r".*\blast_layer",
    ),
    kinds=("vit",),
    normalization="half",
    sincos=False,
    ignored=(r"head\.",),
  ),
  "big_vision": Family(
    "big_vision or vit_jax (google-research)",
    r".*",
    kinds=("big_vision",),
    normalization="half",
    sincos=False,
  ),
}


def matching(
  names: Iterable[str], prefix: str, kind: str, sincos: bool | None
) -> dict[str, Family]:
  """The rows that a file can be of.

  Args:
    names: all names of the file, without WRAPPERS.
    prefix: of the backbone.
    kind: of the network.
    sincos: whether a ViT's positions are MoCo-v3's; None where it has none.
  """
  names = list(names)

  def found(expression: str) -> bool:
    match = re.compile(expression).match
    return any(match(name) for name in names)

  return {
    name: row
    for name, row in FAMILIES.items()
    if kind in row.kinds
    and re.fullmatch(row.prefix, prefix)
    and (sincos is None or row.sincos in (None, sincos))
    and all(map(found, row.signs))
    and not any(map(found, row.never))
  }


def unwrapped(name: str) -> str:
  """A name without the words of WRAPPERS."""
  return ".".join(word for word in name.split(".") if word not in WRAPPERS)


def head_prefix(
  row: Family, head: str, prefix: str, names: Mapping[str, Any]
) -> str | None:
  """Where a head stands in a file; None where it has none.

  Args:
    row: of the file.
    head: "projector", "predictor" or "prototypes".
    prefix: of the backbone.
    names: all names of the file, without WRAPPERS.
  """
  expression = getattr(row, head)
  if expression is None:
    return None
  words = prefix.removesuffix(".").split(".")[:-1]
  root = "".join(word + "." for word in words)
  expression = expression.replace(".", r"\.").replace("<b>", re.escape(prefix))
  match = re.compile(expression.replace("<r>", re.escape(root))).match
  found = {hit[0]: None for hit in map(match, names) if hit}
  return next(iter(found), None)
