"""What keeping a run safe costs: saving, fingerprints, guard, host's notes.

  python -m cassle_jax.benchmark checkpoint --config=configs/quickstart.py
  python -m cassle_jax.benchmark checkpoint --batch=8 \\
      --config=configs/simclr_resnet50.py --config.precision=float32

The state of a config is made, saved and restored as the trainer does it, in a
temporary folder (--folder names one on the disk to be measured). Times are the
best of --rounds. "blocks" is how long training waits for a save; the rest is
written in the background. The step is timed beside, on synthetic images, and
everything is held against it:

  save            what blocks, spread over checkpoint.every steps
  fingerprint     the part of it that marks every array, spread likewise
  guard           by how much the optimiser's update takes longer where a state
                  that is not finite is refused, every step
  host's notes    SIGTERM flag, clocks, watchdog and count of skipped steps,
                  every step
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from cassle_jax.benchmark import common
from cassle_jax.config import cli


def main(arguments: Sequence[str]) -> int:
  """Saves, restores and guards a config's state; prints a table."""
  flags = cli.parser("cassle_jax.benchmark checkpoint", __doc__)
  cli.add_config(flags)
  flags.add_argument("--json", metavar="FILE", help="write the numbers here")
  flags.add_argument("--batch", type=int, help="images in a step; the config's")
  flags.add_argument("--image_size", type=int, help="the config's")
  flags.add_argument("--rounds", type=int, default=3, help="3")
  flags.add_argument("--folder", help="where to save; a temporary folder")
  values, overrides = cli.parse(flags, arguments)
  common.check_counts(
    batch=values.batch, image_size=values.image_size, rounds=values.rounds
  )
  if values.json is not None:
    cli.check_output("--json", values.json)
  if values.folder is not None:
    cli.check_output("--folder", os.path.join(values.folder, "x"))

  from cassle_jax import config as config_lib
  from cassle_jax.benchmark import program
  from cassle_jax.runs import logs

  config = config_lib.load(values.config, overrides)
  config.batch_size = values.batch or config.batch_size
  config.data.image_size = values.image_size or config.data.image_size
  parts = program.build(config)
  logs.say("compiling the step ...")
  step = program.prepare(config)
  times = common.clock({"step": step.step}, values.rounds, logs.say)["step"]
  with tempfile.TemporaryDirectory(dir=values.folder) as folder:
    result = measure(parts, folder, values.rounds, logs.say)
  result |= {
    "command": "checkpoint",
    "step": {
      "cpu_ms": min(cost.cpu for cost in times),
      "wall_ms": min(cost.wall for cost in times),
    },
    "every": config.checkpoint.every,
    "batch": config.batch_size,
    "image_size": config.data.image_size,
    "backbone": config.model.backbone,
  }
  result["shares"] = shares(result)
  on = common.machine()
  print(
    f"{config.method.name}, {config.model.backbone}, {config.batch_size} images"
    f" of {config.data.image_size} px a step; {on['devices']} x {on['device']}"
    f" ({on['processor']}, {on['cores']} cores)\n"
  )
  print(table(result))
  if values.json:
    common.write(values.json, result | on)
  return 0


