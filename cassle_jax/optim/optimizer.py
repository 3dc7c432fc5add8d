"""Optimisers and schedules out of the config section `optim`.

`build` returns an `Optimizer`: `init` and `update` as in optax, and the
schedules as pure functions of the step. A step is a Python or numpy integer
(the value is then computed in float64, for logs and tests) or a traced int32
(float32). The only counter is the one in the optimiser's own state, so a
restored state continues exactly where it stopped.

Which parameters an option concerns is told by paths such as
"backbone/stem/conv/kernel". A pattern that concerns no parameter is an error.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cassle_jax.errors import UserError, unknown
from cassle_jax.optim import schedules
from cassle_jax.optim.paths import (
  check_patterns,
  is_below,
  is_below_any,
  map_with_paths,
)
from cassle_jax.optim.schedules import Schedule

_NAMES = ("adamw", "lars", "sgd")
# What the keys of an optimiser's state begin with for the parameters that
# `build` is told are `stacked`; such keys are in checkpoints.
STACKED = "stacked"


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
    learning_rate: step -> learning rate of the main group, scaled by batch.
    weight_decay: step -> weight decay.
  """

  init: Callable[[Any], OptimizerState]
  update: Callable[..., tuple[Any, OptimizerState]]
  learning_rate: Schedule
  weight_decay: Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The config section `optim`.

  "sgd" is torch's: the decay is added to the gradient of every parameter,
  biases included, before the momentum. "adamw" decays every parameter apart
  from the gradient (Loshchilov and Hutter 2019), as MoCo-v3 uses it. "lars" is
  the form that MoCo-v3, Barlow Twins and VICReg share: for parameters of two
  or more axes u = g + wd p, scaled by trust |p| / |u|; for the others u = g;
  then m = momentum m + u and p = p - lr m (You et al. 2017).

  Attributes:
    name: "sgd", "adamw" or "lars".
    learning_rate: for a batch of 256 images.
    scale_learning_rate: whether to multiply the rates by batch_size / 256.
    bias_learning_rate: rate of the parameters with at most one axis; None
      means `learning_rate` (Barlow Twins uses another).
    weight_decay: strength of the decay at the first step.
    final_weight_decay: its value at the end of a cosine; None keeps it
      constant (DINO raises it).
    momentum: of sgd and lars, in [0, 1).
    betas: decays of adamw's first and second moments, each in [0, 1).
    epsilon: added to the root of adamw's second moment.
    trust_coefficient: of lars.
    clip_norm: largest global norm of the gradient; 0 does not clip.
    schedule: "cosine", "linear" (to zero), "constant" or "multistep".
    per: whether the rates change every "step" or every "epoch".
    warmup_epochs: epochs of linear warm-up. It starts at 0 when the rate
      changes every step (MoCo-v3) and at 1 / warmup_epochs when it changes
      every epoch (CASSLE's published code).
    final_learning_rate: where cosine and linear end, as a fraction of the
      rate.
    milestones: of multistep, as fractions of the run.
    decay_factor: of multistep, applied at each milestone.
    exclude: regular expressions searched in parameter paths, or "ndim1" for
      all parameters with at most one axis: no weight decay, and no adaptation
      in lars. lars always excludes "ndim1", unless told to `adapt_all`.
    adapt_all: whether lars decays and adapts parameters with at most one axis
      like the others (SwAV).
    constant: path prefixes whose rate neither warms up nor decays (SimSiam's
      "predictor").
    freeze: pairs of a path prefix and a number of epochs at the start, in
      which those parameters stay as they are: no update, no decay, no trace in
      the moments or in the norm that is clipped (SwAV's prototypes, DINO's
      last layer). The longest holds where several prefixes match.
    learning_rate_scale: pairs of a path prefix and a factor on its rate.
  """

  name: str = "sgd"
  learning_rate: float = 0.03
  scale_learning_rate: bool = True
  bias_learning_rate: float | None = None
  weight_decay: float = 1e-4
  final_weight_decay: float | None = None
  momentum: float = 0.9
  betas: tuple[float, float] = (0.9, 0.999)
  epsilon: float = 1e-8
  trust_coefficient: float = 0.001
  clip_norm: float = 0.0
  schedule: str = "cosine"
  per: str = "step"
  warmup_epochs: float = 0.0
  final_learning_rate: float = 0.0
  milestones: tuple[float, ...] = (0.6, 0.8)
  decay_factor: float = 0.1
  exclude: tuple[str, ...] = ()
  adapt_all: bool = False
  constant: tuple[str, ...] = ()
  freeze: tuple[tuple[str, float], ...] = ()
  learning_rate_scale: tuple[tuple[str, float], ...] = ()


def build(
  *,
  batch_size: int,
  steps_per_epoch: int,
  total_steps: int,
  frozen: Sequence[str] = (),
  stacked: Sequence[str] = (),
  **options: Any,
) -> Optimizer:
  """Builds the optimiser of a run.

  Args:
    batch_size: global batch, in images.
    steps_per_epoch: steps in an epoch.
    total_steps: steps in the whole run.
    frozen: path prefixes that get a zero update, and neither decay nor
      optimiser state.
    stacked: path prefixes below which the first axis counts copies of a
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
  _check(options)
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
  core = _partition(
    _descent(options, scale), options, frozen, stacked, steps_per_epoch
  )

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
        gradients, state.count, options, frozen, steps_per_epoch
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
    learning_rate=lambda step: scale * options.learning_rate * fraction(step),
    weight_decay=decay,
  )


