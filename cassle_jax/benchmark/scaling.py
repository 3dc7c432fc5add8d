"""Weak scaling on paper: what a step sends between 8, 64 and 256 devices.

  python -m cassle_jax.benchmark scaling --json=scaling.json
  python -m cassle_jax.benchmark scaling --methods=simclr,mocov2 --devices=8 \\
      --fsdp=1 --backbone=resnet18 --image_size=64

The trainer's own step is compiled for that many virtual CPU devices and never
run; its HLO says which collectives it has. The batch on a device is fixed, so
the global batch grows with the devices. One process for each program; a program
of a ResNet-50 takes about half a minute of CPU time. Programs that the file of
--json has are not compiled again.

The table has the payload of a device and step in MB (10^6 bytes) by cause: the
gradients' reduction, parameters gathered for mesh.fsdp, BatchNorm's statistics,
the loss (projections, queue, correlations) and the monitor of collapse. Then
the time that the largest number of devices needs on known links.

These are the collectives of XLA's CPU compiler, float32. Its GPU compiler also
adds up what is reduced twice before it reduces it (a network that sees two
views one after the other has two gradients): "once" is that figure. It also
makes reduce-scatters of all-reduces of which a device needs a part.
"""

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

from cassle_jax.benchmark import collectives, common
from cassle_jax.benchmark.partition import compile_job
from cassle_jax.errors import UserError, unknown

# Link -> (GB/s of a device in one direction, TFLOP/s of the chip that is
# usually behind it in bfloat16), both published; launch/scaling.md has the
# sources.
LINKS = {
  "NVLink 4": (450.0, 989.0),
  "InfiniBand NDR": (50.0, 989.0),
  "TPU v4 ICI": (300.0, 275.0),
  "TPU v5e ICI": (200.0, 197.0),
  "TPU v5p ICI": (600.0, 459.0),
}
# What a collective costs at least, however little it sends; a round number of
# the order of NCCL's and of ICI's, not a measured one.
LATENCY_US = 10.0
# The share of the peak at which the stated compute time is reckoned.
UTILISATION = 0.45
# Of one 224 px picture through a ResNet-50: 4.1 G products and sums, twice that
# in operations, and three times for forward and backward.
RESNET50_FLOPS = 3 * 2 * 4.1e9


def main(arguments: Sequence[str]) -> int:
  """Compiles what is not there yet; prints the table."""
  flags = common.parser("scaling", __doc__)
  flags.add_argument("--methods", default="", help="e.g. simclr,byol; all")
  flags.add_argument("--awareness", default="cassle", help="cassle")
  flags.add_argument("--devices", default="8,64,256", help="8,64,256")
  flags.add_argument("--fsdp", default="1,8", help="devices a state lies on")
  flags.add_argument("--backbone", default="resnet50", help="resnet50")
  flags.add_argument("--image_size", type=int, default=224, help="224")
  flags.add_argument("--batch", type=int, default=32, help="a device (32)")
  values, _ = common.parse(flags, arguments)
  wanted = jobs(values)

  from cassle_jax.runs import logs

  known, done = _read(values.json), []
  for number, job in enumerate(wanted, 1):
    program = next((one for one in known if job.items() <= one.items()), None)
    if program is None:
      logs.say(
        f"{number} of {len(wanted)}: {job['method']} on {job['devices']}"
        f" devices, fsdp {job['fsdp']} ..."
      )
      program = compile_job(job)
      known.append(program)
      common.write(values, "scaling", {"programs": known})
    done.append(program)
  print(table(done))
  print(bounds_table(done))
  return 0


def jobs(values: argparse.Namespace) -> list[dict[str, Any]]:
  """The programs that the flags ask for.

  Raises:
    UserError: a value that is not valid, or no program is left.
  """
  from cassle_jax.awareness import cells as grid
  from cassle_jax.methods import METHODS

  names = [word for word in values.methods.split(",") if word] or list(METHODS)
  for name in names:
    if name not in METHODS:
      raise unknown("method in --methods", name, METHODS)
    grid.check(name, values.awareness)
  same = {
    name: getattr(values, name)
    for name in ("awareness", "backbone", "image_size", "batch")
  }
  result = [
    {"method": name, "devices": count, "fsdp": parts} | same
    for name in names
    for parts in common.counts("fsdp", values.fsdp)
    for count in common.counts("devices", values.devices)
    # A state on 8 devices needs 8.
    if count % parts == 0
  ]
  if not result:
    raise UserError(
      f"--fsdp={values.fsdp} divides none of --devices={values.devices}; add 1"
      " to --fsdp, or a multiple to --devices."
    )
  return result


