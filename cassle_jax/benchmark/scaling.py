"""Weak scaling on paper: what a step sends between 1, 8, 64 and 256 devices.

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
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from cassle_jax.benchmark import collectives, common, interconnects
from cassle_jax.config import cli
from cassle_jax.errors import UserError, unknown


def main(arguments: Sequence[str]) -> int:
  """Compiles what is not there yet; prints the table."""
  flags = cli.parser("cassle_jax.benchmark scaling", __doc__)
  flags.add_argument("--methods", default="", help="e.g. simclr,byol; all")
  flags.add_argument("--awareness", default="cassle", help="cassle")
  flags.add_argument("--devices", default="1,8,64,256", help="1,8,64,256")
  flags.add_argument("--fsdp", default="1,8", help="devices a state lies on")
  flags.add_argument("--backbone", default="resnet50", help="resnet50")
  flags.add_argument("--image_size", type=int, default=224, help="224")
  flags.add_argument("--batch", type=int, default=32, help="a device (32)")
  flags.add_argument("--timeout", type=int, default=1800, help="s a program")
  flags.add_argument("--json", metavar="FILE", help="keep the numbers here")
  values, overrides = cli.parse(flags, arguments)
  if overrides:
    raise UserError("--config.KEY=VALUE has no effect here; leave it out.")
  common.check_counts(
    batch=values.batch, image_size=values.image_size, timeout=values.timeout
  )
  if values.json is not None:
    cli.check_output("--json", values.json)
  wanted = jobs(values)

  from cassle_jax.runs import logs

  known = _read(values.json)
  done = [_known(job, known) for job in wanted]
  for place, job in enumerate(wanted):
    if done[place] is None:
      logs.say(
        f"{place + 1} of {len(wanted)}: {job['method']} on {job['devices']}"
        f" devices, fsdp {job['fsdp']} ..."
      )
      done[place] = compile_job(job, values.timeout)
      known.append(done[place])
      if values.json:
        common.write(values.json, {"command": "scaling", "programs": known})
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
  devices, fsdp = _numbers(values, "devices"), _numbers(values, "fsdp")
  if all(count % parts for parts in fsdp for count in devices):
    raise UserError(
      f"--fsdp={values.fsdp} divides none of --devices={values.devices}; add 1"
      " to --fsdp, or a multiple to --devices."
    )
  return [
    {
      "method": name,
      "awareness": values.awareness,
      "backbone": values.backbone,
      "image_size": values.image_size,
      "batch": values.batch,
      "devices": count,
      "fsdp": parts,
      "changes": {},
    }
    for name in names
    for parts in fsdp
    for count in devices
    # A state on 8 devices needs 8.
    if count % parts == 0
  ]


def compile_job(job: dict[str, Any], timeout: int) -> dict[str, Any]:
  """Compiles one program in a process of its own; see `partition`.

  Raises:
    UserError: it failed, or took longer than `timeout` seconds.
  """
  from cassle_jax.benchmark import partition

  name = f"{job['method']} on {job['devices']} devices"
  with tempfile.TemporaryDirectory() as folder:
    source = os.path.join(folder, "job.json")
    target = os.path.join(folder, "result.json")
    with open(source, "w") as stream:
      json.dump(job, stream)
    command = [sys.executable, "-m", partition.__name__, source, target]
    try:
      done = subprocess.run(
        command,
        env=partition.environment(job["devices"]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=False,
      )
    except subprocess.TimeoutExpired as error:
      raise UserError(
        f"{name}: not compiled within {timeout} s; set a longer --timeout or a"
        " smaller --backbone."
      ) from error
    if done.returncode:
      last = (done.stderr.strip().splitlines() or ["no message"])[-1]
      raise UserError(f"{name} cannot be compiled: {last}")
    with open(target) as stream:
      return json.load(stream)


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

  Beside them the time of the computation, where it is known: of a ResNet-50 on
  224 px.
  """
  links = interconnects.LINKS
  lines = [
    "",
    "| ms at least | fsdp | devices |"
    + "".join(f" {name} |" for name in links)
    + " latency |",
    "|---|---|---|" + "---|" * (len(links) + 1),
  ]
  for (method, fsdp), group in grouped(programs).items():
    most = max(group)
    one = group[most]
    cells = [
      f"{interconnects.wire_ms(one['sent'], k):.2f}" for k in links.values()
    ]
    cells.append(f"{interconnects.latency_ms(one['count']):.1f}")
    lines.append(f"| {method} | {fsdp} | {most} | {' | '.join(cells)} |")
  first = programs[0]
  if (first["backbone"], first["image_size"]) == ("resnet50", 224):
    views = 2 * first["batch"]
    lines.append(
      "| *compute, two views* | | |"
      + "".join(
        f" {interconnects.compute_ms(views, link):.1f} |"
        for link in links.values()
      )
      + " |"
    )
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


def _numbers(values: argparse.Namespace, flag: str) -> list[int]:
  text = getattr(values, flag)
  words = text.split(",")
  if not all(word.isdecimal() and int(word) > 0 for word in words):
    raise UserError(f"--{flag}={text}: give whole numbers, e.g. --{flag}=1,8.")
  return [int(word) for word in dict.fromkeys(words)]


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


def _known(
  job: dict[str, Any], known: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
  for program in known:
    if all(program.get(key) == value for key, value in job.items()):
      return program
  return None
