"""DINO with a conditioned projector, ViT-S/16 on ImageNet-1k.

  python -m cassle_jax.main --config=configs/dino_vit.py \\
      --config.data.source=folder:/data/imagenet
  python -m cassle_jax.main --config=configs/dino_vit.py:vanilla ...
  python -m cassle_jax.main --config=configs/dino_vit.py:tiny

The recipe of DINO (arXiv 2104.14294): 800 epochs, batch 1024, two views of 224
px and eight of 96 px, each with its own omega (15 numbers, the solarisation
among them); AdamW 5e-4 * B / 256 down to 1e-6, 10 epochs of warm-up, decay 0.04
-> 0.4 without biases and norms, clipping at 3, the last layer at rest in the
first epoch, teacher momentum 0.996 -> 1 and temperature 0.04 -> 0.07 over 30
epochs, bicubic crops. The teacher is what is evaluated, as in the paper's code
(--config.evaluation.network=online for the student).
--config.augment.local_views=0 leaves the two large views.
Deviations: the norm that is clipped is that of all gradients together, in the
paper's code that of each parameter's; the ViT is MoCo-v3's, with 12 heads
instead of 6 and fixed positions (interpolated for small views) instead
of learned ones, and it has no stochastic depth; the lengths of the last layer's
rows stay at 1, where the authors let a ViT-S learn them.

Hardware: one accelerator or more; not measured here. Where memory ends, add
--config.model.remat=True or devices, or lower --config.batch_size. Expected,
published for the vanilla method: on ImageNet 77.0 % top-1, linear evaluation,
and 74.5 % k-NN, in the table of its code's README; the weights there were
trained with arguments of their own (args.txt beside them), those here are its
program's. Nothing is published for CASSLE with DINO; not measured here. `:tiny`
checks the set-up on the bundled images in seconds."""

from cassle_jax import config as config_lib


def get_config(variant="cassle"):
  """Variants: cassle, vanilla, tiny."""
  config_lib.check_variant(variant, ("cassle", "vanilla", "tiny"))
  config = config_lib.default()
  config.data.source = "folder:~/data/imagenet"
  config.data.image_size = 224
  config.epochs = 800.0
  config.batch_size = 1024
  config.precision = "bfloat16"
  config.augment.preset = "dino"
  config.augment.interpolation = "bicubic"
  config.awareness.name = "vanilla" if variant == "vanilla" else "cassle"
  config.model.backbone = "vit_small"
  config.model.frozen_patches = False
  config.model.omega += ("solarize",)
  config.method.name = "dino"
  config.method.prototypes = 65536
  config.method.temperature = 0.1
  config.method.teacher_temperature = 0.07
  config.method.momentum = 0.996
  config.optim.name = "adamw"
  config.optim.learning_rate = 5e-4
  config.optim.final_learning_rate = 5e-4  # Of 0.002, which is 1e-6.
  config.optim.weight_decay = 0.04
  config.optim.final_weight_decay = 0.4
  config.optim.exclude = ("ndim1",)
  config.optim.clip_norm = 3.0
  config.optim.warmup_epochs = 10.0
  config.optim.freeze = (("prototypes", 1.0),)
  config.evaluation.every = 12500
  return config_lib.tiny(config) if variant == "tiny" else config
