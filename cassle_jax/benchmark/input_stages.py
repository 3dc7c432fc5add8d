"""What a picture costs on its way from a file to the device, stage by stage."""

import io
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from cassle_jax.data import canvas, decode, jpeg, loading, order
from cassle_jax.data.source import EncodedSource, Source

# Pictures that stages are timed on, and that are looked at for their size.
_SAMPLE = 64
_LOOKED_AT = 256


class _Tiny(EncodedSource):
  """Pictures of 8 x 8 px: what is left of their cost is Python's."""

  name = "tiny"

  def __init__(self, count: int):
    self._count = count
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    self._data = buffer.getvalue()

  def __len__(self) -> int:
    return self._count

  def encoded(self, index: int) -> bytes:
    return self._data

  def locate(self, index: int) -> str:
    return str(index)


def _best(call: Callable[[], Any], items: int, rounds: int = 5) -> float:
  """CPU microseconds of this thread for each item, in the best round."""
  times = []
  for _ in range(rounds + 1):
    began = time.thread_time()
    call()
    times.append(time.thread_time() - began)
  return 1e6 * min(times[1:]) / items


def measure(source: Source, side: int) -> dict[str, float | None]:
  """CPU microseconds of one thread for a picture, stage by stage.

  Args:
    source: an open set.
    side: of the canvas in pixels.

  Returns:
    {"read", "decode", "fill", "pillow" (decoding and handing over by Pillow
    alone)}, None where pictures lie decoded; "place", all that a canvas takes;
    "lock", the most of it for which Python's lock can be held: all of Python's
    part, measured on pictures of 8 x 8 px.
  """
  places = [
    int(place)
    for place in np.linspace(
      0, len(source), min(len(source), _SAMPLE), endpoint=False
    )
  ]
  board = np.zeros((side, side, 3), np.uint8)
  result: dict[str, float | None] = dict.fromkeys(
    ("read", "decode", "fill", "pillow")
  )
  count = len(places)
  result["place"] = _best(
    lambda: [source.place(each, board) for each in places], count
  )
  if isinstance(source, EncodedSource):
    files = [source.encoded(each) for each in places]
    result["read"] = _best(
      lambda: [source.encoded(each) for each in places], count
    )
    result["pillow"] = _best(
      lambda: [np.asarray(decode.picture(each)) for each in files], count
    )
    fast = [each for each in files if jpeg.decode(each) is not None]
    if fast:
      result["decode"] = _best(
        lambda: [jpeg.decode(each) for each in fast], len(fast)
      )
      pixels = jpeg.decode(fast[0])[:side, :side].copy()
      result["fill"] = _best(
        lambda: [canvas.fill(board, pixels) for _ in fast], len(fast)
      )
  result["lock"] = held()
  return result


def held(pictures: int = 512) -> float:
  """CPU microseconds of Python for a picture that the loader places."""
  source = _Tiny(pictures)
  loader = loading.Loader(
    source=source,
    order=order.Order(pictures, pictures, 0),
    canvas_size=8,
    rows=np.arange(pictures),
    replace=True,
  )
  batch = loader.empty()
  batch["wanted"][:] = loader.wanted(0)
  return _best(lambda: loader.fill(batch, 0, pictures), pictures)


def copying(rows: int, side: int, rounds: int = 5) -> dict[str, float]:
  """Copies a batch of canvases to the device, as a step's input.

  Args:
    rows: pictures of the batch.
    side: of a canvas in pixels.
    rounds: the best one counts.

  Returns:
    {"images_per_second", "megabytes_per_second", "cpu_ms_per_image" (of all
    threads)}.
  """
  # Off by a byte: a CPU would take aligned memory over without a copy.
  size = rows * side * side * 3
  batch = np.ones(size + 1, np.uint8)[1:].reshape(rows, side, side, 3)
  device, best = jax.devices()[0], (float("inf"), 0.0)
  for _ in range(rounds + 1):
    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(jax.device_put(batch, device))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    best = min(best, (wall, cpu))
  wall, cpu = best
  return {
    "images_per_second": rows / wall,
    "megabytes_per_second": batch.nbytes / wall / 1e6,
    "cpu_ms_per_image": 1e3 * cpu / rows,
  }


def larger(source: Source, side: int) -> float | None:
  """The share of pictures that have to shrink, of at most 256 looked at."""
  if source.shape:
    return float(max(source.shape) > side)
  if not isinstance(source, EncodedSource):
    return None
  places = np.linspace(
    0, len(source), min(len(source), _LOOKED_AT), endpoint=False
  )
  sizes = []
  for place in places:
    try:
      with Image.open(io.BytesIO(source.encoded(int(place)))) as image:
        sizes.append(max(image.size))
    except (OSError, ValueError):
      continue
  return float(np.mean(np.array(sizes) > side)) if sizes else None
