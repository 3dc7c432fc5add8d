"""SimCLR with a conditioned projector, ResNet-18 on CIFAR-10.

  python -m cassle_jax.main --config=configs/cifar10_resnet18.py
  python -m cassle_jax.main --config=configs/cifar10_resnet18.py:vanilla
  python -m cassle_jax.main --config=configs/cifar10_resnet18.py:tiny

Needs CIFAR-10 prepared as array_record (the error message says how), or
--config.data.source=npy:PATH.

SimCLR's CIFAR recipe (arXiv 2002.05709, appendix B.9, and its code's README):
32 px with a 3x3 stem and no blur, colour strength 0.5, bicubic crops,
temperature 0.5, batch 512, LARS 1.0 * B / 256, decay 1e-6, 10 epochs of
warm-up.
Deviations: here 500 epochs, theirs are 1000; views are normalised, theirs are
not; convolutions start by He's rule, theirs from a truncated normal over
fan_in; crops are antialiased, theirs are not.

Hardware: one accelerator; not measured here. Expected: no number is published
for CASSLE pretrained on CIFAR-10; not measured here. `:tiny` checks the set-up
in seconds.
"""

from cassle_jax import config as config_lib


def get_config(variant="cassle"):
  """Variants: cassle, vanilla, tiny."""
  config_lib.check_variant(variant, ("cassle", "vanilla", "tiny"))
  config = config_lib.default()
  config.data.source = "tfds:cifar10"
  config.data.image_size = 32
  config.epochs = 500.0
  config.batch_size = 512
  config.precision = "bfloat16"
  config.augment.preset = "simclr"
  config.augment.interpolation = "bicubic"
  config.augment.blur = 0.0
  config.augment.jitter_strength = (0.4, 0.4, 0.4, 0.1)
  config.awareness.name = "vanilla" if variant == "vanilla" else "cassle"
  config.model.backbone = "resnet18"
  config.model.stem = "small"
  config.model.omega = ("color", "color_diff", "crop", "flip", "grayscale")
  config.method.name = "simclr"
  config.method.temperature = 0.5
  config.optim.name = "lars"
  config.optim.learning_rate = 1.0
  config.optim.weight_decay = 1e-6
  config.optim.warmup_epochs = 10.0
  config.evaluation.every = 970
  return config_lib.tiny(config) if variant == "tiny" else config
