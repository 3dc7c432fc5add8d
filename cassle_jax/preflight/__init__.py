"""Will a run fit, and how fast can it be: answered before a chip is rented.

  python -m cassle_jax.preflight --config=configs/mocov3_vit.py --on=h100x8
  python -m cassle_jax.preflight --config=configs/mocov3_vit.py \\
      --config.batch_size=512 --on=h100,v5e:4x4 --json=preflight.json

Compiles the run's own step with XLA's real compilers, sharded over accelerators
that need not be there, and reads the result: memory of each device and what
holds it, arithmetic, memory traffic, what is sent between devices; with the
chips' published peaks that is a bound on images a second, and hours. Nothing is
executed and no data set is opened. A ViT-S takes a minute of CPU time for GPUs,
five for TPUs.

--on takes h100, h200, a100, a100_40, with x8 or the like (x16: two hosts), and
slices of v5e, v6e and v5p such as v5e:4x4 or v5p:2x2x1; several with commas.
The compilers come with pip install 'cassle_jax[preflight-gpu]' and
'cassle_jax[preflight-tpu]', for x86-64 Linux. --config may be given several
times; --markdown writes a page of all. What the file of --json has, of
the same code, is not compiled again.
"""

import json
import os
import shlex
from collections.abc import Sequence
from typing import Any

from cassle_jax.config import cli
from cassle_jax.errors import UserError

# Images of the sets that configs are written for, by the last part of their
# path, where the set itself is not here.
SETS = {
  "imagenet": 1281167,
  "imagenet100": 126689,
  "imagenette2": 9469,
  "stl10": 105000,
  "cifar10": 50000,
}


def main(arguments: Sequence[str]) -> int:
  """Compiles each config for each topology; prints what that tells."""
  values, overrides = _parse(arguments)
  # A compiler that is installed here would look for its chips.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")

  from cassle_jax import config as config_lib
  from cassle_jax.hosts import distributed
  from cassle_jax.preflight import bounds, compiler, table, topologies
  from cassle_jax.runs.logs import say

  wanted = [topologies.parse(name) for name in values.on.split(",")]
  for topology in wanted:
    topologies.check_installed(topology)
  configs = {
    path: images_of(config_lib.load(path, overrides), values.images)
    for path in values.config
  }
  known, cells = _read(values.json), []
  for path, (images, words) in configs.items():
    if words:
      say(f"{path}: {words}")
    for topology in wanted:
      job = {"config": path, "on": topology.name, "images": images}
      job["overrides"] = overrides
      made = job | {"code": distributed.code_version()}
      one = next((k for k in known if k["job"] == made), None)
      if one is None:
        say(f"compiling {path} for {topology.name} ...")
        one = {"job": made, "found": compiler.compiled(**job)}
        known.append(one)
      found = one["found"]
      result = bounds.figures(found, topology, efficiency=values.efficiency)
      one |= result
      cells.append((label(path), found, result))
      _write(values.json, known)
      print(table.report(found, result), end="\n\n", flush=True)
  if values.markdown:
    words = ("python", "-m", __name__, *arguments)
    _save("--markdown", values.markdown, table.page(cells, shlex.join(words)))
  return 0


def _parse(arguments: Sequence[str]) -> tuple[Any, list[str]]:
  flags = cli.parser("cassle_jax.preflight", __doc__)
  flags.add_argument(
    "--config",
    action="append",
    required=True,
    metavar="FILE[:VARIANT]",
    help="of the run; override any key with --config.section.key=value",
  )
  flags.add_argument("--on", required=True, metavar="NAME[,NAME]")
  flags.add_argument(
    "--images", type=int, help="in an epoch; the size of the data set"
  )
  flags.add_argument(
    "--efficiency",
    type=float,
    default=0.6,
    help="share of the bound that a run comes to (0.6, an assumption)",
  )
  flags.add_argument("--json", metavar="FILE", help="write the numbers here")
  flags.add_argument("--markdown", metavar="FILE", help="write a page here")
  values, overrides = cli.parse(flags, arguments)
  if not 0 < values.efficiency <= 1:
    raise UserError(
      f"--efficiency={values.efficiency:g} must be above 0 and at most 1."
    )
  if values.images is not None and values.images < 1:
    raise UserError(f"--images={values.images} must be at least 1.")
  for flag in ("json", "markdown"):
    if getattr(values, flag) is not None:
      cli.check_output(f"--{flag}", getattr(values, flag))
  return values, overrides


def label(path: str) -> str:
  """A config's name: "grid:simclr/ai" of configs/grid.py:simclr/ai."""
  file, colon, variant = path.partition(":")
  return os.path.basename(file).removesuffix(".py") + colon + variant


def images_of(config: Any, given: int | None) -> tuple[int, str]:
  """Images in an epoch, and what to say about that, "" for nothing.

  Args:
    config: of the run.
    given: as of --images.

  Raises:
    UserError: nobody knows, and the length of the run depends on it.
  """
  if given is not None:
    return given, ""
  source = config.data.source
  if source.startswith("bundled:"):
    from cassle_jax import data

    return len(data.open_source(source, config.data.split)), ""
  name = os.path.basename(source.partition(":")[2].rstrip("/")).lower()
  if name in SETS:
    return SETS[name], f"{source} is taken for the {SETS[name]:,} images of it"
  if config.steps is not None:
    return max(config.batch_size, 1), ""
  raise UserError(
    f"how long {config.epochs:g} epochs of data.source={source} are is not"
    " known here; give --images=N, the number of images in it."
  )


def _read(path: str | None) -> list[dict[str, Any]]:
  """What a file of --json has from before."""
  if path is None or not os.path.isfile(path) or not os.path.getsize(path):
    return []
  try:
    with open(path) as stream:
      known = json.load(stream)
    known = known.get("cells", [known])
    assert all("job" in one and "found" in one for one in known)
  except (ValueError, AttributeError, TypeError, AssertionError) as error:
    raise UserError(
      f"--json={path} is there and is not of preflight; name another file."
    ) from error
  return known


def _write(path: str | None, cells: list[dict[str, Any]]) -> None:
  """One run on one topology as an object, several under "cells"."""
  if path is not None:
    whole = cells[0] if len(cells) == 1 else {"cells": cells}
    _save("--json", path, json.dumps(whole, indent=2) + "\n")


def _save(flag: str, path: str, text: str) -> None:
  try:
    with open(path, "w") as stream:
      stream.write(text)
  except OSError as error:
    raise cli.unwritable(flag, path, error) from error
