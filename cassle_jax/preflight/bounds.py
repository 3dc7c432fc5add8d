"""From what a compiler tells to what a run can come to at most.

Three things take at least so long in a step, whatever a kernel does: the
products at the chip's peak, the memory's traffic at its bandwidth, the
collectives at the links'. The longest of them is the bound, as if the others
hid behind it. Latency, input and Python come on top.
"""

import math
from typing import Any

from cassle_jax.hosts import device_memory
from cassle_jax.preflight.topologies import Topology

# The share of the bound that is reckoned with where nobody says another: a
# round number, not a measured one.
EFFICIENCY = 0.6
# GPUs take float32 products in TF32, half of the peak; TPUs round to bfloat16.
_TF32 = 0.5


def figures(
  found: dict[str, Any], topology: Topology, *, efficiency: float = EFFICIENCY
) -> dict[str, Any]:
  """What a run needs and how fast it can be.

  Args:
    found: from `compiler.compiled`.
    topology: that it was compiled for.
    efficiency: share of the bound that a run comes to, in (0, 1].

  Returns:
    "topology", "devices", "fits", "tight" (above `device_memory.TIGHT` of the
    limit), "memory_bytes", "memory_limit_bytes", "largest_batch" (of memory
    that grows with the batch), "flops_per_image", "traffic_bytes_per_image",
    "collective_bytes" (by kind, payload of a device and step), "seconds" (of a
    step at least, by what), "images_per_second_bound", "bound_by", "steps",
    "hours_bound", "chip_hours_bound", "efficiency", "hours", "chip_hours";
    None where the program is not known because it does not fit.
  """
  chip, devices, batch = topology.chip, topology.devices, found["batch"]
  limit = topology.limit()
  memory, fixed = _memory(found["memory"])
  traffic = found["traffic"] and sum(found["traffic"].values())
  seconds = {"arithmetic": found["flops"] / devices / _peak(found, topology)}
  if traffic is not None:
    seconds["memory"] = traffic / chip.bandwidth
  if found["collectives"]:
    seconds["links"] = sum(
      one["sent"] / _link(one["group"], topology)
      for one in found["collectives"]
    )
  longest = max(seconds, key=seconds.get)
  rate = batch / seconds[longest]
  hours = found["steps"] * seconds[longest] / 3600
  return {
    "topology": topology.name,
    "devices": devices,
    "fits": None if memory is None else memory <= limit,
    "tight": memory is not None and memory > device_memory.TIGHT * limit,
    "memory_bytes": memory,
    "memory_limit_bytes": limit,
    "largest_batch": _largest_batch(memory, fixed, limit, batch, devices),
    "flops_per_image": found["flops"] / batch,
    "traffic_bytes_per_image": traffic and traffic * devices / batch,
    "collective_bytes": _by_kind(found["collectives"]),
    "seconds": seconds,
    "images_per_second_bound": rate,
    "bound_by": longest,
    "steps": found["steps"],
    "hours_bound": hours,
    "chip_hours_bound": hours * devices,
    "efficiency": efficiency,
    "hours": hours / efficiency,
    "chip_hours": hours * devices / efficiency,
  }


def advice(found: dict[str, Any], result: dict[str, Any]) -> list[str]:
  """The keys that would change what limits a run, one a line.

  Args:
    found: from `compiler.compiled`.
    result: from `figures`.
  """
  lines = []
  if result["fits"] is False or result["tight"]:
    keys = device_memory.advise(
      batch_size=found["batch"],
      accumulate=found["accumulate"],
      remat=found["remat"],
      precision=found["precision"],
      fsdp=found["fsdp"],
      devices=result["devices"],
    )
    lines.append(f"memory: {keys}")
  if found["precision"] == "float32":
    lines.append(
      "precision=bfloat16 halves the traffic and doubles the arithmetic's peak"
    )
  if result["bound_by"] == "memory":
    if found["attention"] == "xla":
      lines.append(
        "attention's scores go through the memory; model.attention=auto takes"
        " cuDNN's kernel with bfloat16 on GPUs"
      )
    if found["remat"]:
      lines.append("model.remat=false reads less, where memory suffices")
  if result["bound_by"] == "links":
    lines.append("a larger batch_size sends the same gradients for more images")
    if found["fsdp"] > 1:
      lines.append("mesh.fsdp=1 gathers no parameters, where memory suffices")
  waits = sum(
    one["count"]
    for one in found["collectives"] or ()
    if one["cause"] == "BatchNorm"
  )
  if waits > 50 and found["batch"] % result["devices"] == 0:
    lines.append(
      f"model.bn_groups={result['devices']} keeps statistics on each device:"
      f" {waits} collectives less, each of which waits"
    )
  if result["bound_by"] == "arithmetic":
    lines.append(
      "the products themselves: fewer or smaller views, a smaller backbone, or"
      " more chips"
    )
  return lines


def _memory(found: dict[str, int] | None) -> tuple[int | None, int]:
  """Bytes in all, and of them what does not grow with the batch."""
  if found is None:
    return None, 0
  if "needed" in found:
    return found["needed"], 0
  memory = device_memory.Memory(**found)
  return memory.total, memory.total - memory.temporaries


def _largest_batch(
  memory: int | None, fixed: int, limit: int, batch: int, devices: int
) -> int | None:
  """The batch whose temporaries would fit, by proportion; 0 = none does."""
  if memory is None or memory <= fixed:
    return None
  share = (device_memory.TIGHT * limit - fixed) / (memory - fixed)
  rows = math.floor(max(share, 0) * batch)
  return rows // devices * devices


def _peak(found: dict[str, Any], topology: Topology) -> float:
  slow = found["precision"] == "float32" and not topology.tpu
  return topology.chip.flops * (_TF32 if slow else 1.0)


def _link(group: int, topology: Topology) -> float:
  """Bytes a second that a device sends to those of its group."""
  chip = topology.chip
  if topology.hosts > 1 and group > topology.devices // topology.hosts:
    return chip.network
  return chip.link


def _by_kind(found: list[dict[str, Any]] | None) -> dict[str, int] | None:
  if found is None:
    return None
  result: dict[str, int] = {}
  for one in found:
    payload = one["bytes"] * one["count"]
    result[one["kind"]] = result.get(one["kind"], 0) + payload
  return result
