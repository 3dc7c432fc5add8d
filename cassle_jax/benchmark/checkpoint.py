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
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cassle_jax.benchmark import common, program
from cassle_jax.config import cli
from cassle_jax.hosts import stragglers
from cassle_jax.hosts.preemption import Watch
from cassle_jax.hosts.watchdog import Watchdog
from cassle_jax.runs import checkpoint, goodput, logs
from cassle_jax.runs.fingerprint import fingerprint
from cassle_jax.runs.guard import Guard
from cassle_jax.step import all_finite
from cassle_jax.step.state import TrainState


def main(arguments: Sequence[str]) -> int:
  """Saves, restores and guards a config's state; prints a table."""
  flags = common.parser("checkpoint", __doc__, rounds=3)
  cli.add_config(flags)
  flags.add_argument("--batch", type=int, help="images in a step; the config's")
  flags.add_argument("--image_size", type=int, help="the config's")
  flags.add_argument("--folder", help="where to save; a temporary folder")
  values, overrides = common.parse(flags, arguments)
  if values.folder is not None:
    cli.check_output("--folder", os.path.join(values.folder, "x"))

  config = common.load(values, overrides)
  parts = program.build(config)
  logs.say("compiling the step ...")
  step = program.prepare(config).step
  times = common.clock({"step": step}, values.rounds, logs.say)["step"]
  with tempfile.TemporaryDirectory(dir=values.folder) as folder:
    result = measure(parts, folder, values.rounds, logs.say)
  result |= {
    "step": _best(times),
    "every": config.checkpoint.every,
    "batch": config.batch_size,
    "image_size": config.data.image_size,
    "backbone": config.model.backbone,
  }
  result["shares"] = shares(result)
  print(
    f"{config.method.name}, {config.model.backbone}, {config.batch_size} images"
    f" of {config.data.image_size} px a step; {common.place()}\n"
  )
  print(table(result))
  common.write(values, "checkpoint", result)
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
  state = jax.block_until_ready(parts.make_state())
  blocked, total, restored = [], [], []
  with checkpoint.Checkpointer(
    folder, **(dict(parts.config.checkpoint) | {"asynchronous": True})
  ) as saves:
    for number in range(rounds + 1):
      say(f"save {number} of {rounds} ...")
      first, _ = common.timed(lambda n=number: saves.save(n + 1, state))
      rest, _ = common.timed(saves.wait)
      blocked.append(first)
      total.append(common.Cost(first.cpu + rest.cpu, first.wall + rest.wall))
    disk = _folder_bytes(os.path.join(folder, str(rounds + 1)))

    def restore() -> None:
      jax.block_until_ready(saves.restore(parts.abstract).state)

    for number in range(rounds):
      say(f"restore {number + 1} of {rounds} ...")
      restored.append(common.timed(restore)[0])
  note = host_work(folder)
  times = common.clock(
    {
      "fingerprint": lambda: fingerprint(state),
      "host": lambda: [note() for _ in range(1000)],
      "update": _repeated(update_of(parts.optimizer, guarded=False), state),
      "guarded": _repeated(update_of(parts.optimizer, guarded=True), state),
    },
    rounds,
    say,
  )
  # The first save compiles the fingerprints' programs.
  times |= {"save_blocks": blocked[1:], "save_total": total[1:]}
  times["restore"] = restored
  found = {
    name: _best(costs, 1000 if name == "host" else 1)
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


def _best(costs: Sequence[common.Cost], items: int = 1) -> dict[str, float]:
  cpu, wall = common.lowest(costs, items)
  return {"cpu_ms": cpu, "wall_ms": wall}


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


def table(result: dict[str, Any]) -> str:
  """A line each, then what they come to."""
  rows = [["", "CPU ms", "wall ms", "of a step"]]
  for title, name, share in (
    ("step", "step", None),
    ("save, blocks", "save_blocks", "save"),
    ("save, to the end", "save_total", None),
    ("restore", "restore", None),
    ("fingerprint", "fingerprint", "fingerprint"),
    ("guard", "guard", "guard"),
    ("host's notes", "host", "host"),
  ):
    cpu, wall = (f"{ms:,.3f}" for ms in result[name].values())
    shown = f"{result['shares'][share]:.4%}" if share else ""
    rows.append([title, cpu, wall, shown])
  part = result["shares"]
  together = part["fingerprint"] + part["guard"] + part["host"]
  lines = [
    common.aligned(rows),
    "",
    f"state {result['state_bytes'] / 2**20:,.1f} MiB, on disk"
    f" {result['disk_bytes'] / 2**20:,.1f} MiB; a save every"
    f" {result['every']:,} steps blocks for {part['blocked_steps']:.2f} steps",
    f"fingerprint, guard and host's notes together: {together:.3%} of a step",
  ]
  return "\n".join(lines)


def _folder_bytes(folder: str) -> int:
  return sum(
    os.path.getsize(os.path.join(parent, name))
    for parent, _, names in os.walk(folder)
    for name in names
  )


def update_of(
  optimizer: optax.GradientTransformation, *, guarded: bool
) -> Callable[[TrainState, Any], TrainState]:
  """(state, gradients) -> state: the optimiser alone, with or without guard.

  The difference of the two is what the guard adds to a step: XLA merges it with
  the update. The state is donated.

  Args:
    optimizer: over `state.params`.
    guarded: whether a state that is not finite is refused, as in the step.
  """

  def update(state, gradients):
    updates, opt_state = optimizer.update(
      gradients, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    new = state.replace(params=params, opt_state=opt_state)
    if not guarded:
      return new
    finite = all_finite(new)
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)

  return jax.jit(update, donate_argnums=0)


def host_work(folder: str) -> Callable[[], None]:
  """What the trainer notes of one step, without the device's part in it."""
  watch, clock = Watch(), goodput.Clock()
  times = stragglers.HostTimes()
  watchdog = Watchdog(folder, seconds=0, pause_seconds=0)
  key = jax.random.key(0)
  guard = Guard(folder, seed=0, key=key, max_skipped=5, locate=str)
  metrics = {"finite": np.float32(1)}
  index = np.zeros(1, np.int32)

  def work() -> None:
    watch.check()
    times.note(clock.read())
    for phase in ("step", "step", "data"):
      with clock.phase(phase):
        pass
    watchdog.step(1)
    guard.see(1, index, metrics)

  return work


def _repeated(update: Callable, state: TrainState) -> Callable[[], None]:
  """Calls an update on a copy of the state again and again."""
  # A step is donated its state, so this is the only reference to it.
  held = [jax.tree.map(jnp.copy, state)]
  gradients = jax.tree.map(jnp.zeros_like, state.params)

  def run() -> None:
    held[0] = jax.block_until_ready(update(held[0], gradients))

  return run
