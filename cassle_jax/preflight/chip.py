"""What was measured on a chip beside what it could do at most.

  python -m cassle_jax.preflight.chip
  python -m cassle_jax.preflight.chip OUT --json=chip.json --markdown=chip.md

Without a folder it prints the name that `preflight --on` has for this machine's
devices, or "cpu". launch/chip.sh leaves in OUT a NAME.json of `benchmark step`
for each config, and a NAME-bound.json of `preflight` where there is a bound;
these become one file, and a table for the README.
"""

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from cassle_jax.config import cli
from cassle_jax.errors import UserError
from cassle_jax.hosts.chips import of_kind
from cassle_jax.preflight import topologies

_BOUND = "-bound.json"


def main(arguments: Sequence[str]) -> int:
  """Prints this machine's name, or joins a folder's files."""
  flags = cli.parser("cassle_jax.preflight.chip", __doc__)
  flags.add_argument("folder", nargs="?", help="of launch/chip.sh")
  flags.add_argument("--json", metavar="FILE", help="write the numbers here")
  flags.add_argument("--markdown", metavar="FILE", help="write the table here")
  values, _ = cli.parse(flags, arguments)
  if values.folder is None:
    print(here())
    return 0
  rows = read(values.folder)
  text = table(rows)
  for flag, text_of in (
    ("json", json.dumps({"rows": rows}, indent=2) + "\n"),
    ("markdown", text),
  ):
    path = getattr(values, flag)
    if path is not None:
      cli.check_output(f"--{flag}", path)
      with open(path, "w") as stream:
        stream.write(text_of)
  print(text, end="")
  return 0


def here() -> str:
  """The name of this machine's devices, one that `topologies.parse` knows."""
  import jax

  devices = jax.devices()
  return name_of(devices[0].platform, devices[0].device_kind, len(devices))


def name_of(platform: str, kind: str, count: int) -> str:
  """The name of so many devices; "cpu" where there is no bound for them.

  Args:
    platform: JAX's name of it.
    kind: JAX's `device_kind`.
    count: devices.
  """
  chip = None if platform == "cpu" else of_kind(kind)
  for name in topologies.GPUS:
    if chip == topologies.CHIPS[name]:
      return f"{name}x{count}"
  shapes = {1: "1x1", 4: "2x2", 8: "2x4"}
  for name, axes in topologies.TPUS.items():
    if chip == topologies.CHIPS[name] and count in shapes:
      if axes == 2:
        return f"{name}:{shapes[count]}"
      return f"{name}:2x2x{count // 4}" if count > 1 else "cpu"
  return "cpu"


def read(folder: str) -> list[dict[str, Any]]:
  """A row for each config that was measured; see `row`.

  Raises:
    UserError: there is none.
  """
  rows = []
  names = sorted(os.listdir(folder)) if os.path.isdir(folder) else ()
  for name in names:
    if not name.endswith(".json") or name.endswith(_BOUND):
      continue
    measured = _load(os.path.join(folder, name))
    if measured.get("command") != "step":
      continue
    stem = name.removesuffix(".json")
    path = os.path.join(folder, stem + _BOUND)
    bound = _load(path) if os.path.isfile(path) else None
    rows.append(row(stem, measured, bound))
  if not rows:
    raise UserError(
      f"{folder} has no file of benchmark step --json; bash launch/chip.sh"
      " makes them."
    )
  return rows


def row(
  name: str, measured: Mapping[str, Any], bound: Mapping[str, Any] | None
) -> dict[str, Any]:
  """What was measured of one config, with its bound.

  Args:
    name: of the config.
    measured: the file of `benchmark step`.
    bound: the file of `preflight`, or None.

  Returns:
    "config", "device", "devices", "batch", "precision", "images_per_second",
    "bound", "bound_by", "of_bound", "mfu", "peak_bytes", "augmentation" (share
    of the step) and "over_torch" (our images a second over PyTorch's); None
    where it was not measured.
  """
  ours, *others = measured["cells"]
  peer = next((one for one in others if one["label"] == "torch"), None)
  rate = ours["images_per_second"]
  most = bound and bound["images_per_second_bound"]
  stage = ours["stages"].get("augmentation")
  return {
    "config": name,
    "device": measured["device"],
    "devices": measured["devices"],
    "batch": ours["batch"],
    "precision": ours["precision"],
    "images_per_second": rate,
    "bound": most,
    "bound_by": bound and bound["bound_by"],
    "of_bound": most and rate / most,
    "mfu": ours["mfu"],
    "peak_bytes": ours["peak_bytes"],
    "augmentation": stage and stage["share"],
    "over_torch": peer and rate / peer["images_per_second"],
    "versions": measured["versions"],
  }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows as a table in Markdown, with where and when."""
  first = rows[0]
  lines = [
    f"| {first['devices']} x {first['device']} | batch | images/s | at most |"
    " of that | MFU | memory GB | augmentation | over PyTorch |",
    "|---" * 9 + "|",
  ]
  for one in rows:
    bound = "-"
    if one["bound"]:
      bound = f"{one['bound']:,.0f} ({one['bound_by']})"
    memory = one["peak_bytes"] and f"{one['peak_bytes'] / 1e9:,.1f}"
    over = one["over_torch"] and f"{one['over_torch']:.2f} x"
    lines.append(
      f"| {one['config']}, {one['precision']} | {one['batch']:,} |"
      f" {one['images_per_second']:,.0f} | {bound} |"
      f" {_percent(one['of_bound'])} | {_percent(one['mfu'])} |"
      f" {memory or '-'} | {_percent(one['augmentation'])} | {over or '-'} |"
    )
  known = ", ".join(f"{name} {n}" for name, n in first["versions"].items())
  lines += [
    "",
    f"*Measured* {datetime.date.today()} by `bash launch/chip.sh`, synthetic"
    f" images, {known}.",
  ]
  return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
  return "-" if share is None else f"{share:.0%}"


def _load(path: str) -> dict[str, Any]:
  with open(path) as stream:
    return json.load(stream)


if __name__ == "__main__":
  cli.run(main)
