"""The config section `optim`: its keys, and what they say of a parameter."""

import dataclasses
import re
from typing import Any

from cassle_jax.errors import (
  ABOVE_0,
  AT_LEAST_0,
  SHARE,
  Range,
  UserError,
  Words,
  require,
)
from cassle_jax.optim.paths import is_below, is_below_any
from cassle_jax.optim.schedules import SCHEDULES, UNITS

RULES = {
  "name": Words(("adamw", "lars", "sgd")),
  "learning_rate": AT_LEAST_0,
  "bias_learning_rate": AT_LEAST_0,
  "weight_decay": AT_LEAST_0,
  "final_weight_decay": AT_LEAST_0,
  "momentum": Range(0, 1, below=True),
  "betas": Range(0, 1, below=True),
  "epsilon": AT_LEAST_0,
  "trust_coefficient": ABOVE_0,
  "clip_norm": AT_LEAST_0,
  "schedule": Words(SCHEDULES),
  "per": Words(UNITS),
  "warmup_epochs": AT_LEAST_0,
  "final_learning_rate": AT_LEAST_0,
  "milestones": SHARE,
  "decay_factor": AT_LEAST_0,
  "freeze": AT_LEAST_0,
  "learning_rate_scale": AT_LEAST_0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The config section `optim`.

  "sgd" is torch's: the decay is added to the gradient of every parameter,
  biases included, before the momentum. "adamw" decays every parameter apart
  from the gradient (Loshchilov and Hutter 2019), as MoCo-v3 uses it. "lars" is
  the form that MoCo-v3, Barlow Twins and VICReg share: for parameters of two
  or more axes u = g + wd p, scaled by trust `|p| / |u|`; for the others u = g;
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

  def __post_init__(self):
    require("optim", RULES, **vars(self))
    if len(self.betas) != 2:
      raise UserError(
        f"optim.betas is {tuple(self.betas)}: it must be two numbers, e.g."
        " (0.9, 0.999)"
      )
    if self.adapt_all and self.name != "lars":
      raise UserError(
        f"optim.adapt_all=True concerns lars, not {self.name}: leave it out"
      )

  def decays(self, path: str, leaf: Any) -> bool:
    """Whether a parameter decays, and adapts in lars."""
    spared = "ndim1" in self.exclude or (
      self.name == "lars" and not self.adapt_all
    )
    return not (leaf.ndim <= 1 and spared) and not any(
      re.search(rule, path) for rule in self.exclude if rule != "ndim1"
    )

  def rate(self, path: str, leaf: Any, scale: float, fraction: Any) -> Any:
    """A parameter's learning rate where the schedule is at `fraction`."""
    rate = self.learning_rate
    if leaf.ndim <= 1 and self.bias_learning_rate is not None:
      rate = self.bias_learning_rate
    base = scale * rate
    for prefix, factor in self.learning_rate_scale:
      base *= factor if is_below(path, prefix) else 1.0
    return base if is_below_any(path, self.constant) else base * fraction

  def rests(self, path: str) -> float:
    """Epochs at the start in which a parameter stays as it is."""
    return max((e for p, e in self.freeze if is_below(path, p)), default=0)
