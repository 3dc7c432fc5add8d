"""A config's training step, compiled as the trainer does, and what it costs.

The images are synthetic and lie on the device: neither a data set nor the time
to read one is part of the figures.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cassle_jax import experiment, sharding
from cassle_jax.benchmark import common


class Program(NamedTuple):
  """A compiled step that is ready to be timed.

  Attributes:
    step: takes one step, and returns when it is done.
    batch_size: images in a step, over all devices.
    figures: what is known without running it: "method", "awareness",
      "backbone", "image_size", "batch", "precision", "parameters" (a count),
      "compile_seconds", "peak_bytes" (on each device) and "flops" (of all
      devices); the last two are None where the backend does not tell.
  """

  step: Callable[[], None]
  batch_size: int
  figures: dict[str, Any]


def build(config: ConfigDict) -> experiment.Experiment:
  """The parts of a run, with a stand-in for its data.

  Raises:
    UserError: as `experiment.build`, but for what concerns the data.
  """
  config = config.copy_and_resolve_references()
  with tempfile.TemporaryDirectory() as folder:
    # Only its length is looked at, which has to cover a batch.
    path = os.path.join(folder, "images.npy")
    np.save(path, np.zeros((max(config.batch_size, 1), 8, 8, 3), np.uint8))
    config.data.canvas_size = common.canvas_of(config)
    config.data.source, config.data.split = f"npy:{path}", "train"
    config.data.class_list = config.data.data_dir = ""
    config.data.resident_bytes = 0
    parts = experiment.build(config)
    parts.pipeline.close()
  return parts


def prepare(config: ConfigDict) -> Program:
  """Builds and compiles a config's step, and makes its state and batch.

  Raises:
    UserError: the config cannot run; found before anything is compiled.
  """
  parts = build(config)
  config = parts.config
  rows, canvas = config.batch_size, config.data.canvas_size
  images = common.images(rows, canvas)
  sizes = np.full((rows, 2), canvas, np.int32)
  batch = sharding.put_batch({"image": images, "size": sizes}, parts.mesh)
  key = experiment.step_key(parts)

  began = time.perf_counter()
  step = experiment.compile_step(parts, parts.abstract)
  lowered = step.lower(parts.abstract, batch, None, key)
  compiled = lowered.compile()
  seconds = time.perf_counter() - began
  # The step is donated its state, so this is the only reference to it.
  held = [parts.make_state()]

  def run() -> None:
    held[0], metrics = compiled(held[0], batch, None, key)
    jax.block_until_ready(metrics)

  return Program(
    step=run,
    batch_size=rows,
    figures={
      "method": config.method.name,
      "awareness": config.awareness.name,
      "backbone": config.model.backbone,
      "image_size": config.data.image_size,
      "batch": rows,
      "precision": config.precision,
      "parameters": count(parts.abstract.params),
      "compile_seconds": seconds,
      "peak_bytes": peak_bytes(compiled),
      "flops": None if config.accumulate > 1 else flops(lowered),
    },
  )


def count(tree: Any) -> int:
  """The numbers in a tree of arrays or of their shapes."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def peak_bytes(compiled: jax.stages.Compiled) -> int | None:
  """The memory that a program needs on one device, in bytes.

  Arguments, results and temporaries together; None where the backend does not
  tell.
  """
  try:
    memory = compiled.memory_analysis()
  except (NotImplementedError, jax.errors.JaxRuntimeError):
    return None
  if memory is None:
    return None
  total = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes  # Results in the place of donated arguments.
    + memory.temp_size_in_bytes
  )
  return total or None


def flops(lowered: jax.stages.Lowered) -> float | None:
  """Floating-point operations of a program as it is written.

  Counted before XLA rewrites it, because the library calls that backends put
  in place of products and convolutions are not counted; loops count once.
  None where the backend does not tell.
  """
  try:
    costs = lowered.cost_analysis()
  except (NotImplementedError, jax.errors.JaxRuntimeError):
    return None
  return (costs or {}).get("flops")


class Ratio(NamedTuple):
  """A cost relative to another's, and how sure that is.

  Attributes:
    value: median over the rounds of the ratio within a round.
    margin: half of its interval of about 95 %, 1.58 interquartile ranges over
      the root of the number of rounds (McGill et al. 1978); None where one
      round cannot tell.
  """

  value: float
  margin: float | None


def paired(first: Sequence[float], other: Sequence[float]) -> Ratio:
  """Compares times of the same rounds: what slows a round slows them both."""
  each = np.asarray(other) / np.asarray(first)
  low, middle, high = np.quantile(each, (0.25, 0.5, 0.75))
  if len(each) < 2:
    return Ratio(float(middle), None)
  return Ratio(float(middle), float(1.58 * (high - low) / len(each) ** 0.5))


def measure(
  programs: dict[str, Program],
  rounds: int,
  report: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, Any]]:
  """Times programs side by side; the first is what others are held against.

  Args:
    programs: label -> program.
    rounds: how often each is timed.
    report: is told what goes on.

  Returns:
    label -> its figures with "cpu_ms" and "wall_ms" (of a step, in the best
    round), "images_per_second" and "ratio": to the first program's "cpu_ms"
    and "wall_ms" (see `Ratio`, as a dict), "peak_bytes", "flops" and
    "parameters" (exact; None where either is not known).
  """
  steps = {label: program.step for label, program in programs.items()}
  times = common.clock(steps, rounds, report)
  base = next(iter(programs))
  result = {}
  for label, program in programs.items():
    cpu, wall = zip(*times[label], strict=True)
    ratio = {
      name: paired([getattr(t, kind) for t in times[base]], mine)._asdict()
      for name, kind, mine in (
        ("cpu_ms", "cpu", cpu),
        ("wall_ms", "wall", wall),
      )
    }
    for name in ("peak_bytes", "flops", "parameters"):
      first, other = programs[base].figures[name], program.figures[name]
      known = first and other is not None
      ratio[name] = other / first if known else None
    result[label] = program.figures | {
      "cpu_ms": min(cpu),
      "wall_ms": min(wall),
      "images_per_second": 1e3 * program.batch_size / min(wall),
      "ratio": ratio,
    }
  return result
