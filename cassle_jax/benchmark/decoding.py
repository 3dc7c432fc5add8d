"""How fast the host turns files into canvases: the trainer's own pipeline."""

import os
import time
from typing import Any

import numpy as np
from PIL import Image

from cassle_jax import data
from cassle_jax.benchmark import common

# The mean size of an ImageNet picture, and about its quality.
HEIGHT, WIDTH, QUALITY = 375, 500, 95


def write_pictures(folder: str, count: int) -> None:
  """Writes JPEG files of 500 x 375 px, of which no two are alike.

  Blobs with grain compress to about 110 KB each, as ImageNet's do on average.

  Args:
    folder: an existing folder.
    count: number of files.
  """
  side = max(HEIGHT, WIDTH)
  rng = np.random.default_rng(0)
  base = common.images(min(count, 16), side)[:, :HEIGHT, :WIDTH]
  for number in range(count):
    pixels = np.roll(base[number % len(base)], rng.integers(WIDTH), axis=1)
    path = os.path.join(folder, f"{number:05}.jpg")
    Image.fromarray(pixels).save(path, quality=QUALITY)


def rate(
  source: str,
  *,
  image_size: int,
  canvas_size: int,
  batch: int,
  threads: int,
  workers: int,
  split: str = "train",
  class_list: str = "",
  data_dir: str = "",
  seconds: float = 3.0,
) -> dict[str, Any]:
  """Reads batches as a run would, and counts.

  Args:
    source: what `data.open_source` opens.
    image_size: side of the views.
    canvas_size: side of the canvases; 0 by the rule.
    batch: pictures in a batch, at most as many as there are.
    threads: reading threads; 0 by the rule.
    workers: worker processes; 0 = threads alone.
    split: which part of the source.
    class_list: see `data.open_source`.
    data_dir: see `data.open_source`.
    seconds: how long to count, after a first batch that is not counted.

  Returns:
    {"images_per_second", "megabytes_per_second" (of canvases, 10^6 bytes),
    "file_megabytes_per_second" (as read; None where pictures are not files of
    their own), "cpu_ms_per_image" (None with workers), "threads", "workers",
    "canvas_size"}.

  Raises:
    UserError: there is no such source.
  """
  opened = data.open_source(
    source, split, class_list=class_list, data_dir=data_dir
  )
  pipeline = data.build(
    source=opened,
    image_size=image_size,
    canvas_size=canvas_size,
    batch_size=max(min(batch, len(opened)), 1),
    resident_bytes=0,
    threads=threads,
    workers=workers,
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
  files = _mean_file(opened)
  return {
    "images_per_second": count / wall,
    "megabytes_per_second": size / wall / 1e6,
    "file_megabytes_per_second": files and count * files / wall / 1e6,
    "cpu_ms_per_image": None if workers else 1e3 * cpu / count,
    "threads": threads or data.decode.default_threads(),
    "workers": workers,
    "canvas_size": pipeline.canvas_size,
  }


def against_step(result: dict[str, Any], images_per_second: float) -> str:
  """One line that holds a decode rate against a step's."""
  decoded = result["images_per_second"]
  ratio = decoded / images_per_second
  verdict = "the device waits for the host"
  if ratio >= 1:
    verdict = "the host keeps up"
  return (
    f"host decodes {decoded:,.4g} images/s, the step takes"
    f" {images_per_second:,.4g}: {ratio:.2f} times as many, {verdict}"
  )


def _mean_file(source: data.Source) -> float | None:
  """Mean bytes of a picture's file, from a sample of at most 256."""
  count = min(len(source), 256)
  try:
    sizes = [
      os.path.getsize(source.locate(place * len(source) // count))
      for place in range(count)
    ]
  except OSError:
    return None
  return sum(sizes) / count
