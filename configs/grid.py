"""One cell of the grid: any method with any awareness, on the bundled tiles.

  python -m cassle_jax.main --config=configs/grid.py:byol/cassle
  bash launch/grid.sh       every cell, three seeds each, and a table

The quick start's recipe, shortened to 5 epochs of a thinner net with heads to
match, targets that move faster, two small crops: the same for all cells of a
method and tuned for none, so that they differ in their awareness alone.
`python -m cassle_jax.awareness.cells` lists the cells.

Hardware: two CPU cores, about half a minute. Expected, measured there: the
table in launch/grid.md.
"""

from cassle_jax import config as config_lib
from cassle_jax.awareness import AWARENESS
from cassle_jax.methods import METHODS


def get_config(variant="simclr/cassle"):
  """Variants: METHOD/AWARENESS, tiny."""
  if variant == "tiny":
    return config_lib.tiny(get_config())
  name, _, awareness = variant.partition("/")
  config_lib.check_variant(name, tuple(METHODS))
  config = config_lib.default()
  config.data.source = "bundled:earth"
  config.data.image_size = 32
  config.epochs = 5.0
  config.batch_size = 128
  config.augment.preset = "cassle"
  config.awareness.name = awareness or "cassle"
  config.model.backbone = "conv3"
  config.model.norm = "group"
  config.model.width = 16
  config.model.gamma_depth = 3
  config.method.name = name
  config_lib.put(config, METHODS[name].small)
  if awareness in AWARENESS:  # Others are refused with the list of all.
    config_lib.put(config, AWARENESS[awareness].cell)
  if "augment.local_views" not in METHODS[name].small:
    config.augment.local_views = None  # The preset has none.
  if awareness == "looc":
    config.awareness.groups = ("color", "rotation")
  elif awareness == "ai":
    config.model.amortised_rank = 8
  config.optim.name = "adamw"
  config.optim.learning_rate = 2e-3
  config.optim.warmup_epochs = 1.0
  config.evaluation.every = 0
  return config
