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

from cassle_jax import schedules
from cassle_jax.errors import UserError, unknown
from cassle_jax.schedules import Schedule, cosine_ramp, learning_rate_fraction

_NAMES = ("adamw", "lars", "sgd")


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
  constant: tuple[str, ...] = (),
  learning_rate_scale: tuple[tuple[str, float], ...] = (),
  batch_size: int,
  steps_per_epoch: int,
  total_steps: int,
  frozen: Sequence[str] = (),
) -> Optimizer:
  """Builds the optimiser; all but the last four arguments are config keys.

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
      in lars. lars always excludes "ndim1".
    constant: path prefixes whose rate neither warms up nor decays (SimSiam's
      "predictor").
    learning_rate_scale: pairs of a path prefix and a factor on its rate.
    batch_size: global batch, in images.
    steps_per_epoch: steps in an epoch.
    total_steps: steps in the whole run.
    frozen: path prefixes that get a zero update, and neither decay nor
      optimiser state.

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
    thin = leaf.ndim <= 1 and (name == "lars" or "ndim1" in exclude)
    return not thin and not any(
      re.search(rule, path) for rule in exclude if rule != "ndim1"
    )

  def rate(path: str, leaf: Any, fraction: Any) -> Any:
    thin = leaf.ndim <= 1 and bias_learning_rate is not None
    base = scale * (bias_learning_rate if thin else learning_rate)
    for prefix, factor in learning_rate_scale:
      base *= factor if _below(path, prefix) else 1.0
    return base if _below_any(path, constant) else base * fraction

  def labels(tree: Any) -> Any:
    return _map(
      lambda path, _: "frozen" if _below_any(path, frozen) else "trained", tree
    )

  coupled = _add_decay(decayed)
  pieces = {
    "sgd": lambda: [coupled, optax.trace(momentum)],
    "adamw": lambda: [optax.scale_by_adam(*betas, eps=epsilon), coupled],
    "lars": lambda: [
      coupled,
      optax.masked(
        optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient),
        lambda tree: _map(decayed, tree),
      ),
      optax.trace(momentum),
    ],
  }[name]()
  clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  core = optax.partition(
    {
      "trained": optax.chain(*clip, *pieces, _descend(rate)),
      "frozen": optax.set_to_zero(),
    },
    labels,
  )

  def init(params: Any) -> OptimizerState:
    _check_patterns(params, exclude, constant, learning_rate_scale, frozen)
    return OptimizerState(jnp.zeros((), jnp.int32), core.init(params))

  def update(
    gradients: Any, state: OptimizerState, params: Any
  ) -> tuple[Any, OptimizerState]:
    updates, inner = core.update(
      gradients,
      state.inner,
      params,
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


def _add_decay(
  decayed: Callable[[str, Any], bool],
) -> optax.GradientTransformationExtraArgs:
  def update(updates, state, params, *, weight_decay, **_):
    new = _map(
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
    new = _map(lambda path, u: -rate(path, u, fraction) * u, updates)
    return new, state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _map(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
  """Maps function(path, leaf, ...) over trees; paths are joined by "/"."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: function(_name(path), *leaves), tree, *rest
  )


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _below(path: str, prefix: str) -> bool:
  return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def _below_any(path: str, prefixes: Sequence[str]) -> bool:
  return any(_below(path, prefix) for prefix in prefixes)


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


def _check_patterns(
  params: Any,
  exclude: Sequence[str],
  constant: Sequence[str],
  scales: Sequence[tuple[str, float]],
  frozen: Sequence[str],
) -> None:
  """Refuses patterns that would silently do nothing."""
  paths = [_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
  groups = ", ".join(sorted({path.split("/")[0] for path in paths}))
  prefixes = {
    "optim.constant": constant,
    "optim.learning_rate_scale": [prefix for prefix, _ in scales],
    "frozen": frozen,
  }
  for key, values in prefixes.items():
    for prefix in values:
      if not any(_below(path, prefix) for path in paths):
        raise UserError(
          f"{key} names {prefix!r}, under which there is no parameter; paths "
          f"start with {groups} and go on like {paths[0]!r}"
        )
  for rule in exclude:
    try:
      found = rule == "ndim1" or any(re.search(rule, path) for path in paths)
    except re.error as error:
      raise UserError(
        f"optim.exclude: {rule!r} is no regular expression: {error}"
      ) from None
    if not found:
      raise UserError(
        f"optim.exclude: {rule!r} matches no parameter path; paths look like "
        f"{paths[0]!r}; 'ndim1' means all with at most one axis"
      )
