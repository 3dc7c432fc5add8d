"""From a config's sections to what a step is made of.

Everything that can be wrong between them is found here, before any data is read
and anything is compiled.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cassle_jax import augment, awareness, methods, models
from cassle_jax.augment import forms
from cassle_jax.awareness import Awareness, cells
from cassle_jax.errors import UserError, unknown
from cassle_jax.evaluation import features
from cassle_jax.evaluation.online import NETWORKS
from cassle_jax.hosts.platforms import Platform
from cassle_jax.methods import Method
from cassle_jax.models import Networks, footprint, norm, vit
from cassle_jax.models.attention import choose_attention

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """What a step is made of, as `step.train_step` takes it.

  Attributes:
    policies: one augmentation policy a view.
    fields: the fields of omega that the projector is told.
    method: the method's loss and target rule, as the awareness adapts it.
    awareness: what is added to the method.
    networks: the modules.
    evaluated: the network whose features are measured, "online" or "target".
  """

  policies: tuple[augment.ViewPolicy, ...]
  fields: tuple[str, ...]
  method: Method
  awareness: Awareness
  networks: Networks
  evaluated: str = "online"

  @property
  def omega_size(self) -> int:
    """Length of the packed omega that the projector is told."""
    return augment.omega.size(self.fields)


def resolve(config: ConfigDict) -> ConfigDict:
  """Settles the keys that stand for "the usual one": None becomes a value.

  `awareness.name` says whether the projector is told omega and
  `model.conditioning` how; either may be given, and both if they agree.
  """
  config = config.copy_and_resolve_references()
  config.unlock()
  model, aware = config.model, config.awareness
  with model.ignore_type(), aware.ignore_type():
    if aware.name is None:
      aware.name = "vanilla" if model.conditioning == "none" else "cassle"
    told = build_awareness(config).conditioned
    if model.conditioning is None:
      model.conditioning = "concat" if told else "none"
  if told != (model.conditioning != "none"):
    raise UserError(
      f"awareness.name={aware.name!r} does not fit"
      f" model.conditioning={model.conditioning!r}: the projector is told omega"
      " with 'cassle' and 'cassle+augself' alone; leave one of the two out."
    )
  if config.batch_size % config.accumulate:
    raise UserError(
      f"accumulate={config.accumulate} does not divide"
      f" batch_size={config.batch_size}."
    )
  return config


def build(
  config: ConfigDict, platform: Platform, *, steps_per_epoch: int = 1
) -> Setup:
  """Builds and checks all of it.

  Args:
    config: from `resolve`.
    platform: of the devices that are to run it; it decides whatever is left to
      the program: the form of the augmentation, of attention.
    steps_per_epoch: for what a method does by epochs.

  Raises:
    UserError: a value that is not valid, or two that do not fit together.
  """
  aware = build_awareness(config)
  policies = build_policies(config)
  aware.check(policies)
  fields = check_fields(config, policies)
  method = build_method(config, aware, steps_per_epoch)
  check_views(method, policies)
  sizes = {policy.image_size[0] for policy in policies}
  for size in sorted(sizes - {config.data.image_size}):
    # Small crops have to fit the backbone too.
    build_networks(config, method, aware, fields, platform, image_size=size)
  networks = build_networks(config, method, aware, fields, platform)
  check_amortised(config, aware)
  rows = config.batch_size // config.accumulate
  if networks.projector.bn_groups > 1:
    norm.check_batch((rows,), networks.projector.bn_groups)
  footprint.check_hypernetwork(
    networks, batch_size=rows, views=len(method.online_views or policies)
  )
  form = forms.resolve("auto", platform.name)
  return Setup(
    policies=policies,
    fields=fields,
    method=method,
    awareness=aware._replace(views=functools.partial(aware.views, form=form)),
    networks=networks,
    evaluated=evaluated(config.evaluation.network, method),
  )


def evaluated(network: str | None, method: Method) -> str:
  """The network whose features are measured; None is the method's usual one.

  Raises:
    UserError: an unknown network, or a target that the method has not.
  """
  network = method.evaluated if network is None else network
  if network not in NETWORKS:
    raise unknown("evaluation.network", network, NETWORKS)
  if network == "target" and not method.target_views:
    raise UserError(
      f"evaluation.network='target', but {method.name} has no target network;"
      " set --config.evaluation.network=online or leave it out."
    )
  return network


def build_awareness(config: ConfigDict) -> Awareness:
  """The awareness, with the options that the config gives.

  Raises:
    UserError: the grid has no such cell, or an option is not valid.
  """
  options = {k: v for k, v in config.awareness.items() if v is not None}
  aware = awareness.build(**options)
  if config.method.name not in methods.METHODS:
    raise unknown("method.name", config.method.name, methods.METHODS)
  cells.check(config.method.name, aware.name)
  return aware


def build_policies(config: ConfigDict) -> tuple[augment.ViewPolicy, ...]:
  """The augmentation policy of each view."""
  return augment.build(
    **config.augment, image_size=config.data.image_size, dtype=config.precision
  )


def check_fields(
  config: ConfigDict, policies: tuple[augment.ViewPolicy, ...]
) -> tuple[str, ...]:
  """The fields that the projector is told; each must be able to vary."""
  if config.model.conditioning in ("none", "random"):
    return tuple(config.model.omega)
  active = augment.active_fields(policies)
  for field in config.model.omega:
    if field not in augment.omega.FIELDS:
      raise unknown("model.omega field", field, augment.omega.FIELDS)
    if field not in active:
      keep = tuple(f for f in config.model.omega if f in active)
      raise UserError(
        f"model.omega has {field!r}, but the augmentation never changes it"
        f" (its op is off); set --config.model.omega={','.join(keep)} or"
        " switch the op on in --config.augment."
      )
  return tuple(config.model.omega)


def build_method(
  config: ConfigDict, aware: Awareness, steps_per_epoch: int = 1
) -> Method:
  """The method, with the options that the config gives, made aware."""
  options = {k: v for k, v in config.method.items() if v is not None}
  is_vit = config.model.backbone in vit.VARIANTS
  method = aware.adapt(
    methods.build(**options, vit=is_vit, steps_per_epoch=steps_per_epoch)
  )
  method.check(config.batch_size)
  return method


def check_views(
  method: Method, policies: tuple[augment.ViewPolicy, ...]
) -> None:
  """Raises UserError where the augmentation makes too many or too few views."""
  if len(policies) < method.global_views:
    raise UserError(
      f"method.global_views={method.global_views}, but the augmentation makes"
      f" {len(policies)} views; set --config.augment.local_views="
      f"{method.global_views - 2} or --config.method.global_views=2."
    )
  if len(policies) > 2 and method.online_views is not None:
    raise UserError(
      f"method.name={method.name} takes two views and the augmentation makes"
      f" {len(policies)}; set --config.augment.local_views=0."
    )


def build_networks(
  config: ConfigDict,
  method: Method,
  aware: Awareness,
  fields: tuple[str, ...],
  platform: Platform,
  image_size: int = 0,
) -> Networks:
  """The networks; heads that the config leaves open are the method's."""
  options = {k: v for k, v in config.model.items() if v is not None}
  del options["omega"]
  if options["backbone"] in vit.VARIANTS:
    size, _, heads, _ = vit.VARIANTS[options["backbone"]]
    options["attention"] = choose_attention(
      options["attention"],
      head_size=(options["width"] or size)
      // (options["attention_heads"] or heads),
      dtype=PRECISIONS[config.precision],
      cudnn=platform.cudnn_attention,
    )
  heads = {**method.heads._asdict(), **options}
  networks = models.build(
    **heads,
    omega_size=augment.omega.size(fields),
    image_size=image_size or config.data.image_size,
    pair_outputs=aware.pair_outputs,
    pair_hidden=aware.pair_hidden,
    descriptor_size=len(aware.descriptors[0]) if aware.descriptors else 0,
    dtype=PRECISIONS[config.precision],
  )
  if networks.predictor is None and method.heads.predictor:
    raise UserError(
      f"method.name={method.name} needs a predictor; leave model.predictor out."
    )
  if networks.predictor is not None and not method.heads.predictor:
    raise UserError(
      f"method.name={method.name} has no predictor; leave model.predictor out."
    )
  return networks


