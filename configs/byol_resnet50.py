"""BYOL with a conditioned projector, ResNet-50 on ImageNet-1k.

  python -m cassle_jax.main --config=configs/byol_resnet50.py \\
      --config.data.source=folder:/data/imagenet
  python -m cassle_jax.main --config=configs/byol_resnet50.py:vanilla ...
  python -m cassle_jax.main --config=configs/byol_resnet50.py:tiny

The recipe of BYOL (arXiv 2006.07733): 1000 epochs, batch 4096, LARS 0.2 *
B / 256, decay 1.5e-6 without biases and norms, 10 epochs of warm-up, momentum
0.996 -> 1, bicubic crops.
Deviations: convolutions start by He's rule, theirs from a truncated normal over
fan_in; brightness is multiplied, theirs is added to; crops are antialiased,
theirs are not.
The heads of the published CASSLE code, 2048 -> 4096 -> 256 and 256 -> 4096 ->
256, differ by a bias of their last layers, --config.model.projector_bias=True
--config.model.predictor_bias=True; its momentum is
--config.method.momentum_per=epoch.

Hardware: the paper's batch of 4096 needs many accelerators; not measured here.
--config.batch_size=1024 and --config.model.remat=True ask for less.
Expected, published for the vanilla method: 74.3 % top-1 on ImageNet, linear
evaluation (arXiv 2006.07733). Tables 1 and 2 of CASSLE have no such row; not
measured here. `:tiny` checks the set-up on the bundled images in seconds.
"""

from cassle_jax import config as config_lib


def get_config(variant="cassle"):
  """Variants: cassle, vanilla, tiny."""
  config_lib.check_variant(variant, ("cassle", "vanilla", "tiny"))
  config = config_lib.default()
  config.data.source = "folder:~/data/imagenet"
  config.data.image_size = 224
  config.epochs = 1000.0
  config.batch_size = 4096
  config.precision = "bfloat16"
  config.augment.preset = "byol"
  config.augment.interpolation = "bicubic"
  config.awareness.name = "vanilla" if variant == "vanilla" else "cassle"
  config.model.backbone = "resnet50"
  config.model.omega += ("solarize",)
  config.method.name = "byol"
  config.method.momentum = 0.996
  config.optim.name = "lars"
  config.optim.learning_rate = 0.2
  config.optim.weight_decay = 1.5e-6
  config.optim.warmup_epochs = 10.0
  config.evaluation.every = 3000
  return config_lib.tiny(config) if variant == "tiny" else config
