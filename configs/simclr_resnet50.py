"""SimCLR, ResNet-50 on ImageNet-100: every SimCLR row of CASSLE's table 1.

  python -m cassle_jax.main --config=configs/simclr_resnet50.py:cassle \\
      --config.data.source=folder:/data/imagenet \\
      --config.data.class_list=/data/imagenet100.txt
  python -m cassle_jax.main --config=configs/simclr_resnet50.py:vanilla ...
  python -m cassle_jax.main --config=configs/simclr_resnet50.py:augself ...
  python -m cassle_jax.main --config=configs/simclr_resnet50.py:ai ...
  python -m cassle_jax.main --config=configs/simclr_resnet50.py:tiny

The recipe of the published CASSLE runs (arXiv 2306.06082), vanilla and AugSelf
(arXiv 2111.09613, weights 0.5) with it: 500 epochs, batch 256, SGD 0.03, cosine
without warm-up, convolutions that start by torch's default; omega without the
flip, 13 numbers. `cassle_augself` is both at once. Class list: a text file with
the 100 class folders, one a line.
Deviations: rates change every step, theirs every epoch
(--config.optim.per=epoch); the order of the jitter is each image's own, theirs
a batch's (--config.augment.jitter_order=batch).

`ai`, amortised invariances (Chavhan et al. 2023): 300 epochs, batch 128, Adam
5e-4 whatever the batch, decay 2e-5, temperature 0.1, heads without BatchNorm;
a rank of 32 makes 787 M parameters, 9.4 GB with Adam's moments and 3.1 GB of
gradient. Deviation: the decay acts apart from the gradient; theirs is added to
it.

Hardware: one accelerator or more, for `ai` one with 80 GB; not measured here.
Where memory ends, add --config.model.remat=True or devices.
Expected, published, linear evaluation (no number for `:cassle_augself`); not
measured here:

  published, %  CIFAR-10  CIFAR-100  Food-101   Cars  CUB-200
  cassle           86.31      64.36     60.67  39.86    33.21
  vanilla          84.41      61.40     57.48  35.14    30.98
  augself          84.45      62.67     59.96  37.38    34.24
  ai               83.90      63.10         -      -    38.60

`:tiny` is CASSLE on the bundled images, to check the set-up in seconds; its
numbers mean nothing.
"""

from cassle_jax import config as config_lib


def get_config(variant="cassle"):
  """Variants: cassle, vanilla, augself, cassle_augself, ai, tiny."""
  published = ("cassle", "vanilla", "augself", "ai")
  config_lib.check_variant(variant, (*published, "cassle_augself", "tiny"))
  config = config_lib.default()
  if variant in published:
    config.published = f"simclr/resnet50/{variant}"
  awareness = "cassle" if variant == "tiny" else variant.replace("_", "+")
  config.data.source = "folder:~/data/imagenet100"
  config.data.image_size = 224
  config.epochs = 500.0
  config.batch_size = 256
  config.precision = "bfloat16"
  config.augment.preset = "cassle"
  config.awareness.name = awareness
  config.model.backbone = "resnet50"
  config.model.omega = ("blur", "color", "color_diff", "crop", "grayscale")
  config.method.name = "simclr"
  config.method.temperature = 0.2
  config.optim.name = "sgd"
  config.optim.learning_rate = 0.03
  config.optim.weight_decay = 1e-4
  config.evaluation.every = 5000
  if awareness != "ai":
    config.model.conv_init = "torch"
  if "augself" in awareness:
    config.awareness.crop_weight = 0.5
    config.awareness.color_weight = 0.5
  elif awareness == "ai":
    config.epochs = 300.0
    config.batch_size = 128
    config.augment.jitter_strength = (0.4, 0.4, 0.2, 0.1)
    config.augment.solarize = 0.5
    config.model.amortised_rank = 32
    config.model.projector_hidden_norm = False
    config.model.remat = True
    config.method.temperature = 0.1
    config.optim.name = "adamw"
    config.optim.learning_rate = 5e-4
    config.optim.scale_learning_rate = False
    config.optim.weight_decay = 2e-5
    config.evaluation.every = 10000
  return config_lib.tiny(config) if variant == "tiny" else config
