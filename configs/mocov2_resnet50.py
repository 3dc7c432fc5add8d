"""MoCo-v2 with a conditioned projector, ResNet-50 on ImageNet-100.

  python -m cassle_jax.main --config=configs/mocov2_resnet50.py \\
      --config.data.source=folder:/data/imagenet \\
      --config.data.class_list=/data/imagenet100.txt
  python -m cassle_jax.main --config=configs/mocov2_resnet50.py:vanilla ...
  python -m cassle_jax.main --config=configs/mocov2_resnet50.py:tiny

The recipe of the published CASSLE runs (arXiv 2306.06082): 500 epochs, batch
256, SGD 0.03, cosine without warm-up, a queue of 65,536 keys; omega without
the flip, 13 numbers. BatchNorm works on 8 groups of 32 with shuffled keys, as
MoCo did on 8 GPUs. The published code enqueues queries and moves the target
after the step; for that add --config.method.queue_source=query
--config.method.target_update=after --config.model.bn_groups=1
--config.augment.jitter_order=batch --config.optim.per=epoch.

Hardware: one accelerator or more; not measured here. Where memory ends, add
--config.model.remat=True or devices.
Expected, published, linear evaluation of the CASSLE variant: CIFAR-10 86.32,
CIFAR-100 65.29, Food-101 61.93, Cars 38.82 (vanilla: 84.60, 61.60, 59.67,
33.86). Not measured here. `:tiny` checks the set-up on the bundled images in
seconds; its numbers mean nothing.
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
  return config_lib.tiny(config) if variant == "tiny" else config