def _descent(
  options: Options, scale: float
) -> optax.GradientTransformationExtraArgs:
  """Turns gradients of a network into what is added to its parameters."""
  decayed = functools.partial(_decayed, options)
  decay = _add_decay(decayed)
  adam = optax.scale_by_adam(*options.betas, eps=options.epsilon)
  trust = optax.scale_by_trust_ratio(
    trust_coefficient=options.trust_coefficient
  )
  trust = optax.masked(trust, functools.partial(map_with_paths, decayed))
  momentum = optax.trace(options.momentum)
  pieces = {
    "sgd": (decay, momentum),
    "adamw": (adam, decay),
    "lars": (decay, trust, momentum),
  }[options.name]
  return optax.chain(
    *pieces, _descend(functools.partial(_rate, options, scale))
  )


def _decayed(options: Options, path: str, leaf: Any) -> bool:
  """Whether a parameter decays, and adapts in lars."""
  spared = "ndim1" in options.exclude or (
    options.name == "lars" and not options.adapt_all
  )
  return not (leaf.ndim <= 1 and spared) and not any(
    re.search(rule, path) for rule in options.exclude if rule != "ndim1"
  )


def _rate(
  options: Options, scale: float, path: str, leaf: Any, fraction: Any
) -> Any:
  """A parameter's learning rate where the schedule is at `fraction`."""
  rate = options.learning_rate
  if leaf.ndim <= 1 and options.bias_learning_rate is not None:
    rate = options.bias_learning_rate
  base = scale * rate
  for prefix, factor in options.learning_rate_scale:
    base *= factor if is_below(path, prefix) else 1.0
  return base if is_below_any(path, options.constant) else base * fraction


def _rests(options: Options, frozen: Sequence[str], path: str) -> float | None:
  """Epochs at the start in which a parameter rests; None: it always does."""
  if is_below_any(path, frozen):
    return None
  return max((e for p, e in options.freeze if is_below(path, p)), default=0)


def _clip(
  gradients: Any,
  step: jax.Array,
  options: Options,
  frozen: Sequence[str],
  steps_per_epoch: int,
) -> Any:
  """Clips the norm over those parameters that do not rest."""

  def moving(path: str, gradient: jax.Array) -> jax.Array:
    epochs = _rests(options, frozen, path)
    moves = epochs is not None and step >= round(epochs * steps_per_epoch)
    return jnp.where(moves, gradient, 0)

  gradients = map_with_paths(moving, gradients)
  divisor = jnp.maximum(optax.tree.norm(gradients) / options.clip_norm, 1)
  return jax.tree.map(lambda gradient: gradient / divisor, gradients)


