"""What an import could not tell from an export's weights."""

from typing import Any

from cassle_jax.convert.states import vit_settings
from cassle_jax.models import VisionTransformer
from cassle_jax.training.trained import Trained

FORMATS = ("timm", "torchvision", "cassle")


def of(run: Trained) -> dict[str, Any]:
  """The values of `weights.beside` for a run."""
  config, policy = run.config, run.setup.policies[0]
  values = {
    "image_size": config.data.image_size,
    "mean": [float(x) for x in policy.mean],
    "std": [float(x) for x in policy.std],
    "method": config.method.name,
  }
  backbone = run.setup.networks.backbone
  if isinstance(backbone, VisionTransformer):
    net = vit_settings(backbone)
    values |= {"heads": net["attention_heads"], "pool": net["pool"]}
  if config.model.conditioning != "none":
    values |= {
      "omega": list(run.setup.fields),
      "conditioning": config.model.conditioning,
      # The fields must be able to vary. Small views are of the method's own.
      "augment": {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.augment.items()
        if value is not None
        and key not in ("mean", "std")
        and not key.startswith("local_")
      },
    }
  return values
