"""CASSLE against plain SimCLR on real satellite images, minutes on a laptop.

  python -m cassle_jax.main --config=configs/quickstart.py --workdir=runs/cassle
  python -m cassle_jax.main --config=configs/quickstart.py:vanilla \\
      --workdir=runs/vanilla

4,202 photographs of nine land covers, whose labels live in colour and texture.
Plain SimCLR unlearns colour, because its augmentations change it; a projector
that is told how they changed it lets the backbone keep it. A small
convolutional net with GroupNorm, 24 epochs, the augmentations of the paper.

Hardware: two CPU cores, 3 min 44 s, 1.2 GB. Expected, measured there, seeds 0
to 2: k-NN 66.3 % (vanilla 59.0, random init 65.5), linear probe 70.7 %
(vanilla 64.5, random init 67.9).
"""

from cassle_jax import config as config_lib


def get_config(variant="cassle"):
  """Variants: cassle, vanilla, tiny."""
  config_lib.check_variant(variant, ("cassle", "vanilla", "tiny"))
  config = config_lib.default()
  config.data.source = "bundled:earth"
  config.data.image_size = 32
  config.epochs = 24.0
  config.batch_size = 256
  config.augment.preset = "cassle"
  config.awareness.name = "vanilla" if variant == "vanilla" else "cassle"
  config.model.backbone = "conv3"
  config.model.norm = "group"
  config.method.name = "simclr"
  config.method.temperature = 0.5
  config.optim.name = "adamw"
  config.optim.learning_rate = 2e-3
  config.optim.warmup_epochs = 1.0
  config.evaluation.every = 96
  config.checkpoint.every = 96
  config.log_every = 16
  return config_lib.tiny(config) if variant == "tiny" else config