def measure(
  parts: Any, folder: str, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
  """Times everything that is done to a state but training it.

  Args:
    parts: of the run, from `program.build`.
    folder: an empty folder.
    rounds: how often each is timed; the best counts.
    say: is told what goes on.

  Returns:
    {"state_bytes", "disk_bytes", and "save_blocks", "save_total", "restore",
    "fingerprint", "guard", "host"}, each {"cpu_ms", "wall_ms"}.
  """
  import jax

  from cassle_jax.benchmark import overheads
  from cassle_jax.runs import checkpoint
  from cassle_jax.runs.fingerprint import fingerprint

  state = jax.block_until_ready(parts.make_state())
  blocked, total, restored = [], [], []
  with checkpoint.Checkpointer(
    folder, **(dict(parts.config.checkpoint) | {"asynchronous": True})
  ) as saves:
    for number in range(rounds + 1):
      say(f"save {number} of {rounds} ...")
      start = _now()
      saves.save(number + 1, state)
      middle = _now()
      saves.wait()
      blocked.append(_since(start, middle))
      total.append(_since(start, _now()))
    disk = _folder_bytes(os.path.join(folder, str(rounds + 1)))
    for number in range(rounds):
      say(f"restore {number + 1} of {rounds} ...")
      start = _now()
      jax.block_until_ready(saves.restore(parts.abstract).state)
      restored.append(_since(start, _now()))
  note = overheads.host_work(folder)
  times = common.clock(
    {
      "fingerprint": lambda: fingerprint(state),
      "host": lambda: [note() for _ in range(1000)],
      "update": _update(parts, state, guarded=False),
      "guarded": _update(parts, state, guarded=True),
    },
    rounds,
    say,
  )
  times["host"] = [
    common.Cost(cost.cpu / 1e3, cost.wall / 1e3) for cost in times["host"]
  ]
  # The first save compiles the fingerprints' programs.
  times |= {"save_blocks": blocked[1:], "save_total": total[1:]}
  times["restore"] = restored
  found = {
    name: {
      "cpu_ms": min(cost.cpu for cost in costs),
      "wall_ms": min(cost.wall for cost in costs),
    }
    for name, costs in times.items()
  }
  plain, guarded = found.pop("update"), found.pop("guarded")
  found["guard"] = {
    clock: max(guarded[clock] - plain[clock], 0.0) for clock in plain
  }
  leaves = jax.tree.leaves(state)
  return found | {
    "state_bytes": sum(leaf.nbytes for leaf in leaves),
    "disk_bytes": disk,
  }


def shares(result: dict[str, Any]) -> dict[str, float]:
  """What each costs a step, relative to the step itself.

  Of wall time, because it is what training waits for.

  Args:
    result: from `measure`, with "step" and "every".

  Returns:
    "save", "fingerprint", "guard" and "host" -> a share of the step's time;
    "blocked_steps" -> how many steps' time a save blocks for.
  """
  step = result["step"]["wall_ms"]
  every = max(result["every"], 1)
  return {
    "save": result["save_blocks"]["wall_ms"] / every / step,
    "fingerprint": result["fingerprint"]["wall_ms"] / every / step,
    "guard": result["guard"]["wall_ms"] / step,
    "host": result["host"]["wall_ms"] / step,
    "blocked_steps": result["save_blocks"]["wall_ms"] / step,
  }


_ROWS = {
  "step": ("step", None),
  "save, blocks": ("save_blocks", "save"),
  "save, to the end": ("save_total", None),
  "restore": ("restore", None),
  "fingerprint": ("fingerprint", "fingerprint"),
  "guard": ("guard", "guard"),
  "host's notes": ("host", "host"),
}


def table(result: dict[str, Any]) -> str:
  """A line each, then what they come to."""
  lines = [f"{'':<18}{'CPU ms':>12}{'wall ms':>12}{'of a step':>12}"]
  for title, (name, share) in _ROWS.items():
    cost = result[name]
    shown = f"{result['shares'][share]:.4%}" if share else ""
    lines.append(
      f"{title:<18}{cost['cpu_ms']:>12,.3f}{cost['wall_ms']:>12,.3f}{shown:>12}"
    )
  part = result["shares"]
  together = part["fingerprint"] + part["guard"] + part["host"]
  lines += [
    "",
    f"state {result['state_bytes'] / 2**20:,.1f} MiB, on disk"
    f" {result['disk_bytes'] / 2**20:,.1f} MiB; a save every"
    f" {result['every']:,} steps blocks for {part['blocked_steps']:.2f} steps",
    f"fingerprint, guard and host's notes together: {together:.3%} of a step",
  ]
  return "\n".join(lines)


def _now() -> tuple[float, float]:
  return time.process_time(), time.perf_counter()


def _since(start: tuple[float, float], end: tuple[float, float]) -> common.Cost:
  return common.Cost(*(1e3 * (b - a) for a, b in zip(start, end, strict=True)))


def _folder_bytes(folder: str) -> int:
  return sum(
    os.path.getsize(os.path.join(parent, name))
    for parent, _, names in os.walk(folder)
    for name in names
  )


def _update(parts: Any, state: Any, *, guarded: bool) -> Callable[[], None]:
  """Calls `overheads.update_of` on a copy of the state again and again."""
  import jax
  import jax.numpy as jnp

  from cassle_jax.benchmark import overheads

  update = overheads.update_of(parts.optimizer, guarded=guarded)
  # A step is donated its state, so this is the only reference to it.
  held = [jax.tree.map(jnp.copy, state)]
  gradients = jax.tree.map(jnp.zeros_like, state.params)

  def run() -> None:
    held[0] = jax.block_until_ready(update(held[0], gradients))

  return run
