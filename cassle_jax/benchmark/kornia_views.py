"""The views of a policy by kornia, to be timed beside this package's."""

from collections.abc import Callable, Sequence
from typing import Any

from cassle_jax.augment import ViewPolicy
from cassle_jax.errors import UserError


def pipelines(
  policies: Sequence[ViewPolicy], *, flag: str
) -> tuple[list[Any], list[str]]:
  """One `torch.nn.Module` a policy: [B, 3, H, W] in [0, 1] to a view.

  The same operations as ours, with kornia's default crop, which does not
  antialias, and blend saturation: both cost it less than the alternatives.

  Args:
    policies: of the views.
    flag: that asked for it, for the message.

  Returns:
    The modules, and the operations that are on but left out of them.

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

  peers: dict[str, Callable[[ViewPolicy, Any], Any]] = {
    "crop": lambda policy, s: kornia.RandomResizedCrop(
      policy.image_size, scale=s.scale, ratio=s.ratio
    ),
    "flip": lambda policy, s: kornia.RandomHorizontalFlip(p=s.switch),
    "jitter": lambda policy, s: kornia.ColorJitter(*s.strength, p=s.switch),
    "grayscale": lambda policy, s: kornia.RandomGrayscale(p=s.switch),
    "blur": lambda policy, s: kornia.RandomGaussianBlur(
      (s.kernel, s.kernel), s.sigma, p=s.switch
    ),
    "solarize": lambda policy, s: kornia.RandomSolarize(
      s.interval, (0.0, 0.0), p=s.switch
    ),
  }

  def pipeline(policy: ViewPolicy) -> torch.nn.Module:
    parts = [
      peers[one.operation](policy, one)
      for one in policy.settings
      if one.on and one.operation in peers
    ]
    mean, std = torch.tensor(policy.mean), torch.tensor(policy.std)
    return torch.nn.Sequential(*parts, kornia.Normalize(mean, std))

  every = (one for policy in policies for one in policy.settings if one.on)
  missing = dict.fromkeys(one.operation for one in every)
  missing = [name for name in missing if name not in peers]
  return [pipeline(policy) for policy in policies], missing
