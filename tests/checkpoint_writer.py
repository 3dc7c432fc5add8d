"""Saves a state at every step until it is killed: FOLDER NUMBERS.

Each state is a function of its step alone, so that whoever reads one knows
what it has to be. Started again, it reads the last complete step first.
"""

import sys

import jax
import jax.numpy as jnp

from cassle_jax.runs.checkpoint import Checkpointer


def state_of(step, numbers):
  key = jax.random.key(step)
  return {
    "step": jnp.int32(step),
    "params": {"kernel": jax.random.normal(key, (numbers // 2,))},
    "target": [jax.random.uniform(key, (2, numbers // 4))],
  }


def main(folder, numbers):
  make = jax.jit(state_of, static_argnums=1)
  with Checkpointer(folder, keep_last=2) as checkpoints:
    step = 0
    if checkpoints.latest_step() is not None:
      step = checkpoints.restore(make(0, numbers)).step
    print(f"start {step}", flush=True)
    while True:
      step += 1
      checkpoints.save(step, make(step, numbers), {"note": step})
      if checkpoints.wait():
        print(f"done {step}", flush=True)


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]))
