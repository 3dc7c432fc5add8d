"""A config's training step, compiled as the trainer does, and what it costs.

The images are synthetic and lie on the device: neither a data set nor the time
to read one is part of the figures.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from cassle_jax.benchmark import common, peaks
from cassle_jax.benchmark import stages as stages_lib
from cassle_jax.hosts import device_memory, sharding
from cassle_jax.training import experiment


class Program(NamedTuple):
  """A compiled step that is ready to be timed.

  Attributes:
    step: takes one step, and returns when it is done.
    batch_size: images in a step, over all devices.
    figures: what is known without running it: "method", "awareness",
      "backbone", "image_size", "batch", "views" (of an image), "precision",
      "parameters" (a count), "compile_seconds", "compile_cached_seconds",
      "peak_bytes" (on each device), "flops" and "model_flops" (of all devices;
      the latter without the augmentation); None where the backend does not
      tell or nobody asked.
    stages: programs that stop earlier, see `stages`; {} if nobody asked.
    devices: how many take part.
  """

  step: Callable[[], None]
  batch_size: int
  figures: dict[str, Any]
  stages: dict[str, Callable[[], None]] = {}
  devices: int = 1


def build(config: ConfigDict) -> experiment.Experiment:
  """The parts of a run without its data.

  Raises:
    UserError: as `experiment.build`, but for what concerns the data.
  """
  config = config.copy_and_resolve_references()
  config.data.canvas_size = experiment.canvas_of(config)
  return experiment.build(config, images=max(config.batch_size, 1))


def prepare(
  config: ConfigDict, *, stages: bool = False, cached: bool = False
) -> Program:
  """Builds and compiles a config's step, and makes its state and batch.

  Args:
    config: of the run.
    stages: whether to compile the programs of `stages` as well.
    cached: whether to compile a second time, out of a compilation cache.

  Raises:
    UserError: the config cannot run; found before anything is compiled.
  """
  parts = build(config)
  config = parts.config
  rows = config.batch_size
  batch = put_images(parts)
  key = experiment.step_key(parts)

  def lower() -> jax.stages.Lowered:
    step = experiment.compile_step(parts, parts.abstract)
    return step.lower(parts.abstract, batch, None, key)

  lowered, compiled, seconds = clocked(lower, cached=cached)
  inputs = parts.abstract, batch, key
  shorter = {
    name: jax.jit(function).lower(*inputs)
    for name, function in stages_lib.programs(parts).items()
    if stages or name == "augmentation"
  }
  all_flops = views_flops = None
  if config.accumulate == 1:
    all_flops, views_flops = map(flops, (lowered, shorter["augmentation"]))
  # The step is donated its state, so this is the only reference to it.
  held = [parts.make_state()]

  def run() -> None:
    held[0], metrics = compiled(held[0], batch, None, key)
    jax.block_until_ready(metrics)

  def stage(program: jax.stages.Compiled) -> Callable[[], None]:
    return lambda: jax.block_until_ready(program(held[0], batch, key))

  return Program(
    step=run,
    batch_size=rows,
    figures=figures(
      parts,
      parameters=count(parts.abstract.params),
      compile_seconds=seconds[0],
      compile_cached_seconds=seconds[1] if cached else None,
      peak_bytes=peak_bytes(compiled),
      flops=all_flops,
      model_flops=all_flops - views_flops
      if all_flops and views_flops is not None
      else None,
    ),
    stages={name: stage(program.compile()) for name, program in shorter.items()}
    if stages
    else {},
    devices=parts.mesh.size,
  )


def figures(parts: experiment.Experiment, **measured: Any) -> dict[str, Any]:
  """What is known of a program without running it, see `Program.figures`."""
  config = parts.config
  unknown = ("compile_cached_seconds", "flops", "model_flops")
  return {
    "method": config.method.name,
    "awareness": config.awareness.name,
    "backbone": config.model.backbone,
    "image_size": config.data.image_size,
    "batch": config.batch_size,
    "views": len(parts.policies),
    "precision": config.precision,
    **dict.fromkeys(unknown),
    **measured,
  }


@contextlib.contextmanager
def fresh_cache() -> Iterator[None]:
  """A compilation cache that is empty, and gone afterwards."""

  def configure(options: dict[str, Any]) -> None:
    for name, value in options.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()

  with tempfile.TemporaryDirectory() as folder:
    options = {
      "jax_compilation_cache_dir": folder,
      "jax_enable_compilation_cache": True,
      "jax_persistent_cache_min_compile_time_secs": 0.0,
      "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    configure(options)
    try:
      yield
    finally:
      configure(before)


def clocked(
  lower: Callable[[], jax.stages.Lowered], *, cached: bool
) -> tuple[jax.stages.Lowered, jax.stages.Compiled, list[float]]:
  """Traces, lowers and compiles a program, on the clock.

  Args:
    lower: traces and lowers it anew each time.
    cached: whether to do all of it again, with the program in a cache.

  Returns:
    What was lowered and compiled first, and the seconds of each time.
  """
  with fresh_cache() if cached else contextlib.nullcontext():
    cost, (lowered, compiled) = common.timed(
      lambda: (one := lower(), one.compile())
    )
    seconds = [cost.wall / 1e3]
    if cached:
      cost, _ = common.timed(lambda: lower().compile())
      seconds.append(cost.wall / 1e3)
  return lowered, compiled, seconds


def put_images(parts: experiment.Experiment) -> dict[str, jax.Array]:
  """A batch of synthetic images on the devices of a run."""
  rows, canvas = parts.config.batch_size, parts.config.data.canvas_size
  images = common.images(rows, canvas)
  sizes = np.full((rows, 2), canvas, np.int32)
  return sharding.put_batch({"image": images, "size": sizes}, parts.mesh)


def count(tree: Any) -> int:
  """The numbers in a tree of arrays or of their shapes."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def peak_bytes(compiled: jax.stages.Compiled) -> int | None:
  """The memory that a program needs on one device, in bytes.

  Arguments, results and temporaries together; None where the backend does not
  tell.
  """
  found = device_memory.of(compiled)
  return found.total if found else None


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