def table(programs: Sequence[dict[str, Any]]) -> str:
  """Payload by cause in MB, a row for each method and fsdp."""
  counts = sorted({program["devices"] for program in programs} - {1})
  first = programs[0]
  lines = [
    f"{first['backbone']}, {first['image_size']} px, {first['batch']} images a"
    f" device, {first['awareness']}, float32; MB of a device and step on"
    f" {' / '.join(map(str, counts))} devices",
    "",
    "| method | fsdp | gradients (once) | parameters | BatchNorm | loss |"
    " monitor | other | collectives |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  for (method, fsdp), group in grouped(programs).items():
    cells = [
      across([group.get(n, {}).get(cause) for n in counts])
      for cause in collectives.CAUSES
    ]
    once = next(iter(group.values()))["once"]
    cells[0] += f" ({megabytes(once)})"
    cells.append(across([group.get(n, {}).get("count") for n in counts], 0))
    lines.append(f"| {method} | {fsdp} | {' | '.join(cells)} |")
  return "\n".join(lines)


def bounds_table(programs: Sequence[dict[str, Any]]) -> str:
  """Lower bounds in ms on known links, for the most devices of each method.

  What a ring sends (`Collective.sent`) over the bandwidth: no latency, nothing
  else on the link, all of the links in use at once. Beside them the collectives
  at `LATENCY_US` each, and the time of the computation where it is known: of a
  ResNet-50 on 224 px.
  """
  lines = [
    "",
    f"| ms at least | fsdp | devices | {' | '.join(LINKS)} | latency |",
    "|---" * (len(LINKS) + 4) + "|",
  ]
  for (method, fsdp), group in grouped(programs).items():
    most = max(group)
    one = group[most]
    cells = [f"{one['sent'] / speed / 1e6:.2f}" for speed, _ in LINKS.values()]
    cells.append(f"{one['count'] * LATENCY_US / 1e3:.1f}")
    lines.append(f"| {method} | {fsdp} | {most} | {' | '.join(cells)} |")
  first = programs[0]
  if (first["backbone"], first["image_size"]) == ("resnet50", 224):
    flops = 2 * first["batch"] * RESNET50_FLOPS / UTILISATION
    cells = [f"{flops / peak / 1e9:.1f}" for _, peak in LINKS.values()]
    lines.append(f"| *compute, two views* | | | {' | '.join(cells)} | |")
  return "\n".join(lines)


def grouped(
  programs: Sequence[dict[str, Any]],
) -> dict[tuple[str, int], dict[int, dict[str, float]]]:
  """(method, fsdp) -> devices -> cause -> bytes.

  With them "count" of the collectives, "sent" bytes of a device, and "once":
  the gradients' bytes if each is reduced once.
  """
  result: dict[tuple[str, int], dict[int, dict[str, float]]] = {}
  for program in programs:
    if program["devices"] == 1:
      continue
    totals = program["totals"]
    figures = {cause: totals[cause]["bytes"] for cause in collectives.CAUSES}
    figures["count"] = sum(one["collectives"] for one in totals.values())
    figures["sent"] = sum(one["sent"] for one in totals.values())
    figures["once"] = 4 * program["parameters"]
    key = program["method"], program["fsdp"]
    result.setdefault(key, {})[program["devices"]] = figures
  return result


def across(values: Sequence[float | None], digits: int | None = None) -> str:
  """One number where all are within 2 %, else all of them, "a / b / c"."""
  known = [value for value in values if value is not None]
  if not known:
    return "-"
  show = megabytes if digits is None else lambda n: f"{n:,.{digits}f}"
  if len(known) == len(values) and max(known) - min(known) <= 0.02 * max(known):
    return show(known[-1])
  return " / ".join("?" if v is None else show(v) for v in values)


def megabytes(count: float) -> str:
  """Bytes as MB with three digits or so; "0" for nothing."""
  mega = count / 1e6
  if mega < 0.005:
    return "0"
  return f"{mega:,.0f}" if mega >= 99.5 else f"{mega:.3g}"


def _read(path: str | None) -> list[dict[str, Any]]:
  """The programs that a file of --json has."""
  if path is None or not os.path.isfile(path) or not os.path.getsize(path):
    return []
  try:
    with open(path) as stream:
      return json.load(stream)["programs"]
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"--json={path} is there and is not of this benchmark; name another file."
    ) from error
