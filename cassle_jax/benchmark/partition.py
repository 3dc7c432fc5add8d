"""Compiles a method's step for many devices of which none is there.

  python -m cassle_jax.benchmark.partition JOB

JOB and the last line that is printed are JSON. One process for each program,
because the number of virtual CPU devices is fixed when JAX starts. Arguments
are shapes alone: the program is lowered, partitioned and compiled, and never
runs. `scaling` starts these processes.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from typing import Any

from cassle_jax.errors import UserError

# What LLVM does with the code is of no interest here.
FLAGS = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)


def compile_job(job: dict[str, Any]) -> dict[str, Any]:
  """Compiles one program in a process of its own.

  Args:
    job: "method", "awareness", "backbone", "image_size", "batch" (images on a
      device), "devices" and "fsdp".

  Returns:
    The job with "parameters" (a count) and "totals", see `collectives.totals`.

  Raises:
    UserError: it failed.
  """
  flags = f"--xla_force_host_platform_device_count={job['devices']}"
  variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags} {FLAGS}"}
  done = subprocess.run(
    [sys.executable, "-m", __name__, json.dumps(job)],
    env=os.environ | variables,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise UserError(
      f"{job['method']} on {job['devices']} devices cannot be compiled: {last}"
    )
  return json.loads(done.stdout.splitlines()[-1])


def counted(job: dict[str, Any]) -> dict[str, Any]:
  """Compiles a job in this process; see `compile_job`."""
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
  batch = {
    name: jax.ShapeDtypeStruct(
      shape, dtype, sharding=sharding.batch_sharding(parts.mesh)
    )
    for name, shape, dtype in (
      ("image", (rows, side, side, 3), np.uint8),
      ("size", (rows, 2), np.int32),
    )
  }
  step = experiment.compile_step(parts, parts.abstract)
  key = experiment.step_key(parts)
  compiled = step.lower(parts.abstract, batch, None, key).compile()
  leaves = jax.tree.leaves(parts.abstract.params)
  sizes = {collectives.dims(leaf.shape) for leaf in leaves} | {
    collectives.dims(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves
  }
  found = collectives.parse(compiled.as_text(), job["devices"])
  return job | {
    "parameters": program.count(parts.abstract.params),
    "totals": collectives.totals(found, sizes),
  }


if __name__ == "__main__":
  print(json.dumps(counted(json.loads(sys.argv[1]))))
