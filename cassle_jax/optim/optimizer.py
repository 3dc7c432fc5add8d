"""Optimisers and schedules as one function of the config section `optim`.

`build` returns an `Optimizer`: `init` and `update` as in optax, and the
schedules as pure functions of the step. A step is a Python or numpy integer
(the value is then computed in float64, for logs and tests) or a traced int32
(float32). The only counter is the one in the optimiser's own state, so a
restored state continues exactly where it stopped.

Which parameters an option concerns is told by paths such as
"backbone/stem/conv/kernel". A pattern that concerns no parameter is an error.
"""

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
from cassle_jax.optim.schedules import (
  Schedule,
  cosine_ramp,
  learning_rate_fraction,
)

_NAMES = ("adamw", "lars", "sgd")
# What the keys of an optimiser's state begin with where copies of a network
# have one state each, on a leading axis.
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


def build(
  *,
  name: str = "sgd",
  learning_rate: float = 0.03,
  scale_learning_rate: bool = True,
  bias_learning_rate: float | None = None,
  weight_decay: float = 1e-4,
  final_weight_decay: float | None = None,
  momentum: float = 0.9,
  betas: tuple[float, float] = (0.9, 0.999),
  epsilon: float = 1e-8,
  trust_coefficient: float = 0.001,
  clip_norm: float = 0.0,
  schedule: str = "cosine",
  per: str = "step",
  warmup_epochs: float = 0.0,
  final_learning_rate: float = 0.0,
  milestones: tuple[float, ...] = (0.6, 0.8),
  decay_factor: float = 0.1,
  exclude: tuple[str, ...] = (),
  adapt_all: bool = False,
  constant: tuple[str, ...] = (),
  freeze: tuple[tuple[str, float], ...] = (),
  learning_rate_scale: tuple[tuple[str, float], ...] = (),
  batch_size: int,
  steps_per_epoch: int,
  total_steps: int,
  frozen: Sequence[str] = (),
  stacked: Sequence[str] = (),
) -> Optimizer:
  """Builds the optimiser; all but the last five arguments are config keys.

  "sgd" is torch's: the decay is added to the gradient of every parameter,
  biases included, before the momentum. "adamw" decays every parameter apart
  from the gradient (Loshchilov and Hutter 2019), as MoCo-v3 uses it. "lars" is
  the form that MoCo-v3, Barlow Twins and VICReg share: for parameters of two
  or more axes u = g + wd p, scaled by trust |p| / |u|; for the others u = g;
  then m = momentum m + u and p = p - lr m (You et al. 2017).

  Args:
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
    batch_size: global batch, in images.
    steps_per_epoch: steps in an epoch.
    total_steps: steps in the whole run.
    frozen: path prefixes that get a zero update, and neither decay nor
      optimiser state.
    stacked: path prefixes below which the first axis counts copies of a
      network. Each copy is optimised like a network of its own, its moments,
      adaptation and count of updates included.

  Returns:
    The optimiser.

  Raises:
    UserError: for an unknown name or a value out of range; `init` raises it
      for a pattern that no parameter matches.
  """
  if name not in _NAMES:
    raise unknown("optim.name", name, _NAMES)
  _check_ranges(
    learning_rate=learning_rate,
    bias_learning_rate=bias_learning_rate or 0.0,
    weight_decay=weight_decay,
    final_weight_decay=final_weight_decay or 0.0,
    warmup_epochs=warmup_epochs,
    clip_norm=clip_norm,
  )
  _check_shares(momentum, betas)
  for prefix, epochs in freeze:
    _check_ranges(**{f"freeze of {prefix!r}": epochs})
  if adapt_all and name != "lars":
    raise UserError(
      f"optim.adapt_all=True concerns lars, not {name}: leave it out"
    )
  scale = batch_size / 256 if scale_learning_rate else 1.0
  time = {
    "per": per,
    "steps_per_epoch": steps_per_epoch,
    "total_steps": total_steps,
  }
  fraction = learning_rate_fraction(
    schedule,
    warmup_epochs=warmup_epochs,
    final=final_learning_rate,
    milestones=milestones,
    decay_factor=decay_factor,
    **time,
  )
  if final_weight_decay is None:
    decay = schedules.constant(weight_decay)
  else:
    decay = cosine_ramp(weight_decay, final_weight_decay, **time)
  exclude = tuple(exclude)

  def decayed(path: str, leaf: Any) -> bool:
    spared = "ndim1" in exclude or name == "lars" and not adapt_all
    thin = leaf.ndim <= 1 and spared
    return not thin and not any(
      re.search(rule, path) for rule in exclude if rule != "ndim1"
    )

  def rate(path: str, leaf: Any, fraction: Any) -> Any:
    thin = leaf.ndim <= 1 and bias_learning_rate is not None
    base = scale * (bias_learning_rate if thin else learning_rate)
    for prefix, factor in learning_rate_scale:
      base *= factor if is_below(path, prefix) else 1.0
    return base if is_below_any(path, constant) else base * fraction

  def rest(path: str) -> float | None:
    """Epochs at the start in which a parameter rests; None: it always does."""
    if is_below_any(path, frozen):
      return None
    return max((e for prefix, e in freeze if is_below(path, prefix)), default=0)

  def moves(path: str, step: jax.Array) -> Any:
    epochs = rest(path)
    return epochs is not None and step >= round(epochs * steps_per_epoch)

  coupled = _add_decay(decayed)
  pieces = {
    "sgd": lambda: [coupled, optax.trace(momentum)],
    "adamw": lambda: [optax.scale_by_adam(*betas, eps=epsilon), coupled],
    "lars": lambda: [
      coupled,
      optax.masked(
        optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient),
        lambda tree: map_with_paths(decayed, tree),
      ),
      optax.trace(momentum),
    ],
  }[name]()
  trained = optax.chain(*pieces, _descend(rate))
  # Parameters that start later have moments of their own: adamw's correction
  # of the bias counts from their first step. The names are in checkpoints.
  late = sorted({epochs for _, epochs in freeze} - {0})
  labels = {0: "trained"} | {e: f"trained_late_{i}" for i, e in enumerate(late)}
  groups = {"frozen": optax.set_to_zero()}
  for epochs, label in labels.items():
    groups[label] = _starting_at(round(epochs * steps_per_epoch), trained)
    groups[f"{STACKED}_{label}"] = _each_copy(groups[label])

  def group(path: str) -> str:
    label = labels.get(rest(path), "frozen")
    several = label != "frozen" and is_below_any(path, stacked)
    return f"{STACKED}_{label}" if several else label

  core = optax.partition(
    groups, lambda tree: map_with_paths(lambda path, _: group(path), tree)
  )

  def init(params: Any) -> OptimizerState:
    prefixes = {
      "optim.constant": constant,
      "optim.freeze": [prefix for prefix, _ in freeze],
      "optim.learning_rate_scale": [
        prefix for prefix, _ in learning_rate_scale
      ],
      "frozen": frozen,
    }
    check_patterns(params, exclude=exclude, prefixes=prefixes)
    return OptimizerState(jnp.zeros((), jnp.int32), core.init(params))

  def update(
    gradients: Any, state: OptimizerState, params: Any
  ) -> tuple[Any, OptimizerState]:
    if clip_norm:
      moving = map_with_paths(
        lambda path, g: jnp.where(moves(path, state.count), g, 0), gradients
      )
      divisor = jnp.maximum(optax.tree.norm(moving) / clip_norm, 1)
      gradients = jax.tree.map(lambda g: g / divisor, moving)
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
    lambda step: scale * learning_rate * fraction(step),
    decay,
  )


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


def _check_ranges(**values: float) -> None:
  for name, value in values.items():
    if not value >= 0:
      raise UserError(f"optim.{name} is {value}: it must be at least 0")


def _check_shares(momentum: float, betas: tuple[float, float]) -> None:
  if not 0 <= momentum < 1:
    raise UserError(
      f"optim.momentum is {momentum}: it must be in [0, 1), e.g. 0.9"
    )
  if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
    raise UserError(
      f"optim.betas is {tuple(betas)}: it must be two numbers in [0, 1), e.g."
      " (0.9, 0.999)"
    )
