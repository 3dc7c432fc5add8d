"""Packs a set of pictures into few large files that train faster.

  python -m cassle_jax.prepare folder:/data/imagenet /fast/imagenet
  python -m cassle_jax.prepare tfds:food101 /fast/food101 --splits=train
  python -m cassle_jax.prepare folder:/data/imagenet /fast/small --side=256

SOURCE is what `data.source` takes, and `data.source=prepared:OUT` what comes
out of it, for training and for evaluation: the same pictures in the same order
with the same labels. Files of up to --side pixels are kept byte for byte;
larger ones are shrunk to fit, once, their true sizes beside them: crops, omega
stay in true pixels. On a slow host --side=384 or 256 makes decoding cheaper and
views blurrier.

Cut off at any moment, the same command goes on where it was; run on a complete
set it checks every byte. Pictures that cannot be decoded are named and left
out.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from cassle_jax import errors
from cassle_jax.config import cli

HOLDER = "prepare.json"  # Says who fills the folder.


def main(arguments: Sequence[str]) -> int:
  """Prepares the splits one after another; returns the exit status."""
  flags = cli.parser("cassle_jax.prepare", __doc__)
  flags.add_argument("source", metavar="SOURCE", help="e.g. folder:/data/pets")
  flags.add_argument("out", metavar="OUT", help="folder of the prepared set")
  flags.add_argument("--splits", default="", help="e.g. train,val (all)")
  flags.add_argument("--side", type=int, default=512, help="pixels (512)")
  flags.add_argument(
    "--on_error", default="skip", help="skip or stop at a bad picture (skip)"
  )
  flags.add_argument("--class_list", default="", help="as data.class_list")
  flags.add_argument("--data_dir", default="", help="as data.data_dir")
  flags.add_argument("--threads", type=int, default=0, help="(two a core)")
  values = flags.parse_args(list(arguments))
  if values.on_error not in ("skip", "stop"):
    raise errors.unknown("--on_error", values.on_error, ("skip", "stop"))
  for name, least in (("side", 32), ("threads", 0)):
    if getattr(values, name) < least:
      raise errors.UserError(
        f"--{name}={getattr(values, name)} must be at least {least}."
      )

  # Imported here: --help and a mistyped flag need none of it.
  from cassle_jax.runs import lock

  values.out = os.path.expanduser(values.out)
  way_out = ", or name another OUT"
  try:
    os.makedirs(values.out, exist_ok=True)
    with lock.held(values.out, "filled", holder=HOLDER, way_out=way_out):
      _prepare(values)
  except OSError as error:
    if error.filename is None:
      raise
    raise errors.UserError(
      f"{error.filename} cannot be written ({error.strerror}); make room or"
      " name another OUT."
    ) from error
  return 0


def _prepare(values: argparse.Namespace) -> None:
  from tqdm import tqdm

  from cassle_jax import data
  from cassle_jax.data import preparing

  splits = [each for each in values.splits.split(",") if each]
  splits = splits or data.split_names(values.source, data_dir=values.data_dir)
  for split in splits or ["train"]:
    source = data.open_source(
      values.source,
      split,
      class_list=values.class_list,
      data_dir=values.data_dir,
    )
    folder = os.path.join(values.out, split)
    complete = split in data.split_names(f"prepared:{values.out}")
    with tqdm(
      total=len(source), unit=" pictures", desc=split, disable=complete
    ) as bar:
      manifest = preparing.prepare(
        source,
        folder,
        side=values.side,
        on_error=values.on_error,
        threads=values.threads,
        done=bar.update,
      )
    if complete:
      print(f"{folder} is complete; checking every byte ...", file=sys.stderr)
      preparing.verify(folder, manifest)
    print(_words(folder, manifest))


def _words(folder: str, manifest: dict) -> str:
  size = sum(each["bytes"] for each in manifest["shards"])
  words = f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
  return (
    f"{folder}: {manifest['count']:,} pictures, {words};"
    f" {manifest['shrunk']:,} shrunk to {manifest['side']} px,"
    f" {len(manifest['left_out'])} left out"
  )


if __name__ == "__main__":
  cli.run(main)
