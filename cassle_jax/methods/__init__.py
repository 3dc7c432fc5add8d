"""The joint-embedding methods: one file each, one row of `METHODS` each."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cassle_jax.errors import UserError, unknown
from cassle_jax.methods import (
  barlow_twins,
  byol,
  dino,
  mocov2,
  mocov3,
  simclr,
  simsiam,
  swav,
  vicreg,
)
from cassle_jax.methods.interface import (
  Branch,
  Contrastive,
  Heads,
  Method,
  Widths,
)

NO_NEGATIVES = (
  "IFM moves the similarities of positives and negatives, and this loss has no"
  " negatives"
)
NO_QUEUE = (
  "LooC contrasts against one queue of keys for each of its spaces, and this"
  " method keeps none"
)
MULTI_CROP = (
  "AI draws one set of augmentations for a pair of views, and this method has"
  " crops of two sizes"
)


class Row(NamedTuple):
  """One row of the grid.

  Attributes:
    build: keyword arguments -> Method.
    tiny: what `:tiny` sets, {config key: value}: heads and memories small.
    refused: {awareness: why it does not go with this method}.
  """

  build: Callable[..., Method]
  tiny: Mapping[str, Any] = {}
  refused: Mapping[str, str] = {}


def heads(projector: tuple[int, ...], predictor: tuple[int, ...] = ()):
  """The entries of `Row.tiny` for heads of these sizes."""
  return {"model.projector": projector, "model.predictor": predictor}


METHODS: dict[str, Row] = {
  "simclr": Row(simclr.build, refused={"looc": NO_QUEUE}),
  "mocov2": Row(mocov2.build, tiny={"method.queue_size": 256}),
  "mocov3": Row(
    mocov3.build,
    tiny=heads((64, 32), (64, 32)),
    refused={"looc": NO_QUEUE},
  ),
  "byol": Row(
    byol.build,
    tiny=heads((64, 32), (64, 32)),
    refused={"ifm": NO_NEGATIVES, "looc": NO_QUEUE},
  ),
  "simsiam": Row(
    simsiam.build,
    tiny=heads((64, 64, 32), (16, 32)),
    refused={"ifm": NO_NEGATIVES, "looc": NO_QUEUE},
  ),
  "barlow_twins": Row(
    barlow_twins.build,
    tiny=heads((64, 64, 64)),
    refused={"ifm": NO_NEGATIVES, "looc": NO_QUEUE},
  ),
  "vicreg": Row(
    vicreg.build,
    tiny=heads((64, 64, 64)),
    refused={"ifm": NO_NEGATIVES, "looc": NO_QUEUE},
  ),
  "swav": Row(
    swav.build,
    tiny=heads((64, 32)) | {"method.prototypes": 64, "augment.local_views": 2},
    refused={"ifm": NO_NEGATIVES, "looc": NO_QUEUE, "ai": MULTI_CROP},
  ),
  "dino": Row(
    dino.build,
    tiny=heads((64, 64, 32))
    | {"method.prototypes": 64, "augment.local_views": 2},
    refused={"ifm": NO_NEGATIVES, "looc": NO_QUEUE, "ai": MULTI_CROP},
  ),
}

# Arguments that a method's `build` may take and that no config gives.
CONTEXT = ("vit", "steps_per_epoch")


def build(
  *,
  name: str = "simclr",
  vit: bool = False,
  steps_per_epoch: int = 1,
  **options,
) -> Method:
  """Builds the method of that name.

  Args:
    name: a key of `METHODS`.
    vit: whether the backbone is a vision transformer.
    steps_per_epoch: for what a method schedules by epochs.
    **options: keyword arguments of that method's own `build`.

  Raises:
    UserError: the name, or an option's value, is not a valid one.
  """
  if name not in METHODS:
    raise unknown("method.name", name, METHODS)
  build_method = METHODS[name].build
  valid = inspect.signature(build_method).parameters
  for option in options:
    if option not in valid:
      known = sorted(set(valid) - set(CONTEXT))
      those = f"whose options are {', '.join(known)}"
      raise UserError(
        f"method.{option} is not used by {name},"
        f" {those if known else 'which has no options'}; leave it out, or set"
        f" --config.method.{option}=None where the config file has it."
      )
  context = {"vit": vit, "steps_per_epoch": steps_per_epoch}
  context = {key: context[key] for key in CONTEXT if key in valid}
  return build_method(**context, **options)


__all__ = [
  "METHODS",
  "Branch",
  "Contrastive",
  "Heads",
  "Method",
  "Widths",
  "barlow_twins",
  "build",
  "byol",
  "dino",
  "mocov2",
  "mocov3",
  "simclr",
  "simsiam",
  "swav",
  "vicreg",
]
