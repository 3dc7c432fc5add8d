"""From a config to the objects that it names, all checks made on the way.

This is the one place, beside the trainer, that reads configs. Everything that
can be wrong with one is found here, before anything is compiled.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cassle_jax import (
  augment,
  awareness,
  data,
  grid,
  methods,
  models,
  optim,
  sharding,
)
from cassle_jax import config as config_lib
from cassle_jax.awareness import Awareness
from cassle_jax.errors import UserError, unknown
from cassle_jax.methods import Method
from cassle_jax.models import Networks, memory, norm
from cassle_jax.step import TrainState, create_state, train_step

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Experiment(NamedTuple):
  """The parts of a run, built and checked.

  Attributes:
    config: the resolved config.
    pipeline: the host's data pipeline.
    policies: one augmentation policy a view.
    fields: the fields of omega that the projector is told.
    networks: the modules.
    method: the method's loss and target rule.
    awareness: what is added to the method.
    optimizer: the optimiser with its schedules.
    momentum: step -> momentum of the target.
    mesh: the devices.
    total_steps: length of the run.
    key: the root of all randomness.
    abstract: shapes, types and shardings of the state.
    make_state: makes the state at step 0.
  """

  config: ConfigDict
  pipeline: Any
  policies: tuple[augment.ViewPolicy, ...]
  fields: tuple[str, ...]
  networks: Networks
  method: Method
  awareness: Awareness
  optimizer: optim.Optimizer
  momentum: Callable[[jax.Array], jax.Array]
  mesh: jax.sharding.Mesh
  total_steps: int
  key: jax.Array
  abstract: TrainState
  make_state: Callable[[], TrainState]


def build(config: ConfigDict) -> Experiment:
  """Builds every part of a run.

  Raises:
    UserError: a value that is not valid, or two that do not fit together;
      the message names the fix.
  """
  config_lib.check(config)
  config = resolve(config)
  if config.batch_size < 2:
    raise UserError(
      f"batch_size={config.batch_size} leaves nothing to contrast with; use"
      " at least 2."
    )
  compute_type(config)
  mesh = sharding.make_mesh(**config.mesh)
  name = "batch_size" if config.accumulate == 1 else "batch_size / accumulate"
  sharding.check_batch(config.batch_size // config.accumulate, mesh, name=name)
  aware = build_awareness(config)
  policies = build_policies(config)
  aware.check(policies)
  fields = check_fields(config, policies)
  # Checked before the data is opened, which may take a while.
  method = build_method(config, aware)
  check_views(method, policies)
  build_networks(config, method, aware, fields)
  pipeline = data.build(
    **config.data,
    seed=config.seed,
    batch_size=config.batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  steps_per_epoch = pipeline.steps_per_epoch
  method = build_method(config, aware, steps_per_epoch)
  networks = build_networks(config, method, aware, fields)
  total_steps = config.steps
  if total_steps is None:
    total_steps = round(config.epochs * steps_per_epoch)
  if total_steps < 1:
    raise UserError(
      f"epochs={config.epochs}, steps={config.steps}: the run has no steps;"
      " set --config.epochs above 0 or --config.steps of at least 1."
    )
  optimizer = optim.build(
    **config.optim,
    batch_size=config.batch_size,
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
    frozen=networks.frozen,
  )
  key = jax.random.key(config.seed)
  # Tracing the state also checks networks and optimiser against each other.
  abstract, make_state = init_state(
    key,
    networks=networks,
    method=method,
    awareness=aware,
    optimizer=optimizer,
    image_size=config.data.image_size,
    omega_size=augment.omega.size(fields),
    mesh=mesh,
  )
  return Experiment(
    config=config,
    pipeline=pipeline,
    policies=policies,
    fields=fields,
    networks=networks,
    method=method,
    awareness=aware,
    optimizer=optimizer,
    momentum=build_momentum(method, total_steps, steps_per_epoch),
    mesh=mesh,
    total_steps=total_steps,
    key=key,
    abstract=abstract,
    make_state=make_state,
  )


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
  if config.log_every < 1:
    raise UserError(f"log_every={config.log_every} must be at least 1.")
  if config.accumulate < 1 or config.batch_size % config.accumulate:
    raise UserError(
      f"accumulate={config.accumulate} does not divide"
      f" batch_size={config.batch_size}."
    )
  return config


def build_policies(config: ConfigDict) -> tuple[augment.ViewPolicy, ...]:
  """The augmentation policy of each view."""
  return augment.build(
    **config.augment,
    image_size=config.data.image_size,
    dtype=config.precision,
  )


def check_views(
  method: Method, policies: tuple[augment.ViewPolicy, ...]
) -> None:
  """Raises UserError where the augmentation makes views that nothing uses."""
  if len(policies) > 2 and method.online_views is not None:
    raise UserError(
      f"method.name={method.name} takes two views and the augmentation makes"
      f" {len(policies)}; set --config.augment.local_views=0."
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


def build_awareness(config: ConfigDict) -> Awareness:
  """The awareness, with the options that the config gives.

  Raises:
    UserError: the grid has no such cell, or an option is not valid.
  """
  options = {k: v for k, v in config.awareness.items() if v is not None}
  aware = awareness.build(**options)
  if config.method.name not in methods.METHODS:
    raise unknown("method.name", config.method.name, methods.METHODS)
  grid.check(config.method.name, aware.name)
  return aware


def build_method(
  config: ConfigDict, aware: Awareness, steps_per_epoch: int = 1
) -> Method:
  """The method, with the options that the config gives, made aware."""
  options = {k: v for k, v in config.method.items() if v is not None}
  if options.get("temperature", 1) <= 0:
    raise UserError(
      f"method.temperature={options['temperature']} must be above 0."
    )
  if not 0 <= options.get("momentum", 0) <= 1:
    raise UserError(
      f"method.momentum={options['momentum']} must be between 0 and 1."
    )
  vit = config.model.backbone.startswith("vit")
  method = aware.adapt(
    methods.build(**options, vit=vit, steps_per_epoch=steps_per_epoch)
  )
  method.check(config.batch_size)
  return method


def build_networks(
  config: ConfigDict,
  method: Method,
  aware: Awareness,
  fields: tuple[str, ...],
) -> Networks:
  """The networks; heads that the config leaves open are the method's."""
  options = {k: v for k, v in config.model.items() if v is not None}
  del options["omega"]
  heads = {**method.heads._asdict(), **options}
  networks = models.build(
    **heads,
    omega_size=augment.omega.size(fields),
    image_size=config.data.image_size,
    pair_outputs=aware.pair_outputs,
    pair_hidden=aware.pair_hidden,
    descriptor_size=len(aware.descriptors[0]) if aware.descriptors else 0,
    dtype=compute_type(config),
  )
  if networks.predictor is None and method.heads.predictor:
    raise UserError(
      f"method.name={method.name} needs a predictor; leave model.predictor out."
    )
  if networks.predictor is not None and not method.heads.predictor:
    raise UserError(
      f"method.name={method.name} has no predictor; leave model.predictor out."
    )
  rows = config.batch_size // config.accumulate
  if networks.projector.bn_groups > 1:
    norm.check_batch((rows,), networks.projector.bn_groups)
  memory.check_hypernetwork(
    networks, batch_size=rows, views=len(method.online_views or (0, 1))
  )
  return networks


