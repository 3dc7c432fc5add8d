"""Compiles a method's step for many devices of which none is there.

  python -m cassle_jax.benchmark.partition JOB.json RESULT.json

One process for each program, because the number of virtual CPU devices is fixed
when JAX starts. Arguments are shapes alone: the program is lowered, partitioned
and compiled, and never runs. `scaling` starts these processes.
"""

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

# What LLVM does with the code is of no interest here.
FLAGS = (
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
)


def environment(devices: int) -> dict[str, str]:
  """The variables of a process with that many virtual CPU devices."""
  count = f"--xla_force_host_platform_device_count={devices}"
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": " ".join((count, *FLAGS)),
  }


def text(job: dict[str, Any]) -> tuple[str, set[tuple[int, ...]], int]:
  """Compiles the step of a job.

  Args:
    job: "method", "awareness", "backbone", "image_size", "batch" (images on a
      device), "devices" and "fsdp", and "changes", {config key: value}.

  Returns:
    The text of the partitioned program; `collectives.dims` of every parameter,
    whole and as it lies on a device; the number of parameters.
  """
  import jax
  import numpy as np

  from cassle_jax.benchmark import collectives, grid, program
  from cassle_jax.hosts import sharding
  from cassle_jax.methods import METHODS
  from cassle_jax.training import experiment

  config = grid.config(
    job["method"],
    job["awareness"],
    backbone=job["backbone"],
    image_size=job["image_size"],
    batch=job["batch"] * job["devices"],
  )
  config.mesh.fsdp = job["fsdp"]
  for path, value in job["changes"].items():
    *sections, key = path.split(".")
    section = functools.reduce(lambda node, name: node[name], sections, config)
    with section.ignore_type():
      section[key] = tuple(value) if isinstance(value, list) else value
  # Whole batches of 256 devices would not divide a queue of the usual size.
  usual = METHODS[job["method"]].options.get("queue_size")
  if usual:
    size = config.batch_size
    config.method.queue_size = -(-usual // size) * size
  parts = program.build(config)
  # On a CPU, "auto" would take the form that is made for CPUs.
  views = functools.partial(parts.awareness.views, form="dense")
  aware = parts.awareness._replace(views=views)
  parts = dataclasses.replace(parts, awareness=aware)
  rows, side = config.batch_size, parts.config.data.canvas_size
  split = sharding.batch_sharding(parts.mesh)
  batch = {
    "image": jax.ShapeDtypeStruct(
      (rows, side, side, 3), np.uint8, sharding=split
    ),
    "size": jax.ShapeDtypeStruct((rows, 2), np.int32, sharding=split),
  }
  step = experiment.compile_step(parts, parts.abstract)
  key = experiment.step_key(parts)
  compiled = step.lower(parts.abstract, batch, None, key).compile()
  leaves = jax.tree.leaves(parts.abstract.params)
  sizes = {collectives.dims(leaf.shape) for leaf in leaves} | {
    collectives.dims(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves
  }
  return compiled.as_text(), sizes, program.count(parts.abstract.params)


def main(arguments: Sequence[str]) -> int:
  """Compiles one job and writes what its program sends."""
  from cassle_jax.benchmark import collectives

  source, target = arguments
  with open(source) as stream:
    job = json.load(stream)
  began = time.perf_counter()
  program, sizes, parameters = text(job)
  found = collectives.parse(program, job["devices"])
  lines: dict[tuple, dict[str, Any]] = {}
  for one in found:
    names = collectives.causes(one, sizes)
    largest = max(range(len(names)), key=lambda i: _size(one, i))
    name = names[largest]
    place = one.source or one.op_name[-80:]
    line = lines.setdefault(
      (one.kind, name, place, one.group),
      {"kind": one.kind, "cause": name, "place": place, "group": one.group}
      | {"count": 0, "bytes": 0},
    )
    line["count"] += one.count
    line["bytes"] += one.count * one.bytes
  result = {
    "parameters": parameters,
    "totals": collectives.totals(found, sizes),
    "lines": sorted(lines.values(), key=lambda line: -line["bytes"]),
    "seconds": round(time.perf_counter() - began, 1),
  }
  with open(target, "w") as stream:
    json.dump(job | result, stream)
  return 0


def _size(one: Any, position: int) -> int:
  from cassle_jax.benchmark import collectives

  return collectives.size_of(one.shapes[position])


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
