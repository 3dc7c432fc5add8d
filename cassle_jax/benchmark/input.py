"""How fast the host feeds a step: pictures decoded a second.

  python -m cassle_jax.benchmark input
  python -m cassle_jax.benchmark input --config=configs/mocov3_vit.py \\
      --config.data.source=folder:/data/imagenet --threads=8,16
  python -m cassle_jax.benchmark input --step_rate=2500 --json=input.json

Batches are read by the trainer's own pipeline, file to canvas, for --seconds
after a first batch. Without --config they are JPEG files of 500 x 375 px in a
temporary folder, about 110 KB each, made for 224 px views; they come out of
the page cache, so a disk or network is not part of the figure.

--step_rate, images a second, is held against the best setting; `benchmark step`
measures it.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cassle_jax import config as config_lib
from cassle_jax import data
from cassle_jax.benchmark import common
from cassle_jax.runs import logs

# The mean size of an ImageNet picture, and about its quality.
HEIGHT, WIDTH, QUALITY = 375, 500, 95


def main(arguments: Sequence[str]) -> int:
  """Decodes with each setting; prints a table."""
  flags = common.parser("input", __doc__, config=True)
  flags.add_argument("--batch", type=int, help="images; the config's, or 64")
  flags.add_argument("--image_size", type=int, help="the config's, or 224")
  flags.add_argument(
    "--threads",
    default="1,0",
    help="e.g. 1,4; 1 and 0, the default: two a core up to 32",
  )
  flags.add_argument("--seconds", type=float, default=3.0, help="each (3)")
  flags.add_argument("--pictures", type=int, default=256, help="made (256)")
  flags.add_argument("--step_rate", type=float, help="images/s of a step")
  values, overrides = common.parse(flags, arguments)
  threads = common.counts("threads", values.threads, least=0)

  with contextlib.ExitStack() as stack:
    if values.config:
      config = common.load(values, overrides)
      shown = config.data.source
    else:
      config = config_lib.default()
      config.batch_size = values.batch or 64
      config.data.image_size = values.image_size or 224
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      logs.say(f"writing {values.pictures} pictures ...")
      write_pictures(folder, values.pictures)
      config.data.source = f"folder:{folder}"
      shown = f"{values.pictures} JPEG files of {WIDTH} x {HEIGHT} px"
    source = data.open_source(
      config.data.source,
      config.data.split,
      class_list=config.data.class_list,
      data_dir=config.data.data_dir,
    )
    rows = []
    for each in threads:
      logs.say(f"decoding, threads {each or 'default'}")
      rows.append(rate(source, config, values.seconds, threads=each))
  batch, side = config.batch_size, rows[0]["canvas_size"]
  print(f"{shown} -> {side} px, batches of {batch}; {common.place()}\n")
  print(table(rows))
  if values.step_rate:
    best = max(row["images_per_second"] for row in rows)
    print("\n" + against_step(best, values.step_rate))
  result = {
    "source": shown,
    "image_size": config.data.image_size,
    "batch": batch,
    "settings": rows,
    "step_rate": values.step_rate,
  }
  common.write(values, "input", result)
  return 0


def write_pictures(folder: str, count: int) -> None:
  """Writes JPEG files of 500 x 375 px, of which no two are alike.

  Blobs with grain compress to about 110 KB each, as ImageNet's do on average.

  Args:
    folder: an existing folder.
    count: number of files.
  """
  rng = np.random.default_rng(0)
  base = common.images(min(count, 16), WIDTH)[:, :HEIGHT]
  for number in range(count):
    pixels = np.roll(base[number % len(base)], rng.integers(WIDTH), axis=1)
    path = os.path.join(folder, f"{number:05}.jpg")
    Image.fromarray(pixels).save(path, quality=QUALITY)


def rate(
  source: Any, config: Any, seconds: float, *, threads: int
) -> dict[str, Any]:
  """Reads batches as a run would, and counts.

  Args:
    source: an open source.
    config: of the run.
    seconds: how long to count, after a first batch that is not counted.
    threads: reading threads; 0 by the rule.

  Returns:
    {"images_per_second", "megabytes_per_second" (of canvases, 10^6 bytes),
    "file_megabytes_per_second" (as read; None where pictures are not files of
    their own), "cpu_ms_per_image", "threads", "canvas_size"}.
  """
  pipeline = data.build(
    source=source,
    image_size=config.data.image_size,
    canvas_size=config.data.canvas_size,
    batch_size=max(min(config.batch_size, len(source)), 1),
    resident_bytes=0,
    threads=threads,
  )
  try:
    batches = pipeline.batches()
    next(batches)
    count, size = 0, 0
    cpu, began = time.process_time(), time.perf_counter()
    while time.perf_counter() - began < seconds:
      made = next(batches)
      count += len(made["index"])
      size += made["image"].nbytes
    wall = time.perf_counter() - began
    cpu = time.process_time() - cpu
  finally:
    pipeline.close()
  files = _mean_file(source)
  return {
    "images_per_second": count / wall,
    "megabytes_per_second": size / wall / 1e6,
    "file_megabytes_per_second": files and count * files / wall / 1e6,
    "cpu_ms_per_image": 1e3 * cpu / count,
    "threads": threads or data.decode.default_threads(),
    "canvas_size": pipeline.canvas_size,
  }


def table(rows: Sequence[dict[str, Any]]) -> str:
  """A line a setting."""
  columns = {
    "threads": ("threads", 0),
    "images/s": ("images_per_second", 1),
    "canvas MB/s": ("megabytes_per_second", 1),
    "file MB/s": ("file_megabytes_per_second", 1),
    "CPU ms": ("cpu_ms_per_image", 2),
  }
  cells = [
    [common.number(row[name], digits, "-") for name, digits in columns.values()]
    for row in rows
  ]
  return common.aligned([list(columns), *cells])


def against_step(decoded: float, taken: float) -> str:
  """One line that holds a decode rate against a step's, in images a second."""
  ratio = decoded / taken
  verdict = "the host keeps up" if ratio >= 1 else "the device waits for it"
  return (
    f"host decodes {decoded:,.4g} images/s, the step takes {taken:,.4g}:"
    f" {ratio:.2f} times as many, {verdict}"
  )


def _mean_file(source: Any) -> float | None:
  """Mean bytes of a picture's file, from a sample of at most 256."""
  places = np.linspace(0, len(source), min(len(source), 256), endpoint=False)
  try:
    sizes = [os.path.getsize(source.locate(int(place))) for place in places]
  except OSError:
    return None
  return float(np.mean(sizes))
