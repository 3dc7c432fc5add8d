"""The joint-embedding methods: one file each, one row of `METHODS` each."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cassle_jax.errors import unknown
from cassle_jax.methods import (
  barlow_twins,
  byol,
  dino,
  lejepa,
  mocov2,
  mocov3,
  nnclr,
  simclr,
  simsiam,
  swav,
  vicreg,
)
from cassle_jax.methods.interface import (
  RULES,
  Branch,
  Method,
  Widths,
  check_options,
  options_of,
)


class Row(NamedTuple):
  """One method, and what the rest of the package asks about it.

  Attributes:
    title: the method's name in print.
    build: keyword arguments -> Method.
    needs: arguments of `build` that no config gives: "vit", whether the
      backbone is a vision transformer; "steps_per_epoch".
    tiny: what `:tiny` sets, {config key: value}: heads and memories small.
    small: what configs/grid.py sets, likewise: to suit a small backbone.
    preset: the augmentations that benchmarks time it with.
  """

  title: str
  build: Callable[..., Method]
  needs: tuple[str, ...] = ()
  tiny: Mapping[str, Any] = {}
  small: Mapping[str, Any] = {}
  preset: str = "cassle"

  @property
  def options(self) -> dict[str, Any]:
    """The keys of the config's section `method`, with their defaults."""
    return options_of(self.build, self.needs)


def heads(projector: tuple[int, ...], predictor: tuple[int, ...] = ()):
  """The entries of `Row.tiny` or `Row.small` for heads of these sizes."""
  sizes = {"model.projector": projector}
  return sizes | ({"model.predictor": predictor} if predictor else {})


def crops(prototypes: int):
  """The entries for two small crops and so many prototypes."""
  return {"method.prototypes": prototypes, "augment.local_views": 2}


METHODS: dict[str, Row] = {
  "simclr": Row(
    "SimCLR",
    simclr.build,
    small=heads((0, 128)) | {"method.temperature": 0.5},
  ),
  "mocov2": Row(
    "MoCo-v2",
    mocov2.build,
    tiny={"method.queue_size": 256},
    small=heads((0, 128))
    | {"method.queue_size": 4096, "method.momentum": 0.99},
  ),
  "mocov3": Row(
    "MoCo-v3",
    mocov3.build,
    needs=("vit",),
    tiny=heads((64, 32), (64, 32)),
    small=heads((512, 128), (512, 128)) | {"method.momentum": 0.98},
  ),
  "byol": Row(
    "BYOL",
    byol.build,
    tiny=heads((64, 32), (64, 32)),
    small=heads((512, 128), (512, 128)) | {"method.momentum": 0.98},
  ),
  "simsiam": Row(
    "SimSiam",
    simsiam.build,
    tiny=heads((64, 64, 32), (16, 32)),
    small=heads((512, 512, 256), (64, 256)),
  ),
  "barlow_twins": Row(
    "Barlow Twins",
    barlow_twins.build,
    tiny=heads((64, 64, 64)),
    small=heads((512, 512, 512)),
  ),
  "vicreg": Row(
    "VICReg",
    vicreg.build,
    tiny=heads((64, 64, 64)),
    small=heads((512, 512, 512)),
  ),
  "swav": Row(
    "SwAV",
    swav.build,
    tiny=heads((64, 32)) | crops(prototypes=64),
    preset="swav",
    small=heads((0, 128)) | crops(prototypes=128),
  ),
  "dino": Row(
    "DINO",
    dino.build,
    needs=("steps_per_epoch",),
    preset="dino",
    tiny=heads((64, 64, 32)) | crops(prototypes=64),
    small=heads((256, 256, 64))
    | crops(prototypes=1024)
    | {"method.momentum": 0.98},
  ),
  "nnclr": Row(
    "NNCLR",
    nnclr.build,
    tiny=heads((64, 64, 32), (64, 32)) | {"method.queue_size": 256},
    small=heads((512, 512, 128), (512, 128)) | {"method.queue_size": 4096},
  ),
  "lejepa": Row(
    "LeJEPA",
    lejepa.build,
    tiny=heads((64, 64, 16)),
    small=heads((512, 512, 64)),
  ),
}
# What any of them needs beside its config.
NEEDS = {need for row in METHODS.values() for need in row.needs}


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
  row = METHODS[name]
  check_options("method", name, options, row.options)
  given = {"vit": vit, "steps_per_epoch": steps_per_epoch}
  return row.build(**{need: given[need] for need in row.needs}, **options)


__all__ = [
  "METHODS",
  "NEEDS",
  "RULES",
  "Branch",
  "Method",
  "Row",
  "Widths",
  "build",
]