def _partition(
  descent: optax.GradientTransformationExtraArgs,
  options: Options,
  frozen: Sequence[str],
  stacked: Sequence[str],
  steps_per_epoch: int,
) -> optax.GradientTransformationExtraArgs:
  """Groups parameters by when they start and whether they are copies."""
  # Parameters that start later have moments of their own: adamw's correction
  # of the bias counts from their first step. The names are in checkpoints.
  late = sorted({epochs for _, epochs in options.freeze} - {0})
  labels = {0: "trained"} | {e: f"trained_late_{i}" for i, e in enumerate(late)}
  groups = {"frozen": optax.set_to_zero()}
  for epochs, label in labels.items():
    groups[label] = _starting_at(round(epochs * steps_per_epoch), descent)
    groups[f"{STACKED}_{label}"] = _each_copy(groups[label])

  def group(path: str, _: Any) -> str:
    label = labels.get(_rests(options, frozen, path), "frozen")
    several = label != "frozen" and is_below_any(path, stacked)
    return f"{STACKED}_{label}" if several else label

  return optax.partition(groups, functools.partial(map_with_paths, group))


def _starting_at(
  start: int, inner: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
  """Keeps parameters and the transformation's state still until a step."""
  if not start:
    return inner

  def update(updates, state, params, *, step, **rest):
    new = inner.update(updates, state, params, **rest)
    still = jax.tree.map(jnp.zeros_like, updates), state
    return jax.tree.map(lambda a, b: jnp.where(step < start, a, b), still, new)

  return optax.GradientTransformationExtraArgs(inner.init, update)


def _each_copy(
  inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
  """The transformation for each entry of the leading axis by itself."""

  def init(params):
    return jax.vmap(inner.init)(params) if jax.tree.leaves(params) else ()

  def update(updates, state, params, **extra):
    if not jax.tree.leaves(updates):
      return updates, state
    return jax.vmap(lambda u, s, p: inner.update(u, s, p, **extra))(
      updates, state, params
    )

  return optax.GradientTransformationExtraArgs(init, update)


def _add_decay(
  decayed: Callable[[str, Any], bool],
) -> optax.GradientTransformationExtraArgs:
  def update(updates, state, params, *, weight_decay, **_):
    new = map_with_paths(
      lambda path, u, p: u + weight_decay * p if decayed(path, p) else u,
      updates,
      params,
    )
    return new, state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _descend(
  rate: Callable[[str, Any, Any], Any],
) -> optax.GradientTransformationExtraArgs:
  def update(updates, state, params=None, *, fraction, **_):
    new = map_with_paths(lambda path, u: -rate(path, u, fraction) * u, updates)
    return new, state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _check(options: Options) -> None:
  if options.name not in _NAMES:
    raise unknown("optim.name", options.name, _NAMES)
  ranges = {
    key: getattr(options, key) or 0.0
    for key in (
      "learning_rate",
      "bias_learning_rate",
      "weight_decay",
      "final_weight_decay",
      "warmup_epochs",
      "clip_norm",
    )
  } | {f"freeze of {prefix!r}": epochs for prefix, epochs in options.freeze}
  for key, value in ranges.items():
    if not value >= 0:
      raise UserError(f"optim.{key} is {value}: it must be at least 0")
  if not 0 <= options.momentum < 1:
    raise UserError(
      f"optim.momentum is {options.momentum}: it must be in [0, 1), e.g. 0.9"
    )
  betas = tuple(options.betas)
  if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
    raise UserError(
      f"optim.betas is {betas}: it must be two numbers in [0, 1), e.g."
      " (0.9, 0.999)"
    )
  if options.adapt_all and options.name != "lars":
    raise UserError(
      f"optim.adapt_all=True concerns lars, not {options.name}: leave it out"
    )
