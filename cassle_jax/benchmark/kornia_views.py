"""The views of a policy by kornia, to be timed beside this package's."""

from collections.abc import Sequence
from typing import Any

from cassle_jax.augment import ViewPolicy
from cassle_jax.errors import UserError


def pipelines(policies: Sequence[ViewPolicy], *, flag: str) -> list[Any]:
  """One `torch.nn.Module` a policy: [B, 3, H, W] in [0, 1] to a view.

  The same operations as ours, with kornia's default crop, which does not
  antialias, and blend saturation: both cost it less than the alternatives.

  Args:
    policies: of the views; rotation is left out.
    flag: that asked for it, for the message.

  Raises:
    UserError: torch or kornia is not installed.
  """
  try:
    import kornia.augmentation as kornia
    import torch
  except ImportError as error:
    raise UserError(
      f"{flag} needs torch and kornia ({error}):"
      " pip install 'cassle_jax[peers]'."
    ) from error

  def pipeline(policy: ViewPolicy) -> torch.nn.Module:
    parts = [
      kornia.RandomResizedCrop(
        policy.image_size, scale=policy.crop_scale, ratio=policy.crop_ratio
      ),
      kornia.RandomHorizontalFlip(p=policy.flip),
      kornia.ColorJitter(*policy.jitter_strength, p=policy.jitter),
      kornia.RandomGrayscale(p=policy.grayscale),
    ]
    if policy.blur > 0:
      kernel = (policy.blur_kernel, policy.blur_kernel)
      parts.append(
        kornia.RandomGaussianBlur(kernel, policy.blur_sigma, p=policy.blur)
      )
    if policy.solarize > 0:
      threshold = policy.solarize_interval
      parts.append(
        kornia.RandomSolarize(threshold, (0.0, 0.0), p=policy.solarize)
      )
    mean, std = torch.tensor(policy.mean), torch.tensor(policy.std)
    parts.append(kornia.Normalize(mean, std))
    return torch.nn.Sequential(*parts)

  return [pipeline(policy) for policy in policies]
