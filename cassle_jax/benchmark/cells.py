"""The cells of the grid, method x awareness, as configs to be compared.

All cells of a method differ in their awareness alone; LooC's also rotates, as
it has to. The small network is the quick start's, with heads and memories of
`:tiny`. What an awareness adds weighs more on it than on a large one: a
backbone that is named comes with the methods' own heads and memories.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from cassle_jax import config as config_lib
from cassle_jax import models
from cassle_jax.augment import presets
from cassle_jax.awareness import AWARENESS, cells
from cassle_jax.errors import unknown
from cassle_jax.methods import METHODS


def chosen(
  methods: Sequence[str], awareness: Sequence[str]
) -> dict[str, list[str]]:
  """Method -> the awarenesses to measure, "vanilla" first.

  Args:
    methods: keys of `METHODS`; () = all.
    awareness: keys of `AWARENESS`; () = all that go with the method.

  Raises:
    UserError: an unknown name, or an awareness that goes with none of the
      methods; others leave out the cells that the grid refuses.
  """
  for name in methods:
    if name not in METHODS:
      raise unknown("method in --methods", name, METHODS)
  for name in awareness:
    if name not in AWARENESS:
      raise unknown("awareness in --awareness", name, AWARENESS)
  result = {method: ["vanilla"] for method in methods or METHODS}
  for name in awareness or AWARENESS:
    fitting = [m for m in result if cells.reason(m, name) is None]
    if name in awareness and not fitting:
      cells.check(next(iter(result)), name)
    for method in fitting:
      if name not in result[method]:
        result[method].append(name)
  return result


def config(
  method: str,
  awareness: str,
  *,
  backbone: str | None = None,
  image_size: int = 32,
  batch: int = 64,
) -> ConfigDict:
  """The config of one cell.

  Args:
    method: a key of `METHODS`.
    awareness: a key of `AWARENESS`.
    backbone: a name of `models.BACKBONES`; None = the small one.
    image_size: side of the global views in px.
    batch: images in a step.

  Raises:
    UserError: there is no such backbone.
  """
  if backbone is not None and backbone not in models.BACKBONES:
    raise unknown("--backbone", backbone, models.BACKBONES)
  result = config_lib.default()
  result.data.source = "npy:synthetic"
  result.data.image_size = image_size
  result.batch_size = batch
  result.steps = 1000
  # Multi-crop methods have their own views.
  multi_crop = method in presets and presets[method].local_views > 0
  result.augment.preset = method if multi_crop else "cassle"
  if awareness == "looc":
    result.augment.rotation = 1.0
  result.awareness.name = awareness
  result.method.name = method
  result.model.backbone = backbone or "conv3"
  if backbone is None:
    result.model.norm = "group"
    config_lib.put(result, METHODS[method].tiny)
  if image_size <= 64 and result.model.backbone.startswith("resnet"):
    result.model.stem = "small"
  return result
