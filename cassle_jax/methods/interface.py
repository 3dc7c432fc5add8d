"""What a method hands to the step: its heads, its loss, its target rule.

A base method is one file of this folder with one function `build(...)` that
returns a `Method`. The step (step/update.py) does the rest: it makes the views,
runs the encoders, takes the gradient and moves the target. Adding a method
means adding a file and one row of `methods.METHODS`.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from cassle_jax.errors import (
  ABOVE_0,
  AT_LEAST_0,
  AT_LEAST_1,
  SHARE,
  Range,
  UserError,
  Words,
  require,
)
from cassle_jax.methods.contrast import Contrastive

# What the numbers of any method may be, by their names.
RULES = {
  "temperature": ABOVE_0,
  "momentum": SHARE,
  "momentum_schedule": Words(("constant", "cosine")),
  "momentum_per": Words(("step", "epoch")),
  "queue_size": AT_LEAST_1,
  "queue_source": Words(("key", "query")),
  "target_update": Words(("before", "after")),
  "redundancy_weight": AT_LEAST_0,
  "invariance_weight": AT_LEAST_0,
  "variance_weight": AT_LEAST_0,
  "covariance_weight": AT_LEAST_0,
  "prototypes": Range(2),
  "epsilon": ABOVE_0,
  "iterations": AT_LEAST_1,
  "teacher_temperature": ABOVE_0,
  "warmup_teacher_temperature": ABOVE_0,
  "warmup_teacher_epochs": AT_LEAST_0,
  "center_momentum": SHARE,
  "sigreg_weight": SHARE,
  "directions": AT_LEAST_1,
  "knots": Range(2),
  "global_views": AT_LEAST_1,
}
# Raises UserError for keyword arguments of a method that are out of range.
check_numbers = functools.partial(require, "method", RULES)

Memory = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Heads(NamedTuple):
  """Layer sizes behind the backbone; `()` or 0: there is no such head.

  Attributes:
    projector: sizes (hidden..., output) of the projector; 0 stands for the
      width of the backbone's output.
    projector_norm: BatchNorm after the last layer, "none", "plain" (without
      scale and bias) or "affine".
    projector_bias: bias of the last layer; None = iff `projector_norm` is
      "none".
    projector_hidden_norm: BatchNorm in the hidden layers.
    projector_activation: "relu" or "gelu".
    predictor: sizes (hidden..., output) of the predictor.
    predictor_norm: as `projector_norm`.
    predictor_bias: as `projector_bias`.
    prototypes: number of directions that unit-length projections are compared
      with.
    prototypes_weight_norm: whether each direction is divided by its length in
      the forward pass.
  """

  projector: tuple[int, ...]
  projector_norm: str = "none"
  projector_bias: bool | None = None
  projector_hidden_norm: bool = True
  projector_activation: str = "relu"
  predictor: tuple[int, ...] = ()
  predictor_norm: str = "none"
  predictor_bias: bool | None = None
  prototypes: int = 0
  prototypes_weight_norm: bool = False


class Branch(NamedTuple):
  """The outputs of one encoder for the views that it was given.

  Attributes:
    features: backbone outputs, one [B, d] float32 array a view.
    projections: projector outputs, one [B, k] float32 array a view;
      [B, spaces, k] where a method has several spaces.
    predictions: predictor outputs, the same, or () without a predictor.
    scores: prototypes' outputs, one [B, K] array a view, or () without.
  """

  features: tuple[jax.Array, ...] = ()
  projections: tuple[jax.Array, ...] = ()
  predictions: tuple[jax.Array, ...] = ()
  scores: tuple[jax.Array, ...] = ()


# (key, online, target, memory) -> (scalar float32 loss, metrics).
Loss = Callable[[jax.Array, Branch, Branch, Memory], tuple[jax.Array, Metrics]]


class Widths(NamedTuple):
  """Sizes of the outputs that a memory may hold.

  Attributes:
    projection: k of the projections.
    scores: K of the prototypes' outputs; 0 without prototypes.
  """

  projection: int
  scores: int = 0


class Method(NamedTuple):
  """A joint-embedding method as the step sees it.

  Attributes:
    name: as in `config.method.name`.
    heads: the shape of its heads.
    loss: (key, online, target, memory) -> (scalar float32 loss, metrics).
      Written over the global batch; the target carries no gradient. The key is
      the step's, for losses that draw something.
    online_views: indices of the views that the online encoder sees; None for
      every view that the augmentation makes.
    global_views: how many views, from the first, the loss takes as the global
      ones; the augmentation has to make as many.
    target_views: indices of the views that the target encoder sees; () when
      the method has no target encoder.
    target_update: "none", or the moment at which the target moves: "before"
      the key pass or "after" the optimiser step.
    momentum: the target's momentum at the first step, in [0, 1].
    momentum_schedule: "constant", or "cosine" for a ramp to 1.
    momentum_per: "step" or "epoch", how often the ramp moves.
    evaluated: the network whose features the method's authors evaluate,
      "online" or "target".
    shuffle_keys: whether the target's batch is dealt out anew, which keeps the
      statistics of BatchNorm groups from giving the positives away.
    joint_views: whether views of one size go through the networks together
      and share their BatchNorm statistics, or each view alone.
    spaces: number of projectors side by side that every view goes through,
      in a method without predictor and prototypes; 0 = one, without that axis.
    init_memory: (key, widths) -> memory at step 0.
    update_memory: (memory, online, target) -> memory of the next step.
    whole: entries of the memory that every device keeps whole even where the
      state is split over devices: what is written at a moving position would be
      gathered for it each step.
    constrain: applied to the online parameters after each optimiser step.
    check: (batch size) -> None; raises UserError where sizes do not fit.
    contrastive: for methods with negatives, what IFM and LooC ask of them.
  """

  name: str
  heads: Heads
  loss: Loss
  online_views: tuple[int, ...] | None = (0, 1)
  global_views: int = 2
  target_views: tuple[int, ...] = ()
  target_update: str = "none"
  momentum: float = 1.0
  momentum_schedule: str = "constant"
  momentum_per: str = "step"
  evaluated: str = "online"
  shuffle_keys: bool = False
  joint_views: bool = False
  spaces: int = 0
  init_memory: Callable[[jax.Array, Widths], Memory] = lambda key, widths: {}
  update_memory: Callable[[Memory, Branch, Branch], Memory] = (
    lambda memory, online, target: memory
  )
  whole: tuple[str, ...] = ()
  constrain: Callable[[dict[str, Any]], dict[str, Any]] = lambda params: params
  check: Callable[[int], None] = lambda batch_size: None
  contrastive: Contrastive | None = None


def options_of(
  build: Callable[..., Any], needs: Iterable[str] = ()
) -> dict[str, Any]:
  """The arguments of a `build` that a config may give, with their defaults.

  `needs` are those that no config gives.
  """
  arguments = inspect.signature(build).parameters
  return {
    name: argument.default
    for name, argument in arguments.items()
    if name not in needs and argument.kind is not argument.VAR_KEYWORD
  }


def check_options(
  section: str, name: str, given: Iterable[str], valid: Iterable[str]
) -> None:
  """Raises UserError for an option that a method or an awareness has not.

  `section` is "method" or "awareness"; `valid` is from `options_of`.
  """
  for option in given:
    if option not in valid:
      those = f"whose options are {', '.join(sorted(valid))}"
      raise UserError(
        f"{section}.{option} is not used by {name},"
        f" {those if valid else 'which has no options'}; leave it out, or set"
        f" --config.{section}.{option}=None where the config file has it."
      )
