"""Makes a run, at step 0, of anybody's weights.

  python -m cassle_jax.convert import resnet50.pth --workdir=runs/theirs
  python -m cassle_jax.convert import dino.pth --workdir=runs/dino --layout=dino
  python -m cassle_jax.evaluate --config=configs/eval/all.py --workdir=runs/dino

Reads safetensors, npz and torch's .pth, .pt, .ckpt and .pth.tar, without torch
and without running anything that is in them. Layouts: CASSLE, AugSelf, MoCo v1
to v3, SimSiam, Barlow Twins, VICReg, SwAV, DINO, DINOv2, BYOL-PyTorch,
solo-learn, lightly, torchvision, DeiT, timm, big_vision and vit_jax; they are
recognised by their names. What shapes cannot tell is taken from the layout or
from a flag, said, and written into the run's config; any key can be set with
--config.section.key=value.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from cassle_jax.config import cli
from cassle_jax.errors import UserError, unknown


def main(arguments: Sequence[str]) -> int:
  """Parses the flags, imports, and says what was taken for what."""
  flags = cli.parser("cassle_jax.convert import", __doc__)
  flags.add_argument(
    "file", metavar="FILE", help="the weights, or a folder with one such file"
  )
  flags.add_argument("--workdir", help="folder of the run that is made")
  flags.add_argument("--layout", help="whose names they are")
  flags.add_argument(
    "--prefix",
    help="beginning of the backbone's names, where there are several",
  )
  flags.add_argument(
    "--network",
    help="online or target, where the file has both; default: the one that its"
    " authors evaluate",
  )
  flags.add_argument(
    "--heads", type=int, help="attention heads of a ViT, which no shape tells"
  )
  flags.add_argument("--pool", help="features of a ViT: cls, mean or both")
  flags.add_argument(
    "--image_size", type=int, help="px; default: what it was made for"
  )
  flags.add_argument(
    "--normalization", help="imagenet, swav, stl10 or half; default: the layout"
  )
  flags.add_argument("--method", help="that it was trained with, for tables")
  flags.add_argument(
    "--omega",
    help="fields that a conditioned projector is told, with commas between",
  )
  flags.add_argument(
    "--conditioning", help="add or multiply, which look the same"
  )
  flags.add_argument(
    "--backbone_only",
    action="store_true",
    help="leave the heads of the file aside; those of the run are fresh",
  )
  values, overrides = cli.parse(flags, arguments)
  if not values.workdir:
    raise UserError("name the folder of the new run with --workdir=RUN.")
  return _run(values, overrides)


def _run(values: argparse.Namespace, overrides: Sequence[str]) -> int:
  from cassle_jax.convert import run
  from cassle_jax.runs import folder
  from cassle_jax.runs.logs import say
  from cassle_jax.weights import families, foreign, reader, recognize

  if values.normalization not in (None, *families.NORMALIZATIONS):
    raise unknown(
      "--normalization", values.normalization, families.NORMALIZATIONS
    )
  values.workdir = folder.expanded(values.workdir)
  if os.path.isdir(values.workdir) and os.listdir(values.workdir):
    raise UserError(
      f"--workdir={values.workdir} is not empty; name a new folder, for an"
      " import makes a run of its own."
    )
  weights = reader.read(values.file)
  found = recognize.recognize(
    weights,
    layout=values.layout,
    prefix=values.prefix,
    network=values.network,
  )
  taken = foreign.take(
    found,
    heads=values.heads,
    pool=values.pool,
    omega=tuple(values.omega.split(",")) if values.omega else None,
    conditioning=values.conditioning,
    backbone_only=values.backbone_only,
  )
  config = run.configure(
    taken,
    image_size=values.image_size,
    normalization=values.normalization,
    method=values.method,
    overrides=overrides,
  )
  run.write(config, taken, values.workdir)
  for line in _told(values, found, taken, config):
    say(line)
  return 0


def _told(values, found, taken, config: Any) -> list[str]:
  """What was taken for what, in lines."""
  model = config.model
  place = found.prefix or "the top"
  lines = [
    f"{found.weights.path}: {found.weights.format}, {found.family.title}",
    f"backbone at {place}: {model.backbone}, {config.data.image_size} px, mean"
    f" {_shown(config.augment.mean)}, std {_shown(config.augment.std)}"
    + "".join(f"; {note}" for note in taken.notes),
  ]
  heads = ", ".join(name for name in taken.states if name != "backbone")
  lines.append(
    f"heads: {heads or 'none'} imported; the run's method is"
    f" {config.method.name}, awareness {config.awareness.name}"
    + (
      f", omega {','.join(model.omega)}" if model.conditioning != "none" else ""
    )
  )
  if taken.left:
    shown = ", ".join(taken.left[:8])
    more = f" and {len(taken.left) - 8} more" if len(taken.left) > 8 else ""
    lines.append(f"left over: {shown}{more}")
  if found.weights.foreign:
    shown = ", ".join(found.weights.foreign[:6])
    lines.append(f"named by the file and not run: {shown}")
  lines.append(
    f"wrote {values.workdir}, step 0; measure it with python -m"
    f" cassle_jax.evaluate --config=configs/eval/all.py"
    f" --workdir={values.workdir}"
  )
  return lines


def _shown(numbers: Sequence[float]) -> str:
  return "/".join(f"{x:g}" for x in numbers)
