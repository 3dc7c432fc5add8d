"""What it costs to lose nothing: guard, pre-emption check, fingerprints, saves.

  python -m cassle_jax.overheads --config=configs/simclr_resnet50.py --batch=8

The images are synthetic. CPU time is that of all threads and the best of
several rounds; a save is timed by the wall, for it is waiting that counts.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cassle_jax import cli


class Overheads(NamedTuple):
  """Milliseconds; CPU time of all threads unless it says wall.

  Attributes:
    step: a whole step.
    guard: what guarding the state adds to an optimiser's update of it.
    host: what the host notes of a step: pre-emption check, watchdog, guard,
      the clocks.
    fingerprint: of the whole state, once a save.
    step_wall: a whole step.
    save_wall: what an asynchronous save holds training up, fingerprint and
      copies included.
    every: steps between saves.
    state_bytes: size of the state.
  """

  step: float
  guard: float
  host: float
  fingerprint: float
  step_wall: float
  save_wall: float
  every: int
  state_bytes: int

  @property
  def share(self) -> float:
    """Guard, host and fingerprint as a share of a step."""
    each = self.guard + self.host + self.fingerprint / self.every
    return each / self.step


def update_of(parts: Any, *, guarded: bool) -> Callable:
  """(state, gradients) -> state: the optimiser alone, with or without guard.

  Args:
    parts: from `experiment.build`.
    guarded: whether a state that is not finite is refused, as in the step.
  """
  import jax
  import jax.numpy as jnp
  import optax

  from cassle_jax.step import all_finite

  def update(state, gradients):
    updates, opt_state = parts.optimizer.update(
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
  import jax
  import numpy as np

  from cassle_jax import goodput, stragglers
  from cassle_jax.guard import Guard
  from cassle_jax.preemption import Watch
  from cassle_jax.watchdog import Watchdog

  watch, clock = Watch(), goodput.Clock()
  times = stragglers.HostTimes()
  watchdog = Watchdog(folder, seconds=0, pause_seconds=0)
  guard = Guard(
    folder,
    seed=0,
    key=jax.random.key(0),
    max_skipped=5,
    locate=str,
  )
  metrics = {"finite": np.float32(1)}
  index = np.zeros(1, np.int32)

  def work() -> None:
    watch.check()
    times.note(clock.read())
    with clock.phase("step"):
      pass
    with clock.phase("step"):
      pass
    with clock.phase("data"):
      pass
    watchdog.step(1)
    guard.see(1, index, metrics)

  return work


def measure(config: Any, *, rounds: int) -> Overheads:
  """Measures a config's overheads on this machine.

  Args:
    config: of a training run; its data are replaced by synthetic images.
    rounds: how often each is timed; the best counts.
  """
  import jax
  import numpy as np

  from cassle_jax import experiment, sharding
  from cassle_jax.benchmark import common, program
  from cassle_jax.checkpoint import Checkpointer
  from cassle_jax.fingerprint import fingerprint

  parts = program.build(config)
  config = parts.config
  rows, canvas = config.batch_size, config.data.canvas_size
  batch = sharding.put_batch(
    {
      "image": common.images(rows, canvas),
      "size": np.full((rows, 2), canvas, np.int32),
    },
    parts.mesh,
  )
  key = experiment.step_key(parts)
  step = experiment.compile_step(parts, parts.abstract)
  compiled = step.lower(parts.abstract, batch, None, key).compile()
  held = [parts.make_state()]

  def whole() -> None:
    held[0], metrics = compiled(held[0], batch, None, key)
    jax.block_until_ready((held[0], metrics))

  gradients = jax.tree.map(lambda x: 1e-3 * x, held[0].params)
  updates = {flag: update_of(parts, guarded=flag) for flag in (True, False)}

  def update(guarded: bool) -> Callable[[], None]:
    def run() -> None:
      held[0] = updates[guarded](held[0], gradients)
      jax.block_until_ready(held[0])

    return run

  with tempfile.TemporaryDirectory() as folder:
    work = host_work(folder)

    def notes() -> None:
      for _ in range(1000):
        work()

    costs = common.clock(
      {
        "step": whole,
        "plain": update(False),
        "guarded": update(True),
        "host": notes,
        "fingerprint": lambda: fingerprint(held[0]),
      },
      rounds,
    )
    cpu = {name: min(c.cpu for c in each) for name, each in costs.items()}
    waits = []
    with Checkpointer(os.path.join(folder, "c"), keep_last=1) as checkpoints:
      for number in range(rounds + 1):
        began = time.perf_counter()
        checkpoints.save(number, held[0])
        waits.append(1e3 * (time.perf_counter() - began))
        checkpoints.wait()
  leaves = jax.tree.leaves(held[0])
  return Overheads(
    step=cpu["step"],
    guard=max(cpu["guarded"] - cpu["plain"], 0.0),
    host=cpu["host"] / 1000,
    fingerprint=cpu["fingerprint"],
    step_wall=min(cost.wall for cost in costs["step"]),
    save_wall=min(waits[1:]),  # The first compiles.
    every=config.checkpoint.every,
    state_bytes=sum(x.size * x.dtype.itemsize for x in leaves),
  )


def text(found: Overheads) -> str:
  """The figures as lines for a terminal."""
  part = found.fingerprint / found.every
  rows = [
    ("a step, CPU time", found.step, None),
    ("guard of the state", found.guard, found.guard),
    ("host's notes, pre-emption check", found.host, found.host),
    (f"fingerprint, every {found.every} steps", found.fingerprint, part),
  ]
  lines = [f"state of {found.state_bytes / 1e6:.0f} MB"]
  for name, value, each in rows:
    share = "" if each is None else f"{each / found.step:10.3%} of a step"
    lines.append(f"{name:34}{value:12.3f} ms{share}")
  lines.append(f"{'together':49}{found.share:10.3%} of a step")
  lines.append(
    f"an asynchronous save holds training up {found.save_wall:.0f} ms, a step"
    f" takes {found.step_wall:.0f} ms (wall)"
  )
  return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
  """Parses the flags and prints the table."""
  flags = cli.parser("cassle_jax.overheads", __doc__)
  cli.add_config(flags)
  flags.add_argument("--batch", type=int, default=8, help="images (8)")
  flags.add_argument("--rounds", type=int, default=5, help="5")
  values, overrides = cli.parse(flags, arguments)

  from cassle_jax import config as config_lib
  from cassle_jax.benchmark import common

  common.check_counts(batch=values.batch, rounds=values.rounds)
  overrides = [f"batch_size={values.batch}", *overrides]
  config = config_lib.load(values.config, overrides)
  print(text(measure(config, rounds=values.rounds)))
  return 0


if __name__ == "__main__":
  cli.run(main)
