"""What keeping a run safe costs: saving, fingerprints, guard, SIGTERM check.

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
  guard           isfinite and the choice between old and new state, every step
  SIGTERM check   the look at the flag, every step
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from cassle_jax import cli
from cassle_jax.benchmark import common


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
  from cassle_jax import logs
  from cassle_jax.benchmark import program

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
    "fingerprint", "guard", "check"}, each {"cpu_ms", "wall_ms"}.
  """
  import jax

  from cassle_jax import checkpoint
  from cassle_jax.fingerprint import fingerprint
  from cassle_jax.preemption import Watch

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
  guarded = _guard(state)
  watch = Watch()

  def check() -> None:
    for _ in range(1000):
      watch.check()

  times = common.clock(
    {
      "fingerprint": lambda: fingerprint(state),
      "guard": guarded,
      "check": check,
    },
    rounds,
    say,
  )
  times["check"] = [
    common.Cost(cost.cpu / 1e3, cost.wall / 1e3) for cost in times["check"]
  ]
  # The first save compiles the fingerprints' programs.
  times |= {"save_blocks": blocked[1:], "save_total": total[1:]}
  times["restore"] = restored
  leaves = jax.tree.leaves(state)
  return {
    "state_bytes": sum(leaf.nbytes for leaf in leaves),
    "disk_bytes": disk,
  } | {
    name: {
      "cpu_ms": min(cost.cpu for cost in costs),
      "wall_ms": min(cost.wall for cost in costs),
    }
    for name, costs in times.items()
  }


def shares(result: dict[str, Any]) -> dict[str, float]:
  """What each costs a step, relative to the step itself.

  Of wall time, because it is what training waits for.

  Args:
    result: from `measure`, with "step" and "every".

  Returns:
    "save", "fingerprint", "guard" and "check" -> a share of the step's time;
    "blocked_steps" -> how many steps' time a save blocks for.
  """
  step = result["step"]["wall_ms"]
  every = max(result["every"], 1)
  return {
    "save": result["save_blocks"]["wall_ms"] / every / step,
    "fingerprint": result["fingerprint"]["wall_ms"] / every / step,
    "guard": result["guard"]["wall_ms"] / step,
    "check": result["check"]["wall_ms"] / step,
    "blocked_steps": result["save_blocks"]["wall_ms"] / step,
  }


_ROWS = {
  "step": ("step", None),
  "save, blocks": ("save_blocks", "save"),
  "save, to the end": ("save_total", None),
  "restore": ("restore", None),
  "fingerprint": ("fingerprint", "fingerprint"),
  "guard": ("guard", "guard"),
  "SIGTERM check": ("check", "check"),
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
  together = part["fingerprint"] + part["guard"] + part["check"]
  lines += [
    "",
    f"state {result['state_bytes'] / 2**20:,.1f} MiB, on disk"
    f" {result['disk_bytes'] / 2**20:,.1f} MiB; a save every"
    f" {result['every']:,} steps blocks for {part['blocked_steps']:.2f} steps",
    f"fingerprint, guard and SIGTERM check together: {together:.3%} of a step",
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


def _guard(state: Any) -> Callable[[], None]:
  """A program that does to a state what the step's guard does, and no more.

  In the step it is fused with the updates, whose results are at hand; here it
  reads two states and writes one, so this is the most that it can cost.
  """
  import jax
  import jax.numpy as jnp

  from cassle_jax.step import all_finite

  def choose(new, old, loss):
    ok = jnp.isfinite(loss) & all_finite(new)
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)

  loss = jnp.float32(1)
  new = jax.tree.map(jnp.copy, state)
  program = jax.jit(choose).lower(new, state, loss).compile()
  return lambda: jax.block_until_ready(program(new, state, loss))
