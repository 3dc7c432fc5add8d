"""SimCLR or MoCo-v2 with CASSLE or AugSelf, ResNet-18 on STL-10.

  python -m cassle_jax.main --config=configs/stl10_resnet18.py
  python -m cassle_jax.main --config=configs/stl10_resnet18.py:mocov2
  python -m cassle_jax.main --config=configs/stl10_resnet18.py:simclr_augself
  python -m cassle_jax.main --config=configs/stl10_resnet18.py:mocov2_augself
  python -m cassle_jax.main --config=configs/stl10_resnet18.py:tiny

For the vanilla run add --config.awareness.name=vanilla. Needs STL-10 prepared
as array_record (the error message says how), or --config.data.source=npy:PATH.

The recipe of AugSelf's STL-10 runs (arXiv 2111.09613): the 105,000 images of
train and unlabelled at 96 px, 200 epochs, batch 256, SGD 0.03, decay 5e-4,
cosine, convolutions that start by torch's default, the set's own mean and
deviation; AugSelf's weights are 1.0 here.
Deviations: rates change every step, theirs every epoch; the order of the jitter
is each image's own, theirs a batch's; of `:mocov2`, BatchNorm works on 8 groups
of 32 with shuffled keys, the published code enqueues queries and moves the
target after the step. For all of that add --config.optim.per=epoch
--config.augment.jitter_order=batch --config.model.bn_groups=1
--config.method.queue_source=query --config.method.target_update=after.

Hardware: one accelerator, on which the whole set (2.9 GB) is kept; not
measured here. Expected: tables 1 and 2 of CASSLE have no such row; not measured
here. `:tiny` checks the set-up in seconds.
"""

from cassle_jax import config as config_lib


def get_config(variant="simclr"):
  """Variants: simclr, simclr_augself, mocov2, mocov2_augself, tiny."""
  config_lib.check_variant(
    variant, ("simclr", "simclr_augself", "mocov2", "mocov2_augself", "tiny")
  )
  method, _, awareness = variant.partition("_")
  config = config_lib.default()
  config.data.source = "tfds:stl10"
  config.data.split = "train+unlabelled"
  config.data.image_size = 96
  config.data.resident_bytes = 3 * 2**30
  config.epochs = 200.0
  config.batch_size = 256
  config.precision = "bfloat16"
  config.augment.preset = "cassle"
  config.augment.mean = (0.43, 0.42, 0.39)
  config.augment.std = (0.27, 0.26, 0.27)
  config.awareness.name = awareness or "cassle"
  if awareness == "augself":
    config.awareness.crop_weight = 1.0
    config.awareness.color_weight = 1.0
  config.model.backbone = "resnet18"
  config.model.conv_init = "torch"
  config.method.name = "simclr" if method == "tiny" else method
  config.method.temperature = 0.2
  if method == "mocov2":
    config.model.bn_groups = 8
  config.optim.name = "sgd"
  config.optim.learning_rate = 0.03
  config.optim.weight_decay = 5e-4
  config.evaluation.every = 4100
  return config_lib.tiny(config) if variant == "tiny" else config
