"""From a config to a run that is ready to start, all checks made on the way.

`setup` makes what a step is made of; here it meets data, optimiser and devices.
Beside these two only the trainer reads configs.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cassle_jax import config as config_lib
from cassle_jax import data, optim
from cassle_jax.errors import UserError
from cassle_jax.hosts import device_memory, platforms, sharding
from cassle_jax.methods import Method
from cassle_jax.models import footprint
from cassle_jax.optim import schedules
from cassle_jax.runs import guard, published
from cassle_jax.step import train_step
from cassle_jax.step.state import TrainState, copied, create_state
from cassle_jax.training import setup as setup_lib
from cassle_jax.training.setup import Setup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Setup):
  """A run, built and checked: its set-up, and what that meets.

  Attributes:
    config: the resolved config.
    pipeline: the host's data pipeline; None of a run without data.
    optimizer: the optimiser with its schedules.
    momentum: step -> momentum of the target.
    mesh: the devices.
    total_steps: length of the run.
    published: the row of the paper's table that the run repeats, or None.
    key: the root of all randomness.
    abstract: shapes, types and shardings of the state.
    make_state: makes the state at step 0.
  """

  config: ConfigDict
  pipeline: Any
  optimizer: optim.Optimizer
  momentum: Callable[[jax.Array], jax.Array]
  mesh: jax.sharding.Mesh
  total_steps: int
  published: published.Row | None
  key: jax.Array
  abstract: TrainState
  make_state: Callable[[], TrainState]


def build(
  config: ConfigDict,
  *,
  devices: Sequence[jax.Device] | None = None,
  images: int | None = None,
) -> Experiment:
  """Builds a run.

  Args:
    config: of the run.
    devices: to run on, or to compile for; None means all of this job.
    images: in an epoch. With it no data is opened and `pipeline` is None: the
      step can be built and compiled, and has no batches.

  Raises:
    UserError: a value that is not valid, or two that do not fit together;
      the message names the fix.
  """
  config_lib.check(config)
  config = setup_lib.resolve(config)
  guard.Limits(**config.guard)
  row = published.row_of_run(
    config.published,
    method=config.method.name,
    backbone=config.model.backbone,
    awareness=config.awareness.name,
    conditioning=config.model.conditioning,
  )
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  name = "batch_size" if config.accumulate == 1 else "batch_size / accumulate"
  sharding.check_batch(config.batch_size // config.accumulate, mesh, name=name)
  platform = platforms.of(mesh)
  # Checked before data is opened, which takes time.
  setup_lib.build(config, platform)
  if images is None:
    pipeline = data.build(
      **config.data,
      seed=config.seed,
      batch_size=config.batch_size,
      rows=sharding.local_rows(config.batch_size, mesh),
    )
    steps_per_epoch = pipeline.steps_per_epoch
  else:
    pipeline = None
    steps_per_epoch = max(images // config.batch_size, 1)
  setup = setup_lib.build(config, platform, steps_per_epoch=steps_per_epoch)
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
    frozen=setup.networks.frozen,
    copied=copied(setup.method, setup.awareness),
  )
  key = jax.random.key(config.seed)
  # Tracing the state also checks networks and optimiser against each other.
  abstract, make_state = init_state(
    key,
    setup,
    optimizer=optimizer,
    image_size=config.data.image_size,
    mesh=mesh,
  )
  return Experiment(
    config=config,
    pipeline=pipeline,
    **vars(setup),
    optimizer=optimizer,
    momentum=build_momentum(setup.method, total_steps, steps_per_epoch),
    mesh=mesh,
    total_steps=total_steps,
    published=row,
    key=key,
    abstract=abstract,
    make_state=make_state,
  )


def memory_statement(experiment: Experiment) -> str | None:
  """One line on parameters and bytes where a hypernetwork makes many."""
  networks, state = experiment.networks, experiment.abstract
  hyper = networks.projector.conditioning == "hypernetwork"
  if not hyper and not experiment.awareness.descriptors:
    return None
  config, method = experiment.config, experiment.method
  return footprint.statement(
    networks,
    state.params,
    state.opt_state,
    state.target,
    batch_size=config.batch_size // config.accumulate,
    views=len(method.online_views or experiment.policies),
  )


def memory_advice(experiment: Experiment) -> str:
  """The keys of a run's config that would save memory."""
  config, mesh = experiment.config, experiment.mesh
  return device_memory.advise(
    batch_size=config.batch_size,
    accumulate=config.accumulate,
    remat=config.model.remat,
    precision=config.precision,
    fsdp=mesh.shape["fsdp"],
    devices=mesh.size,
  )


