"""Optimisers and schedules out of the config section `optim`.

`build` returns an `Optimizer`: `init` and `update` as in optax, and the
schedules as pure functions of the step. A step is a Python or numpy integer
(the value is then computed in float64, for logs and tests) or a traced int32
(float32). The only counter is the one in the optimiser's own state, so a
restored state continues exactly where it stopped.

Which parameters an option concerns is told by paths such as
"backbone/stem/conv/kernel". A pattern that concerns no parameter is an error.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cassle_jax.optim import schedules
from cassle_jax.optim.options import Options
from cassle_jax.optim.paths import check_patterns, is_below_any, map_with_paths
from cassle_jax.optim.schedules import Schedule

# What groups of the parameters that `build` is told are `copied` begin with;
# their names are in checkpoints.
_COPIED = "stacked_"

Transformation = optax.GradientTransformationExtraArgs


class OptimizerState(NamedTuple):
  """What an optimiser carries: updates made so far and optax's own state."""

  count: jax.Array
  inner: Any


class Optimizer(NamedTuple):
  """An optax gradient transformation that also tells its schedules.

  Attributes:
    init: `init(params) -> OptimizerState`.
    update: `update(gradients, state, params) -> (updates, state)`; add the
      updates to the parameters with `optax.apply_updates`.
    keep: (new state, old state, index) -> the new one, in which those copies of
      `copied` parameters that are not at `index` are as they were.
    learning_rate: step -> learning rate of the main group, scaled by batch.
    weight_decay: step -> weight decay.
  """

  init: Callable[[Any], OptimizerState]
  update: Callable[..., tuple[Any, OptimizerState]]
  keep: Callable[[OptimizerState, OptimizerState, jax.Array], OptimizerState]
  learning_rate: Schedule
  weight_decay: Schedule


def build(
  *,
  batch_size: int,
  steps_per_epoch: int,
  total_steps: int,
  frozen: Sequence[str] = (),
  copied: Sequence[str] = (),
  **options: Any,
) -> Optimizer:
  """Builds the optimiser of a run.

  Args:
    batch_size: global batch, in images.
    steps_per_epoch: steps in an epoch.
    total_steps: steps in the whole run.
    frozen: path prefixes that get a zero update, and neither decay nor
      optimiser state.
    copied: path prefixes below which the first axis counts copies of a
      network. Each copy is optimised like a network of its own, its moments,
      adaptation and count of updates included.
    **options: the fields of `Options`.

  Returns:
    The optimiser.

  Raises:
    UserError: for an unknown name or a value out of range; `init` raises it
      for a pattern that no parameter matches.
  """
  options = Options(**options)
  scale = batch_size / 256 if options.scale_learning_rate else 1.0
  time = {
    "per": options.per,
    "steps_per_epoch": steps_per_epoch,
    "total_steps": total_steps,
  }
  fraction = schedules.learning_rate_fraction(
    options.schedule,
    warmup_epochs=options.warmup_epochs,
    final=options.final_learning_rate,
    milestones=options.milestones,
    decay_factor=options.decay_factor,
    **time,
  )
  if options.final_weight_decay is None:
    decay = schedules.constant(options.weight_decay)
  else:
    decay = schedules.cosine_ramp(
      options.weight_decay, options.final_weight_decay, **time
    )

  def rests(path: str) -> float | None:
    """Epochs at the start in which a parameter rests; None: it always does."""
    return None if is_below_any(path, frozen) else options.rests(path)

  core = _partition(options, scale, rests, copied, steps_per_epoch)

  def init(params: Any) -> OptimizerState:
    scaled = [prefix for prefix, _ in options.learning_rate_scale]
    prefixes = {
      "optim.constant": options.constant,
      "optim.freeze": [prefix for prefix, _ in options.freeze],
      "optim.learning_rate_scale": scaled,
      "frozen": frozen,
    }
    check_patterns(params, exclude=options.exclude, prefixes=prefixes)
    return OptimizerState(jnp.zeros((), jnp.int32), core.init(params))

  def update(
    gradients: Any, state: OptimizerState, params: Any
  ) -> tuple[Any, OptimizerState]:
    if options.clip_norm:
      gradients = _clip(
        gradients, options.clip_norm, rests, state.count, steps_per_epoch
      )
    updates, inner = core.update(
      gradients,
      state.inner,
      params,
      step=state.count,
      fraction=fraction(state.count),
      weight_decay=decay(state.count),
    )
    return updates, OptimizerState(optax.safe_increment(state.count), inner)

  return Optimizer(
    init,
    update,
    _keep,
    learning_rate=lambda step: scale * options.learning_rate * fraction(step),
    weight_decay=decay,
  )


