"""Compiles a run's step for accelerators that are not there, and reads it.

  python -m cassle_jax.preflight.compiler JOB

JOB and the last line that is printed are JSON; `compiled` starts this in a
process of its own. JAX looks at the environment once, one process can hold one
compiler, and some crash on what they do not know: then it is the child that
ends.
"""

import collections
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from cassle_jax.errors import UserError
from cassle_jax.preflight import topologies

# What of a TPU's step does not fit is told in this sentence alone.
_NEEDED = re.compile(r"\(([\d.]+)([KMGT])\) exceeds|Used ([\d.]+)([KMGT]) of")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Arrays that are named among those that hold the memory.
_LARGEST = 12


def compiled(
  config: str, overrides: Sequence[str], on: str, images: int
) -> dict[str, Any]:
  """What compiling a run's step for a topology tells.

  Args:
    config: as of --config.
    overrides: "key=value" of it.
    on: name of a topology.
    images: in an epoch.

  Returns:
    See `analysed`.

  Raises:
    UserError: the run cannot be built, or the compiler fails.
  """
  topology = topologies.parse(on)
  topologies.check_installed(topology)
  job = {"config": config, "overrides": list(overrides), "on": on}
  done = subprocess.run(
    [sys.executable, "-m", __name__, json.dumps(job | {"images": images})],
    env=os.environ | topologies.environment(topology),
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    said = done.stderr.strip().splitlines() or ["nothing"]
    error = next((x for x in said if x.startswith("error: ")), said[-1])
    if error.startswith("error: "):
      raise UserError(error.removeprefix("error: "))
    raise UserError(
      f"the compiler for {on} ended with status {done.returncode}:"
      f" {error[:300]}"
    )
  return json.loads(done.stdout.splitlines()[-1])


def analysed(job: dict[str, Any]) -> dict[str, Any]:
  """Compiles a job in this process.

  Returns:
    "batch", "views", "steps", "parameters", "precision" and other facts of the
    run; "flops" of a step on all devices; of each device "memory" (a
    `device_memory.Memory` as a dict, or {"needed"} where the compiler refused
    for want of it), "traffic" and "workspace" in bytes by part of the step,
    "held" (bytes by part where the memory is fullest) and "largest" arrays,
    "collectives" (kind, cause, bytes, sent, group, count); and "versions".
    Without a program what is read out of it is None.
  """
  import jax

  from cassle_jax import config as config_lib
  from cassle_jax.hosts import device_memory
  from cassle_jax.preflight import arithmetic
  from cassle_jax.training import experiment

  topology = topologies.parse(job["on"])
  config = config_lib.load(job["config"], job["overrides"])
  parts = experiment.build(
    config, devices=topologies.devices(topology), images=job["images"]
  )
  canvas = experiment.canvas_of(parts.config)
  step = experiment.compile_step(parts, parts.abstract)
  began = time.time()
  traced = step.trace(*experiment.abstract_inputs(parts, canvas))
  leaves = jax.tree.leaves(parts.abstract.params)
  result = facts(parts) | {
    "parameters": sum(leaf.size for leaf in leaves),
    "flops": arithmetic.flops(traced.jaxpr),
    "versions": versions(topology),
    **dict.fromkeys(("traffic", "workspace", "held", "largest", "collectives")),
  }
  try:
    program = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    result["memory"] = {"needed": needed(str(error))}
    return result | {"seconds": time.time() - began}
  memory = device_memory.of(program)
  result["memory"] = memory and memory._asdict()
  text = program.as_text()
  result |= read(text, topology.devices, leaves)
  return result | {"seconds": time.time() - began}


def facts(parts: Any) -> dict[str, Any]:
  """What a run is, for the heading and the advice."""
  config, mesh = parts.config, parts.mesh
  backbone = parts.networks.backbone
  return {
    "method": config.method.name,
    "awareness": config.awareness.name,
    "backbone": config.model.backbone,
    "attention": getattr(backbone, "attention", None),
    "image_size": config.data.image_size,
    "precision": config.precision,
    "batch": config.batch_size,
    "accumulate": config.accumulate,
    "views": len(parts.policies),
    "remat": config.model.remat,
    "bn_groups": config.model.bn_groups,
    "fsdp": mesh.shape["fsdp"],
    "steps": parts.total_steps,
  }


def read(text: str, devices: int, leaves: Sequence[Any]) -> dict[str, Any]:
  """What a compiled program's text tells; see `analysed`.

  Args:
    text: of the partitioned program.
    devices: that it runs on.
    leaves: shapes of the parameters, with shardings, to know gradients by.
  """
  from cassle_jax.preflight import buffers, hlo, traffic
  from cassle_jax.preflight import collectives as collectives_lib
  from cassle_jax.preflight.parts import part_of

  program = hlo.parse(text)
  traffics, workspace = collections.Counter(), 0
  for move in traffic.moves(program):
    traffics[part_of(move.instruction)] += move.bytes
    workspace += move.workspace
  held, holders = buffers.at_peak(program), collections.Counter()
  for one in held:
    holders[part_of(one.instruction)] += one.bytes
  dims = collectives_lib.dims
  sizes = {dims(leaf.shape) for leaf in leaves} | {
    dims(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves
  }
  return {
    "traffic": dict(traffics.most_common()),
    "workspace": workspace,
    "held": dict(holders.most_common()),
    "largest": [
      {
        "bytes": one.bytes,
        "part": part_of(one.instruction),
        "array": f"{one.array.kind}{list(one.array.sizes)}",
        "source": one.instruction.source,
      }
      for one in held[:_LARGEST]
    ],
    "collectives": [
      {
        "kind": one.kind,
        "cause": collectives_lib.main_cause(one, sizes),
        "bytes": one.bytes,
        "sent": one.sent,
        "group": one.group,
        "count": one.count,
      }
      for one in collectives_lib.parse(program, devices)
    ],
  }


def needed(error: str) -> int | None:
  """Bytes of a program that a compiler refused for want of memory.

  Raises:
    UserError: it refused for another reason.
  """
  if "RESOURCE_EXHAUSTED" not in error:
    line = " ".join(error.split())
    raise UserError(f"the step cannot be compiled: {line[:300]}")
  found = _NEEDED.search(error)
  if not found:
    return None
  number, unit = [group for group in found.groups() if group]
  return int(float(number) * _UNITS[unit])


def versions(topology: topologies.Topology) -> dict[str, str]:
  """What compiled the program."""
  compiler = "libtpu" if topology.tpu else "jax-cuda12-plugin"
  names = ("cassle_jax", "jax", "jaxlib", compiler)
  result = {}
  for name in names:
    try:
      result[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return result


if __name__ == "__main__":
  try:
    print(json.dumps(analysed(json.loads(sys.argv[1]))))
  except UserError as problem:
    print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
    sys.exit(2)
