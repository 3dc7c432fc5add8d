"""What an awareness adds to a base method: plain attributes.

An awareness is one file of this folder with one function `build(...)` that
returns an `Awareness`. Everything in it has a default that adds nothing, so
`Awareness("vanilla")` is the base method as it is; which attributes are set
says how far an awareness reaches.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from cassle_jax import augment
from cassle_jax.augment.omega import Omega
from cassle_jax.methods.interface import Method, Metrics

# (predictions {field: [2B, n]}, omega of the first views, omega of the second
# views) -> (scalar float32 loss, metrics).
PairLoss = Callable[
  [Mapping[str, jax.Array], Omega, Omega], tuple[jax.Array, Metrics]
]


class Awareness(NamedTuple):
  """How a base method is made aware of its augmentations.

  Attributes:
    name: as in `config.awareness.name`.
    conditioned: whether the projector is told omega (CASSLE).
    adapt: method -> the method with another loss and memory (IFM, LooC).
    views: `(key, images, sizes, policies, *, form, stored)` -> the views of a
      step; with descriptors also the keyword argument `index` (LooC, AI).
    check: (policies) -> None; raises UserError where they do not fit.
    pair_outputs: (field of omega, size) of each head that predicts from the
      backbone's features of two views how they differ (AugSelf).
    pair_hidden: sizes of the hidden layers of those heads.
    pair_loss: the loss of those heads, added to the method's.
    descriptors: invariance descriptors that the backbone is told, one for all
      the step's images; each has a head and a memory of its own (AI).
    choose: key of a step -> int32 scalar, which of the descriptors it uses;
      to be set where there are descriptors.
  """

  name: str
  conditioned: bool = False
  adapt: Callable[[Method], Method] = lambda method: method
  views: Callable[..., tuple[augment.View, ...]] = augment.views
  check: Callable[[tuple[augment.ViewPolicy, ...]], Any] = lambda policies: None
  pair_outputs: tuple[tuple[str, int], ...] = ()
  pair_hidden: tuple[int, ...] = (512, 512)
  pair_loss: PairLoss | None = None
  descriptors: tuple[tuple[float, ...], ...] = ()
  choose: Callable[[jax.Array], jax.Array] | None = None

  @property
  def evaluated(self) -> tuple[float, ...] | None:
    """The descriptor of evaluations on the way: the last, or None."""
    return self.descriptors[-1] if self.descriptors else None


VANILLA = Awareness("vanilla")
