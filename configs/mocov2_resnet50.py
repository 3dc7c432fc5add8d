"""MoCo-v2, ResNet-50 on ImageNet-100: every MoCo-v2 row of CASSLE's table 1.

  python -m cassle_jax.main --config=configs/mocov2_resnet50.py:cassle \\
      --config.data.source=folder:/data/imagenet \\
      --config.data.class_list=/data/imagenet100.txt
  python -m cassle_jax.main --config=configs/mocov2_resnet50.py:vanilla ...
  python -m cassle_jax.main --config=configs/mocov2_resnet50.py:augself ...
  python -m cassle_jax.main --config=configs/mocov2_resnet50.py:ai ...
  python -m cassle_jax.main --config=configs/mocov2_resnet50.py:looc ...
  python -m cassle_jax.main --config=configs/mocov2_resnet50.py:ifm ...
  python -m cassle_jax.main --config=configs/mocov2_resnet50.py:tiny

The recipe of the published CASSLE runs (arXiv 2306.06082), vanilla and AugSelf
(arXiv 2111.09613, weights 0.5) with it: 500 epochs, batch 256, SGD 0.03, cosine
without warm-up, a queue of 65,536 keys, convolutions that start by torch's
default; omega without the flip, 13 numbers. `:cassle_augself` is both at once.
Deviations: BatchNorm works on 8 groups of 32 with shuffled keys, as MoCo did on
8 GPUs; the published code enqueues queries and moves the target after the step;
rates change every step, theirs every epoch; the order of the jitter is each
image's own, theirs a batch's. For all of that add
--config.method.queue_source=query --config.method.target_update=after
--config.model.bn_groups=1 --config.augment.jitter_order=batch
--config.optim.per=epoch.

The other rows keep the recipes of their own papers; their heads have no
BatchNorm. `ifm` (arXiv 2106.11230): 200 epochs, batch 512, SGD 0.8 whatever the
batch, momentum 0.99. `looc` (arXiv 2008.05659): colour and rotation, a queue of
16,384 keys a space, rates divided by 10 at 300 and 400 of 500 epochs. `ai`
(Chavhan et al. 2023): 300 epochs, batch 128, Adam 5e-4 whatever the batch,
decay 2e-5, temperature 0.1, momentum 0.99; a rank of 32 makes 787 M parameters,
12.6 GB with Adam's moments and the target, and 3.1 GB of gradient. Deviation:
the decay acts apart from the gradient; theirs is added to it.

Hardware: one accelerator or more, for `ai` one with 80 GB; not measured here.
Where memory ends, add --config.model.remat=True or devices.
Expected, published, linear evaluation (no number for `:cassle_augself`); not
measured here:

  published, %  CIFAR-10  CIFAR-100  Food-101   Cars  CUB-200
  cassle           86.32      65.29     61.93  38.82    36.22
  vanilla          84.60      61.60     59.67  33.86    32.20
  augself          85.26      63.90     60.78  37.35    37.00
  ai               81.30      64.60         -      -    41.40
  looc                 -          -         -      -    39.60
  ifm              83.36      60.22     59.86  36.54    35.90

`:tiny` is CASSLE on the bundled images, to check the set-up in seconds; its
numbers mean nothing.
"""

from cassle_jax import config as config_lib


def get_config(variant="cassle"):
  """Variants: cassle, vanilla, augself, cassle_augself, ai, looc, ifm, tiny."""
  published = ("cassle", "vanilla", "augself", "ai", "looc", "ifm")
  config_lib.check_variant(variant, (*published, "cassle_augself", "tiny"))
  config = config_lib.default()
  if variant in published:
    config.published = f"mocov2/resnet50/{variant}"
  awareness = "cassle" if variant == "tiny" else variant.replace("_", "+")
  config.data.source = "folder:~/data/imagenet100"
  config.data.image_size = 224
  config.epochs = 500.0
  config.batch_size = 256
  config.precision = "bfloat16"
  config.augment.preset = "cassle"
  config.awareness.name = awareness
  config.model.backbone = "resnet50"
  config.model.bn_groups = 8
  config.model.omega = ("blur", "color", "color_diff", "crop", "grayscale")
  config.method.name = "mocov2"
  config.method.temperature = 0.2
  config.method.momentum = 0.999
  config.method.queue_size = 65536
  config.optim.name = "sgd"
  config.optim.learning_rate = 0.03
  config.optim.weight_decay = 1e-4
  config.evaluation.every = 5000
  if variant in ("cassle", "vanilla", "tiny") or "augself" in awareness:
    config.model.conv_init = "torch"
  if "augself" in awareness:
    config.awareness.crop_weight = 0.5
    config.awareness.color_weight = 0.5
  elif awareness == "ifm":
    config.epochs = 200.0
    config.batch_size = 512
    config.awareness.epsilon = 0.1
    config.awareness.alpha = 1.0
    config.model.projector_hidden_norm = False
    config.model.zero_init_residual = False
    config.method.momentum = 0.99
    config.optim.learning_rate = 0.8
    config.optim.scale_learning_rate = False
    config.evaluation.every = 2500
  elif awareness == "looc":
    config.augment.rotation = 1.0
    config.awareness.groups = ("color", "rotation")
    config.model.projector_hidden_norm = False
    config.method.queue_size = 16384
    config.optim.schedule = "multistep"
    config.optim.milestones = (0.6, 0.8)
    config.optim.decay_factor = 0.1
  elif awareness == "ai":
    config.epochs = 300.0
    config.batch_size = 128
    config.augment.jitter_strength = (0.4, 0.4, 0.2, 0.1)
    config.augment.solarize = 0.5
    config.model.amortised_rank = 32
    config.model.bn_groups = 4
    config.model.projector_hidden_norm = False
    config.model.remat = True
    config.method.temperature = 0.1
    config.method.momentum = 0.99
    config.optim.name = "adamw"
    config.optim.learning_rate = 5e-4
    config.optim.scale_learning_rate = False
    config.optim.weight_decay = 2e-5
    config.evaluation.every = 10000
  return config_lib.tiny(config) if variant == "tiny" else config
