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

# Method -> sizes of projector and predictor, to suit a small backbone.
HEADS = {
  "simclr": ((0, 128), ()),
  "mocov2": ((0, 128), ()),
  "mocov3": ((512, 128), (512, 128)),
  "byol": ((512, 128), (512, 128)),
  "simsiam": ((512, 512, 256), (64, 256)),
  "barlow_twins": ((512, 512, 512), ()),
  "vicreg": ((512, 512, 512), ()),
  "swav": ((0, 128), ()),
  "dino": ((256, 256, 64), ()),
}


def get_config(variant="simclr/cassle"):
  """Variants: METHOD/AWARENESS, tiny."""
  if variant == "tiny":
    return config_lib.tiny(get_config())
  name, _, awareness = variant.partition("/")
  config_lib.check_variant(name, tuple(HEADS))
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
  config.model.projector, predictor = HEADS[name]
  if predictor:
    config.model.predictor = predictor
  config.method.name = name
  if name == "simclr":
    config.method.temperature = 0.5
  elif name == "mocov2":
    config.method.queue_size, config.method.momentum = 4096, 0.99
  elif name in ("mocov3", "byol"):
    config.method.momentum = 0.98
  elif name == "swav":
    config.augment.local_views = 2
    config.method.prototypes = 128
  elif name == "dino":
    config.augment.local_views = 2
    config.method.prototypes, config.method.momentum = 1024, 0.98
  if awareness == "looc":
    config.awareness.groups = ("color", "rotation")
    config.augment.rotation = 1.0
  elif awareness == "ai":
    config.model.amortised_rank = 8
  config.optim.name = "adamw"
  config.optim.learning_rate = 2e-3
  config.optim.warmup_epochs = 1.0
  config.evaluation.every = 0
  return config