def check_amortised(config: ConfigDict, aware: Awareness) -> None:
  """Raises UserError for an option of amortised backbones that goes nowhere."""
  used = None
  if aware.descriptors:
    is_vit = config.model.backbone in vit.VARIANTS
    used = "prompt_mlps" if is_vit else "amortised_rank"
  for key in ("prompt_mlps", "amortised_rank"):
    usual = getattr(models.Options, key)
    if key != used and config.model[key] != usual:
      kind = "ViT" if key == "prompt_mlps" else "ResNet or conv net"
      raise UserError(
        f"model.{key}={config.model[key]} goes with awareness.name='ai' and a"
        f" {kind} alone; set --config.model.{key}={usual}."
      )


def feature_extractor(
  setup: Setup,
  mesh: jax.sharding.Mesh,
  *,
  descriptor: tuple[float, ...] | None = None,
  batch_size: int = 256,
  stop: Callable[[], None] = lambda: None,
  tell: Callable[[str], None] = lambda line: None,
) -> Callable[[Any, Any], Any]:
  """Builds (variables, images [N, H, W, 3] uint8) -> features [N, d] float32.

  AI's backbone is told the descriptor, or the awareness's own for None. `stop`
  is called between the pieces of the work and may raise; `tell` is told what
  memory they need.
  """
  return features.extractor(
    backbone=setup.networks.backbone,
    mean=setup.policies[0].mean,
    std=setup.policies[0].std,
    mesh=mesh,
    descriptor=descriptor or setup.awareness.evaluated,
    batch_size=batch_size,
    stop=stop,
    tell=tell,
  )
