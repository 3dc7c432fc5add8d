"""Features of any pictures by the backbone of a run.

  python -m cassle_jax.embed --workdir=runs/a --source=folder:/data/photos \\
      --out=photos.parquet
  python -m cassle_jax.embed --workdir=runs/a --source=bundled:earth \\
      --split=test --out=tiles.npz --plot

Reads every source that training reads, as evaluation does: resized and cropped
in the middle. Each row has the picture's path, split, label and features; a
picture that cannot be read is named and left out. Killed at any moment, the
same command goes on, and writes the same bytes as if it had never been.

--plot draws a map of the features, as one HTML page or a PNG.
"""

import argparse
import os
from collections.abc import Sequence

from cassle_jax.config import cli
from cassle_jax.errors import UserError, unknown

# Pictures whose features a kill may cost.
_PART = 1024
_PLOTS = (".html", ".png")


def main(arguments: Sequence[str]) -> int:
  """Parses the flags, computes what is missing, and writes the files."""
  flags = cli.parser("cassle_jax.embed", __doc__)
  add = flags.add_argument
  add("--workdir", required=True, metavar="RUN", help="folder of the run")
  add(
    "--source",
    required=True,
    help="pictures, as data.source of a config: folder:PATH, tfds:NAME, ...",
  )
  add("--out", required=True, help="file that ends in .npz or .parquet")
  add("--split", default="train", help='such as "train,val", or "all" (train)')
  add("--class_list", default="", help="file of class names, one a line")
  add("--data_dir", default="", help="where TFDS sets lie")
  add("--step", type=int, help="of the checkpoint; default the newest")
  add("--image_size", type=int, default=0, help="side in pixels; 0: as trained")
  add("--precision", default="float32", help="float32 (default) or bfloat16")
  add("--batch_size", type=int, default=256, help="pictures at a time (256)")
  add(
    "--again", action="store_true", help="write over a file of something else"
  )
  add(
    "--plot",
    nargs="?",
    const="",
    metavar="FILE",
    help="also draw a map, a .html or .png file; default OUT with .html",
  )
  add("--plot_method", default="auto", help="umap, pca or auto: umap if there")
  add(
    "--plot_points", type=int, default=3000, help="pictures on the map (3000)"
  )
  values, overrides = cli.parse(flags, arguments)
  if overrides:
    raise UserError(
      f"--config.{overrides[0]}: embed takes the config of the run in"
      " --workdir; leave it out."
    )
  _check(values)
  return _run(values)


def _check(values: argparse.Namespace) -> None:
  """Finds mistakes before any work is done."""
  from cassle_jax.embed import layout, tables
  from cassle_jax.training import setup

  tables.check_path(values.out)
  cli.check_output("--out", values.out)
  for name, least in (("batch_size", 1), ("image_size", 0), ("plot_points", 2)):
    if getattr(values, name) < least:
      raise UserError(
        f"--{name}={getattr(values, name)} must be at least {least}."
      )
  if values.precision not in setup.PRECISIONS:
    raise unknown("--precision", values.precision, setup.PRECISIONS)
  if values.plot is None:
    return
  values.plot = values.plot or os.path.splitext(values.out)[0] + ".html"
  if not values.plot.endswith(_PLOTS):
    raise UserError(f"--plot={values.plot} must end in {' or '.join(_PLOTS)}.")
  cli.check_output("--plot", values.plot)
  layout.choose(values.plot_method, values.plot_points)


def _run(values: argparse.Namespace) -> int:
  from cassle_jax.embed import extraction, plot, tables
  from cassle_jax.embed.parts import Parts, differences
  from cassle_jax.embed.pictures import open_pictures
  from cassle_jax.models.backbone import feature_size
  from cassle_jax.runs import logs
  from cassle_jax.training import trained

  pictures = open_pictures(
    values.source,
    values.split,
    class_list=values.class_list,
    data_dir=values.data_dir,
  )
  run = trained.open_run(
    values.workdir, values.step, precision=values.precision
  )
  size = values.image_size or run.config.data.image_size
  feature_size(run.setup.networks.backbone, size)  # Does the size suit it?
  job = extraction.job_of(run, pictures, source=values.source, image_size=size)
  there = os.path.exists(values.out)
  told = there and differences(tables.about(values.out) or {}, job)
  if told and not values.again:
    raise UserError(
      f"--out={values.out} holds something else: {told}; name another file, or"
      " write over it with --again."
    )
  folder = f"{values.out}.parts"
  with Parts(folder, job, total=len(pictures), size=_PART) as parts:
    if there and not told:
      logs.say(f"{values.out} is there")
    else:
      extraction.extract(
        parts, run, pictures, size, batch_size=values.batch_size
      )
      with parts.whole(values.out) as file:
        rows = tables.write(file, values.out, parts, pictures, job)
      logs.say(f"wrote {values.out}: {rows:,} of {len(pictures):,} pictures")
    parts.remove()
  if values.plot is not None:
    found = plot.map_of(
      values.out,
      pictures,
      count=values.plot_points,
      method=values.plot_method,
      title=f"{values.workdir} on {values.source}",
      told=job,
    )
    plot.write(values.plot, found)
    logs.say(f"wrote {values.plot}: {found.subtitle}")
  return 0
