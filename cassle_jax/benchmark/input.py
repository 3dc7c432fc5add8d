"""How fast the host feeds a step: pictures decoded a second, and transfers.

  python -m cassle_jax.benchmark input
  python -m cassle_jax.benchmark input --config=configs/mocov3_vit.py \\
      --config.data.source=folder:/data/imagenet --threads=8,16 --workers=0,4
  python -m cassle_jax.benchmark input --step_rate=2500 --json=input.json

Batches are read by the trainer's own pipeline, file to canvas, for --seconds
after a first batch. Without --config they are JPEG files of 500 x 375 px in a
temporary folder, about 110 KB each, made for 224 px views; they come out of
the page cache, so a disk or network is not part of the figure. With workers the
first batch also waits until they have started.

--step_rate, images a second, is held against the best setting; `benchmark step`
measures it. A set that fits into data.resident_bytes is decoded once and lies
on the device: the last lines say how long a batch and such a set take there.
"""

import contextlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from cassle_jax.benchmark import common
from cassle_jax.config import cli
from cassle_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
  """Decodes with each setting; prints a table."""
  flags = cli.parser("cassle_jax.benchmark input", __doc__)
  cli.add_config(flags, required=False)
  flags.add_argument("--json", metavar="FILE", help="write the numbers here")
  flags.add_argument("--batch", type=int, help="images; the config's, or 64")
  flags.add_argument("--image_size", type=int, help="the config's, or 224")
  flags.add_argument(
    "--threads", help="e.g. 1,4; 1 and the default, two a core up to 16"
  )
  flags.add_argument("--workers", default="0", help="processes, e.g. 0,4 (0)")
  flags.add_argument("--seconds", type=float, default=3.0, help="each (3)")
  flags.add_argument("--pictures", type=int, default=256, help="made (256)")
  flags.add_argument("--step_rate", type=float, help="images/s of a step")
  values, overrides = cli.parse(flags, arguments)
  common.check_counts(
    batch=values.batch, image_size=values.image_size, pictures=values.pictures
  )
  if not 0 < values.seconds < 3600:
    raise UserError(f"--seconds={values.seconds:g} must be above 0.")
  if values.step_rate is not None and not values.step_rate > 0:
    raise UserError(f"--step_rate={values.step_rate:g} must be above 0.")
  if overrides and not values.config:
    raise UserError("--config.KEY=VALUE needs --config=FILE.")
  if values.json is not None:
    cli.check_output("--json", values.json)
  threads = _counts("threads", values.threads or "1,0")
  workers = _counts("workers", values.workers)

  from cassle_jax import data
  from cassle_jax.benchmark import decoding
  from cassle_jax.runs import logs

  options: dict[str, Any] = dict(
    image_size=values.image_size or 224, canvas_size=0, batch=64
  )
  with contextlib.ExitStack() as stack:
    if values.config:
      from cassle_jax import config as config_lib

      config = config_lib.load(values.config, overrides)
      options = dict(
        image_size=values.image_size or config.data.image_size,
        canvas_size=config.data.canvas_size,
        batch=config.batch_size,
        split=config.data.split,
        class_list=config.data.class_list,
        data_dir=config.data.data_dir,
      )
      source = shown = config.data.source
      data.open_source(
        source,
        config.data.split,
        class_list=config.data.class_list,
        data_dir=config.data.data_dir,
      )
    else:
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      logs.say(f"writing {values.pictures} pictures ...")
      decoding.write_pictures(folder, values.pictures)
      source = f"folder:{folder}"
      size = f"{decoding.WIDTH} x {decoding.HEIGHT}"
      shown = f"{values.pictures} JPEG files of {size} px"
    options["batch"] = values.batch or options["batch"]
    rows = []
    for processes in workers:
      for each in threads:
        logs.say(f"decoding, workers {processes}, threads {each or 'default'}")
        rows.append(
          decoding.rate(
            source,
            threads=each,
            workers=processes,
            seconds=values.seconds,
            **options,
          )
        )
  side = rows[0]["canvas_size"]
  transfers = _transfers(options["batch"], side)
  on = common.machine()
  print(
    f"{shown} -> {side} px, batches of {options['batch']}; {on['processor']},"
    f" {on['cores']} cores\n"
  )
  print(table(rows))
  best = max(rows, key=lambda row: row["images_per_second"])
  if values.step_rate:
    print("\n" + decoding.against_step(best, values.step_rate))
  print(
    f"\nto {on['devices']} x {on['device']}: a batch of"
    f" {transfers['batch_bytes'] / 1e6:,.0f} MB in"
    f" {transfers['batch_ms']:,.1f} ms ({transfers['gigabytes_per_second']:.1f}"
    f" GB/s); a resident set of {transfers['resident_bytes'] / 2**30:.0f} GiB,"
    " which every device holds, would take about"
    f" {transfers['resident_seconds']:.1f} s, once"
  )
  if values.json:
    result = {
      "command": "input",
      "source": shown,
      "image_size": options["image_size"],
      "batch": options["batch"],
      "settings": rows,
      "step_rate": values.step_rate,
      "transfer": transfers,
    }
    common.write(values.json, result | on)
  return 0


# Column -> (figure, digits).
_COLUMNS = {
  "workers": ("workers", 0),
  "threads": ("threads", 0),
  "images/s": ("images_per_second", 1),
  "canvas MB/s": ("megabytes_per_second", 1),
  "file MB/s": ("file_megabytes_per_second", 1),
  "CPU ms": ("cpu_ms_per_image", 2),
}


def table(rows: Sequence[dict[str, Any]]) -> str:
  """A line a setting."""
  lines = ["".join(f"{title:>13}" for title in _COLUMNS)]
  for row in rows:
    cells = []
    for figure, digits in _COLUMNS.values():
      value = row[figure]
      shown = "-" if value is None else f"{value:,.{digits}f}"
      cells.append(f"{shown:>13}")
    lines.append("".join(cells))
  return "\n".join(lines)


def _counts(flag: str, text: str) -> list[int]:
  """The numbers of a flag such as 1,4."""
  words = [word for word in text.split(",") if word]
  if not words or not all(word.isdecimal() for word in words):
    raise UserError(f"--{flag}={text}: give whole numbers, e.g. --{flag}=1,4.")
  return list(dict.fromkeys(int(word) for word in words))


def _transfers(batch: int, side: int) -> dict[str, float]:
  """How long canvases take to the devices, the best of five."""
  import jax
  import numpy as np

  from cassle_jax.hosts import sharding

  mesh = sharding.make_mesh()
  rows = -(-batch // mesh.size) * mesh.size
  images = np.zeros((rows, side, side, 3), np.uint8)
  one = images[: max(rows // 4, 1)]

  def best(put) -> float:
    seconds = []
    for number in range(5):
      # Other bytes each time, lest nothing be copied.
      images[...] = number
      began = time.perf_counter()
      jax.block_until_ready(put())
      seconds.append(time.perf_counter() - began)
    return min(seconds)

  split = best(lambda: sharding.put_batch({"image": images}, mesh))
  whole = sharding.replicated(mesh)
  copied = best(lambda: jax.device_put(one.copy(), whole))
  resident = 2 * 2**30
  return {
    "batch_bytes": images.nbytes,
    "batch_ms": 1e3 * split,
    "gigabytes_per_second": images.nbytes / split / 1e9,
    "resident_bytes": resident,
    "resident_seconds": copied * resident / one.nbytes,
  }