def measure(
  programs: dict[str, Program],
  rounds: int,
  report: Callable[[str], None] = lambda text: None,
  *,
  peak: peaks.Peak | None = None,
) -> dict[str, dict[str, Any]]:
  """Times programs side by side; the first is what others are held against.

  Args:
    programs: label -> program.
    rounds: how often each is timed.
    report: is told what goes on.
    peak: of one device, for the utilisation; None = not known.

  Returns:
    label -> its figures with "cpu_ms" and "wall_ms" (of a step, in the best
    round), "images_per_second", "views_per_second", "mfu" (the share of the
    peak that the model's operations come to, None where either is not known),
    "stages" (see `stages.split`; of CPU time on CPUs, of wall time elsewhere;
    {} if nobody asked) and "ratio" to the first program: of "cpu_ms" and
    "wall_ms" the `common.Median` over the rounds, as a dict, of "peak_bytes",
    "flops" and "parameters" exact (None where either is not known).
  """
  calls = {}
  for label, program in programs.items():
    calls |= {(label, name): call for name, call in program.stages.items()}
    calls[label, "step"] = program.step
  times = {
    name: common.Cost(*np.transpose(costs))
    for name, costs in common.clock(calls, rounds, report).items()
  }
  kind = "cpu" if jax.default_backend() == "cpu" else "wall"
  base = next(iter(programs))
  first = times[base, "step"]
  result = {}
  for label, program in programs.items():
    mine, known = times[label, "step"], program.figures
    # Within a round: what slows a round slows all programs.
    ratio: dict[str, Any] = {
      f"{clock}_ms": common.median(
        getattr(mine, clock) / getattr(first, clock)
      )._asdict()
      for clock in ("cpu", "wall")
    }
    for name in ("peak_bytes", "flops", "parameters"):
      one, other = programs[base].figures[name], known[name]
      ratio[name] = other / one if one and other is not None else None
    cpu, wall = map(float, (min(mine.cpu), min(mine.wall)))
    rate = 1e3 * program.batch_size / wall
    spent = {
      name: getattr(times[label, name], kind)
      for name in (*program.stages, "step")
    }
    result[label] = known | {
      "cpu_ms": cpu,
      "wall_ms": wall,
      "images_per_second": rate,
      "views_per_second": rate * known["views"],
      "mfu": peaks.utilisation(
        known["model_flops"],
        cpu_ms=cpu,
        wall_ms=wall,
        devices=program.devices,
        peak=peak,
      ),
      "stages": stages_lib.split(spent) if program.stages else {},
      "ratio": ratio,
    }
  return result