def build_momentum(
  method: Method, total_steps: int, steps_per_epoch: int
) -> Callable[[jax.Array], jax.Array]:
  """Step -> momentum of the method's target."""
  if method.momentum_schedule == "constant":
    return lambda step: jnp.float32(method.momentum)
  return schedules.cosine_ramp(
    method.momentum,
    1.0,
    total_steps=total_steps,
    steps_per_epoch=steps_per_epoch,
    per=method.momentum_per,
    name="method.momentum_per",
  )


def init_state(
  key: jax.Array,
  setup: Setup,
  *,
  optimizer: optim.Optimizer,
  image_size: int,
  mesh: jax.sharding.Mesh,
) -> tuple[TrainState, Callable[[], TrainState]]:
  """The state's shapes with their shardings, and what makes it at step 0."""
  init = functools.partial(
    create_state,
    networks=setup.networks,
    method=setup.method,
    awareness=setup.awareness,
    optimizer=optimizer,
    image_size=image_size,
    omega_size=setup.omega_size,
  )
  key = jax.random.fold_in(key, 0x1417)
  shapes = jax.eval_shape(init, key)
  whole = [f"memory/{name}" for name in setup.method.whole]
  shardings = sharding.state_sharding(shapes, mesh, whole=whole)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings,
  )
  return abstract, functools.partial(
    jax.jit(init, out_shardings=shardings), key
  )


def root_key(seed: int) -> jax.Array:
  """The root of the randomness of all steps; step n uses fold_in(it, n - 1)."""
  return jax.random.fold_in(jax.random.key(seed), 0x57E9)


def step_key(experiment: Experiment) -> jax.Array:
  """The root of the randomness of all steps, on every device."""
  # By a program: a key cannot be put on the devices of other hosts.
  make = jax.jit(
    root_key,
    static_argnums=0,
    out_shardings=sharding.replicated(experiment.mesh),
  )
  return make(experiment.config.seed)


def canvas_of(config: ConfigDict) -> int:
  """Side in pixels of the canvases that a run of this config cuts from."""
  if config.data.canvas_size:
    return config.data.canvas_size
  canvas = data.canvas_rule(config.data.image_size)
  if config.data.source.startswith("bundled:"):
    # Pictures smaller than the rule's canvas keep their size.
    canvas = min(canvas, max(data.open_source(config.data.source).shape))
  return canvas


def abstract_inputs(experiment: Experiment, canvas_size: int) -> tuple:
  """What the compiled step takes, as shapes: (state, batch, store, key).

  Args:
    experiment: of which no data need be there, nor its devices.
    canvas_size: side of the pictures in px, which come with the batch.
  """
  rows = experiment.config.batch_size
  split = sharding.batch_sharding(experiment.mesh)
  whole = sharding.replicated(experiment.mesh)
  image = (rows, canvas_size, canvas_size, 3)
  batch = {
    "image": jax.ShapeDtypeStruct(image, jnp.uint8, sharding=split),
    "size": jax.ShapeDtypeStruct((rows, 2), jnp.int32, sharding=split),
    "stored": jax.ShapeDtypeStruct((rows, 2), jnp.int32, sharding=split),
  }
  key = jax.eval_shape(lambda: root_key(experiment.config.seed))
  key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
  return experiment.abstract, batch, None, key


def compile_step(experiment: Experiment, state: TrainState) -> Callable:
  """The jitted, donated step: (state, batch, store, key) -> (state, metrics).

  `batch` is what the pipeline yields as global arrays; `store` is the resident
  set {"image", "size"} that its indices point into, or None; `key` is
  `step_key(experiment)`, an argument so that runs of other seeds find their
  program in a compilation cache.
  """
  batch_sharding = sharding.batch_sharding(experiment.mesh)
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
    rows=batch_sharding,
  )

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
      # Its own count: it stands still where a step was not applied.
      "learning_rate": experiment.optimizer.learning_rate(
        state.opt_state.count
      ),
      "momentum": experiment.momentum(state.step),
    }

  shardings = jax.tree.map(lambda x: x.sharding, state)
  replicated = sharding.replicated(experiment.mesh)
  return jax.jit(
    on_store, donate_argnums=0, out_shardings=(shardings, replicated)
  )
