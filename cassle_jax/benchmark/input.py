"""How fast the host feeds a step: pictures a second, and what each costs.

  python -m cassle_jax.benchmark input
  python -m cassle_jax.benchmark input --config=configs/mocov3_vit.py \\
      --config.data.source=folder:/data/imagenet --threads=8,16,32
  python -m cassle_jax.benchmark input --step_rate=2500 --json=input.json

First the stages of a picture on one thread: read, decoded, filled into its
canvas; what Pillow takes to decode it; and the part for which Python's lock can
be held, which limits a process whatever its cores. Then batches are read by the
trainer's own pipeline, file to canvas, for --seconds after a first batch, and
one batch is copied to the device. Without --config they are JPEG files of
500 x 375 px in a temporary folder, about 110 KB each, made for 224 px views;
they come out of the page cache, so a disk or network is not part of the figure.

--step_rate, images a second (`benchmark step` measures it), asks how many cores
a step needs, and how long it waits: a stand-in that takes batches at that pace.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from cassle_jax import config as config_lib
from cassle_jax import data
from cassle_jax.benchmark import common, input_stages
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
    help="e.g. 1,4; 0: two a core up to 32 (1, 2, 4 ... all cores)",
  )
  flags.add_argument("--seconds", type=float, default=3.0, help="each (3)")
  flags.add_argument("--pictures", type=int, default=256, help="made (256)")
  flags.add_argument("--step_rate", type=float, help="images/s of a step")
  values, overrides = common.parse(flags, arguments)
  if values.threads is None:
    threads = up_to(data.decode.cores())
  else:
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
    stages = input_stages.measure(source, side)
    larger = input_stages.larger(source, side)
    # A batch is copied in one piece; a gigabyte tells as much as ten.
    copied = input_stages.copying(
      max(min(batch, 2**30 // side**2 // 3), 1), side
    )
    waited = None
    if values.step_rate:
      logs.say("a stand-in step takes batches")
      waited = waiting(source, config, values.seconds, values.step_rate)
  print(f"{shown} -> {side} px, batches of {batch}; {common.place()}\n")
  print(stage_table(stages) + "\n")
  print(table(rows) + "\n")
  print(copy_line(copied))
  if larger is not None:
    print(f"{larger:.0%} of the pictures are larger than the canvas and shrink")
  if values.step_rate:
    best = max(row["images_per_second"] for row in rows)
    print("\n" + against_step(best, values.step_rate))
    print(cores_line(stages, copied, values.step_rate))
    print(f"the stand-in waits for {waited:.1%} of its time")
  result = {
    "source": shown,
    "image_size": config.data.image_size,
    "batch": batch,
    "settings": rows,
    "stages_us": stages,
    "copy": copied,
    "larger": larger,
    "step_rate": values.step_rate,
    "waited": waited,
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
  pipeline = _pipeline(source, config, threads)
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


def _pipeline(source: Any, config: Any, threads: int) -> data.Pipeline:
  return data.build(
    source=source,
    image_size=config.data.image_size,
    canvas_size=config.data.canvas_size,
    batch_size=max(min(config.batch_size, len(source)), 1),
    resident_bytes=0,
    threads=threads,
  )


def waiting(
  source: Any, config: Any, seconds: float, step_rate: float
) -> float:
  """Takes batches, on the device, at the pace of a step.

  Args:
    source: an open source.
    config: of the run.
    seconds: for how long, after three batches that are not counted.
    step_rate: images a second of the step, which is slept for.

  Returns:
    The share of the time in which the step had no batch, in [0, 1].
  """
  pipeline = _pipeline(source, config, 0)
  waited, whole, number = 0.0, 0.0, 0
  try:
    batches = pipeline.device_batches(0, jax.device_put)
    while whole < seconds:
      began = time.perf_counter()
      _, index = next(batches)
      got = time.perf_counter()
      # A step that is late does not make up for it.
      time.sleep(len(index) / step_rate)
      if number >= 3:
        waited += got - began
        whole += time.perf_counter() - began
      number += 1
  finally:
    pipeline.close()
  return waited / whole


def up_to(cores: int) -> list[int]:
  """1, 2, 4, ... and all cores."""
  powers = [2**power for power in range(cores.bit_length())]
  return sorted({*powers, cores})


def stage_table(stages: dict[str, float | None]) -> str:
  """What a picture takes of one thread, and what follows for a process."""
  names = ("read", "decode", "fill", "place", "pillow", "lock")
  shown = {name: common.number(stages[name], 0, "-") for name in names}
  head = ["one thread, CPU us a picture", *names]
  ceiling = 1e6 / stages["lock"]
  return (
    common.aligned([head, ["", *shown.values()]])
    + f"\n{1e6 / stages['place']:,.0f} pictures/s a busy core; Python's lock"
    f" limits a process to {ceiling:,.0f}/s"
  )


def copy_line(copied: dict[str, float]) -> str:
  """How fast canvases get to the device."""
  return (
    f"to the device: {copied['megabytes_per_second']:,.0f} MB/s,"
    f" {copied['images_per_second']:,.0f} canvases/s,"
    f" {copied['cpu_ms_per_image']:.3f} CPU ms each"
  )


def cores_line(
  stages: dict[str, float | None], copied: dict[str, float], rate: float
) -> str:
  """How many cores a step of so many images a second needs, and of the lock."""
  cores = rate * (stages["place"] / 1e6 + copied["cpu_ms_per_image"] / 1e3)
  share = rate * stages["lock"] / 1e6
  return (
    f"{rate:,.4g} images/s need {cores:.1f} busy cores like this one and hold"
    f" Python's lock for at most {share:.0%} of the time"
  )


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
