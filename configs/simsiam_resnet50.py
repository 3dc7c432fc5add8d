"""SimSiam with a conditioned projector, ResNet-50 on ImageNet-100.

  python -m cassle_jax.main --config=configs/simsiam_resnet50.py \\
      --config.data.source=folder:/data/imagenet \\
      --config.data.class_list=/data/imagenet100.txt
  python -m cassle_jax.main --config=configs/simsiam_resnet50.py:vanilla ...
  python -m cassle_jax.main --config=configs/simsiam_resnet50.py:tiny

The recipe of the published CASSLE runs (arXiv 2306.06082): 500 epochs, batch
256, SGD 0.05, cosine without warm-up, the predictor's rate constant,
convolutions that start by torch's default; omega without the flip, 13 numbers.
Deviations: rates change every step, theirs every epoch
(--config.optim.per=epoch); the order of the jitter is each image's own, theirs
a batch's (--config.augment.jitter_order=batch). SimSiam's own code has no scale
and bias after the projector: --config.model.projector_norm=plain. Class list: a
text file with the 100 class folders, one a line.

Hardware: one accelerator or more; not measured here. Where memory ends, add
--config.model.remat=True or devices.
Expected: tables 1 and 2 of CASSLE have no such row; not measured here. `:tiny`
checks the set-up on the bundled images in seconds; its numbers mean nothing.
"""

from cassle_jax import config as config_lib


def get_config(variant="cassle"):
  """Variants: cassle, vanilla, tiny."""
  config_lib.check_variant(variant, ("cassle", "vanilla", "tiny"))
  config = config_lib.default()
  config.data.source = "folder:~/data/imagenet100"
  config.data.image_size = 224
  config.epochs = 500.0
  config.batch_size = 256
  config.precision = "bfloat16"
  config.augment.preset = "cassle"
  config.awareness.name = "vanilla" if variant == "vanilla" else "cassle"
  config.model.backbone = "resnet50"
  config.model.conv_init = "torch"
  config.model.omega = ("blur", "color", "color_diff", "crop", "grayscale")
  config.method.name = "simsiam"
  config.optim.name = "sgd"
  config.optim.learning_rate = 0.05
  config.optim.weight_decay = 1e-4
  config.optim.constant = ("predictor",)
  config.evaluation.every = 5000
  return config_lib.tiny(config) if variant == "tiny" else config