def _keep(
  new: OptimizerState, old: OptimizerState, index: jax.Array
) -> OptimizerState:
  """See `Optimizer.keep`."""
  groups, before = new.inner.inner_states, old.inner.inner_states
  kept = {
    name: jax.tree.map(
      lambda x, y: y.at[index].set(x[index]), group, before[name]
    )
    for name, group in groups.items()
    if name.startswith(_COPIED)
  }
  inner = new.inner._replace(inner_states={**groups, **kept})
  return new._replace(inner=inner)


def _clip(
  gradients: Any,
  norm: float,
  rests: Callable[[str], float | None],
  step: jax.Array,
  steps_per_epoch: int,
) -> Any:
  """Clips the norm over those parameters that do not rest."""

  def moving(path: str, gradient: jax.Array) -> jax.Array:
    epochs = rests(path)
    moves = epochs is not None and step >= round(epochs * steps_per_epoch)
    return jnp.where(moves, gradient, 0)

  gradients = map_with_paths(moving, gradients)
  divisor = jnp.maximum(optax.tree.norm(gradients) / norm, 1)
  return jax.tree.map(lambda gradient: gradient / divisor, gradients)


def _partition(
  options: Options,
  scale: float,
  rests: Callable[[str], float | None],
  copied: Sequence[str],
  steps_per_epoch: int,
) -> Transformation:
  """Groups parameters by when they start and whether they are copies."""
  # Parameters that start later have moments of their own: adamw's correction
  # of the bias counts from their first step. The names are in checkpoints.
  late = sorted({epochs for _, epochs in options.freeze} - {0})
  labels = {0: "trained"} | {e: f"trained_late_{i}" for i, e in enumerate(late)}
  groups, descent = {"frozen": optax.set_to_zero()}, _descent(options, scale)
  for epochs, label in labels.items():
    groups[label] = _starting_at(round(epochs * steps_per_epoch), descent)
    groups[_COPIED + label] = _each_copy(groups[label])

  def group(path: str, _: Any) -> str:
    label = labels.get(rests(path), "frozen")
    several = label != "frozen" and is_below_any(path, copied)
    return _COPIED + label if several else label

  return optax.partition(groups, functools.partial(map_with_paths, group))


def _descent(options: Options, scale: float) -> Transformation:
  """Turns gradients of a network into what is added to its parameters."""

  def add_decay(updates, state, params, *, weight_decay, **_):
    def add(path, u, p):
      return u + weight_decay * p if options.decays(path, p) else u

    return map_with_paths(add, updates, params), state

  def descend(updates, state, params=None, *, fraction, **_):
    def scaled(path, u):
      return -options.rate(path, u, scale, fraction) * u

    return map_with_paths(scaled, updates), state

  decay = Transformation(optax.init_empty_state, add_decay)
  adam = optax.scale_by_adam(*options.betas, eps=options.epsilon)
  trust = optax.masked(
    optax.scale_by_trust_ratio(trust_coefficient=options.trust_coefficient),
    functools.partial(map_with_paths, options.decays),
  )
  momentum = optax.trace(options.momentum)
  pieces = {
    "sgd": (decay, momentum),
    "adamw": (adam, decay),
    "lars": (decay, trust, momentum),
  }[options.name]
  return optax.chain(*pieces, Transformation(optax.init_empty_state, descend))


def _starting_at(start: int, inner: Transformation) -> Transformation:
  """Keeps parameters and the transformation's state still until a step."""
  if not start:
    return inner

  def update(updates, state, params, *, step, **rest):
    new = inner.update(updates, state, params, **rest)
    still = jax.tree.map(jnp.zeros_like, updates), state
    return jax.tree.map(lambda a, b: jnp.where(step < start, a, b), still, new)

  return Transformation(inner.init, update)


def _each_copy(inner: Transformation) -> Transformation:
  """The transformation for each entry of the leading axis by itself."""

  def init(params):
    return jax.vmap(inner.init)(params) if jax.tree.leaves(params) else ()

  def update(updates, state, params, **extra):
    if not jax.tree.leaves(updates):
      return updates, state
    return jax.vmap(lambda u, s, p: inner.update(u, s, p, **extra))(
      updates, state, params
    )

  return Transformation(init, update)
