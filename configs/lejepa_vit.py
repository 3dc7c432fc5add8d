"""LeJEPA with a conditioned projector, ViT-S/8 on Imagenette.

  python -m cassle_jax.main --config=configs/lejepa_vit.py \\
      --config.data.source=folder:/data/imagenette
  python -m cassle_jax.main --config=configs/lejepa_vit.py:vanilla ...
  python -m cassle_jax.main --config=configs/lejepa_vit.py:tiny

The recipe of LeJEPA's minimal form (arXiv 2511.08544): 800 epochs, batch 256,
four views of 128 px, AdamW 2e-3 down to 1e-3, decay 0.05, one epoch of warm-up,
projections of 16 numbers, 256 directions, weight 0.02. Each view has its own
omega, 15 numbers, the solarisation among them. All four are global; for the
augmentation two of them are local crops of the same size and scale.
Deviations: the ViT is MoCo-v3's, with 12 heads instead of 6 and fixed positions
instead of learned ones, its output of 384 numbers goes into the projector
without a Linear layer to 512 before it, and it has no stochastic depth; the
warm-up starts at 0, theirs at a hundredth of the rate.

Hardware: one accelerator or more; not measured here. Where memory ends, add
--config.model.remat=True or devices.
Expected, published for the vanilla method: 90.7 % top-1 on Imagenette, linear
probe during training, the authors' claim. Nothing is published for CASSLE with
LeJEPA; not measured here. `:tiny` checks the set-up on the bundled images in
seconds.
"""

from cassle_jax import config as config_lib


def get_config(variant="cassle"):
  """Variants: cassle, vanilla, tiny."""
  config_lib.check_variant(variant, ("cassle", "vanilla", "tiny"))
  config = config_lib.default()
  config.data.source = "folder:~/data/imagenette"
  config.data.image_size = 128
  config.epochs = 800.0
  config.batch_size = 256
  config.precision = "bfloat16"
  config.augment.preset = "simclr"
  config.augment.blur_kernel = 7
  config.augment.solarize = 0.2
  config.augment.local_views = 2
  config.augment.local_size = 128
  config.augment.local_scale = (0.08, 1.0)
  config.awareness.name = "vanilla" if variant == "vanilla" else "cassle"
  config.model.backbone = "vit_small"
  config.model.patch_size = 8
  config.model.frozen_patches = False
  config.model.projector = (2048, 2048, 16)
  config.model.omega += ("solarize",)
  config.method.name = "lejepa"
  config.method.sigreg_weight = 0.02
  config.method.directions = 256
  config.method.global_views = 4
  config.optim.name = "adamw"
  config.optim.learning_rate = 2e-3
  config.optim.final_learning_rate = 0.5  # Of 0.002, which is 1e-3.
  config.optim.weight_decay = 0.05
  config.optim.warmup_epochs = 1.0
  config.evaluation.every = 1000
  if variant == "tiny":
    config = config_lib.tiny(config)
    config.augment.local_size = config.data.image_size
  return config
