"""ResNets, vision transformers and MLPs in plain PyTorch, by their papers.

He et al. 2016, arXiv 1512.03385 (stride in the 3x3 of a bottleneck, as
everybody has it); Dosovitskiy et al. 2021, arXiv 2010.11929, with the fixed
positions, frozen patches and 12 heads of Chen et al. 2021, arXiv 2104.02057.
torch is an extra: it is imported, and its modules defined, when asked for.
"""

from collections.abc import Sequence
from typing import Any

from cassle_jax.models import resnet as our_resnet
from cassle_jax.models import vit as our_vit


def resnet(variant: str, *, stem: str = "imagenet") -> Any:
  """A ResNet without its classifier: [B, 3, H, W] to [B, d].

  Args:
    variant: a key of `models.resnet.VARIANTS`.
    stem: "imagenet" or "small".
  """
  from torch import nn

  def conv(ins: int, outs: int, size: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(ins, outs, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outs))

  class Block(nn.Module):
    def __init__(self, ins: int, width: int, stride: int, deep: bool):
      super().__init__()
      outs = 4 * width if deep else width
      if deep:
        layers = conv(ins, width, 1), conv(width, width, 3, stride)
        layers += (conv(width, outs, 1),)
      else:
        layers = conv(ins, width, 3, stride), conv(width, width, 3)
      self.layers = nn.ModuleList(layers)
      self.shortcut = nn.Identity()
      if stride > 1 or ins != outs:
        self.shortcut = conv(ins, outs, 1, stride)

    def forward(self, x):
      y = x
      for layer in self.layers[:-1]:
        y = nn.functional.relu(layer(y), inplace=True)
      y = self.layers[-1](y) + self.shortcut(x)
      return nn.functional.relu(y, inplace=True)

  block, counts = our_resnet.VARIANTS[variant]
  deep = block is our_resnet.Bottleneck
  parts: list[Any] = [conv(3, 64, 3), nn.ReLU(inplace=True)]
  if stem == "imagenet":
    parts = [conv(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
  ins = 64
  for stage, count in enumerate(counts):
    width = 64 * 2**stage
    for number in range(count):
      stride = 2 if stage and not number else 1
      parts.append(Block(ins, width, stride, deep))
      ins = 4 * width if deep else width
  return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def vit(variant: str, *, image_size: int, patch_size: int = 16) -> Any:
  """A vision transformer: [B, 3, H, W] to its [cls] token, [B, d].

  Args:
    variant: a key of `models.vit.VARIANTS` without a convolution stem.
    image_size: side of the views.
    patch_size: side of a patch.
  """
  import torch
  from torch import nn

  size, depth, heads, _ = our_vit.VARIANTS[variant]
  grid = image_size // patch_size

  class Transformer(nn.Module):
    def __init__(self):
      super().__init__()
      self.patches = nn.Conv2d(3, size, patch_size, patch_size)
      self.patches.requires_grad_(False)
      self.cls = nn.Parameter(0.02 * torch.randn(1, 1, size))
      places = our_vit.sincos_positions(grid, grid, size)
      self.register_buffer("places", torch.from_numpy(places))
      self.blocks = nn.Sequential(
        *(
          nn.TransformerEncoderLayer(
            size,
            heads,
            4 * size,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
          )
          for _ in range(depth)
        )
      )
      self.norm = nn.LayerNorm(size, eps=1e-6)

    def forward(self, x):
      x = self.patches(x).flatten(2).transpose(1, 2)
      x = torch.cat([self.cls.expand(len(x), -1, -1).to(x.dtype), x], 1)
      x = self.blocks(x + self.places)
      return self.norm(x)[:, 0]

  return Transformer()


def mlp(
  ins: int,
  widths: Sequence[int],
  *,
  norm: str = "none",
  last_bias: bool | None = None,
  hidden_norm: bool = True,
) -> Any:
  """Linear, BatchNorm and ReLU, then one Linear; see `models.mlp.MLP`."""
  from torch import nn

  parts = []
  for number, outs in enumerate(widths):
    last = number == len(widths) - 1
    normed = norm != "none" if last else hidden_norm
    bias = last_bias if last and last_bias is not None else not normed
    parts.append(nn.Linear(ins, outs, bias=bias))
    if normed:
      affine = not last or norm == "affine"
      parts.append(nn.BatchNorm1d(outs, affine=affine))
    if not last:
      parts.append(nn.ReLU(inplace=True))
    ins = outs
  return nn.Sequential(*parts)
