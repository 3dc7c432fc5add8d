"""What a method hands to the step: its heads, its loss, its target rule.

A base method is one file of this folder with one function `build(...)` that
returns a `Method`. The step (cassle_jax/step.py) does the rest: it makes the
views, runs the encoders, takes the gradient and moves the target. Adding a
method means adding a file and one line of `methods/__init__.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

Memory = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Heads(NamedTuple):
  """Layer sizes behind the backbone; `()` means that there is no such head.

  Attributes:
    projector: sizes (hidden..., output) of the projector; 0 stands for the
      width of the backbone's output.
    projector_norm: BatchNorm after the last layer, "none", "plain" (without
      scale and bias) or "affine".
    projector_bias: bias of the last layer; None = iff `projector_norm` is
      "none".
    predictor: sizes (hidden..., output) of the predictor.
    predictor_norm: as `projector_norm`.
    predictor_bias: as `projector_bias`.
  """

  projector: tuple[int, ...]
  projector_norm: str = "none"
  projector_bias: bool | None = None
  predictor: tuple[int, ...] = ()
  predictor_norm: str = "none"
  predictor_bias: bool | None = None


class Branch(NamedTuple):
  """The outputs of one encoder for the views that it was given.

  Attributes:
    features: backbone outputs, one [B, d] float32 array a view.
    projections: projector outputs, one [B, k] float32 array a view.
    predictions: predictor outputs, the same, or () without a predictor.
  """

  features: tuple[jax.Array, ...] = ()
  projections: tuple[jax.Array, ...] = ()
  predictions: tuple[jax.Array, ...] = ()


def no_memory(key: jax.Array, width: int) -> Memory:
  """The memory of a method that keeps nothing between steps."""
  del key, width
  return {}


def keep_memory(memory: Memory, online: Branch, target: Branch) -> Memory:
  """The update of a memory that does not change."""
  del online, target
  return memory


class Method(NamedTuple):
  """A joint-embedding method as the step sees it.

  Attributes:
    name: as in `config.method.name`.
    heads: the shape of its heads.
    loss: (online, target, memory) -> (scalar float32 loss, metrics). Written
      over the global batch; the target carries no gradient.
    online_views: indices of the views that the online encoder sees.
    target_views: indices of the views that the target encoder sees; () when
      the method has no target encoder.
    target_update: "none", or the moment at which the target moves: "before"
      the key pass or "after" the optimiser step.
    momentum: the target's momentum at the first step, in [0, 1].
    momentum_schedule: "constant", or "cosine" for a ramp to 1.
    momentum_per: "step" or "epoch", how often the ramp moves.
    shuffle_keys: whether the target's batch is permuted, which keeps the
      statistics of BatchNorm groups from giving the positives away.
    init_memory: (key, width of a projection) -> memory at step 0.
    update_memory: (memory, online, target) -> memory of the next step.
    check: (batch size) -> None; raises UserError where sizes do not fit.
  """

  name: str
  heads: Heads
  loss: Callable[[Branch, Branch, Memory], tuple[jax.Array, Metrics]]
  online_views: tuple[int, ...] = (0, 1)
  target_views: tuple[int, ...] = ()
  target_update: str = "none"
  momentum: float = 1.0
  momentum_schedule: str = "constant"
  momentum_per: str = "step"
  shuffle_keys: bool = False
  init_memory: Callable[[jax.Array, int], Memory] = no_memory
  update_memory: Callable[[Memory, Branch, Branch], Memory] = keep_memory
  check: Callable[[int], None] = lambda batch_size: None