def memory_statement(experiment: Experiment) -> str | None:
  """One line on parameters and bytes, where a hypernetwork makes many.

  None for ordinary networks.
  """
  config, networks = experiment.config, experiment.networks
  method, aware = experiment.method, experiment.awareness
  hyper = networks.projector.conditioning == "hypernetwork"
  if not hyper and not aware.descriptors:
    return None
  return memory.statement(
    networks,
    image_size=config.data.image_size,
    omega_size=augment.omega.size(experiment.fields),
    batch_size=config.batch_size // config.accumulate,
    stacks=len(aware.descriptors) or method.spaces or 1,
    moments=2 if config.optim.name == "adamw" else 1,
    moving_average=bool(method.target_views),
    views=len(method.online_views or (0, 1)),
  )


def compute_type(config: ConfigDict) -> jnp.dtype:
  """The type that networks compute in; parameters are float32."""
  if config.precision not in PRECISIONS:
    raise unknown("precision", config.precision, PRECISIONS)
  return PRECISIONS[config.precision]


def build_momentum(
  method: Method, total_steps: int, steps_per_epoch: int
) -> Callable[[jax.Array], jax.Array]:
  """Step -> momentum of the method's target."""
  if method.momentum_schedule == "constant":
    return lambda step: jnp.float32(method.momentum)
  if method.momentum_schedule != "cosine":
    raise unknown(
      "method.momentum_schedule",
      method.momentum_schedule,
      ("constant", "cosine"),
    )
  return optim.cosine_ramp(
    method.momentum,
    1.0,
    total_steps=total_steps,
    steps_per_epoch=steps_per_epoch,
    per=method.momentum_per,
    name="method.momentum_per",
  )


def init_state(
  key: jax.Array, *, mesh: jax.sharding.Mesh, **parts: Any
) -> tuple[TrainState, Callable[[], TrainState]]:
  """The state's shapes with their shardings, and what makes it at step 0.

  Args:
    key: root key of the run.
    mesh: the devices that the state is sharded over.
    **parts: the other arguments of `create_state`.
  """
  init = functools.partial(create_state, **parts)
  key = jax.random.fold_in(key, 0x1417)
  shapes = jax.eval_shape(init, key)
  shardings = sharding.state_sharding(shapes, mesh)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings,
  )
  return abstract, functools.partial(
    jax.jit(init, out_shardings=shardings), key
  )


def step_key(experiment: Experiment) -> jax.Array:
  """The root of the randomness of all steps, on every device."""
  key = jax.random.fold_in(experiment.key, 0x57E9)
  return jax.device_put(key, sharding.replicated(experiment.mesh))


def compile_step(experiment: Experiment, state: TrainState) -> Callable:
  """The jitted, donated step: (state, batch, store, key) -> (state, metrics).

  `batch` is what the pipeline yields as global arrays; `store` is the
  resident set {"image", "size"} that its indices point into, or None; `key`
  is `step_key(experiment)`, an argument so that runs of other seeds find
  their program in a compilation cache.
  """
  step = functools.partial(
    train_step,
    policies=experiment.policies,
    networks=experiment.networks,
    method=experiment.method,
    awareness=experiment.awareness,
    optimizer=experiment.optimizer,
    momentum=experiment.momentum,
    fields=experiment.fields,
    accumulate=experiment.config.accumulate,
  )
  batch_sharding = sharding.batch_sharding(experiment.mesh)

  def on_store(state, batch, store, key):
    if store is not None:
      batch = jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(
          jnp.take(x, batch["index"], axis=0), batch_sharding
        ),
        store,
      )
    new, metrics = step(state, batch, key=key)
    return new, {
      **metrics,
      "learning_rate": experiment.optimizer.learning_rate(state.step),
      "momentum": experiment.momentum(state.step),
    }

  shardings = jax.tree.map(lambda x: x.sharding, state)
  replicated = sharding.replicated(experiment.mesh)
  return jax.jit(
    on_store, donate_argnums=0, out_shardings=(shardings, replicated)
  )
