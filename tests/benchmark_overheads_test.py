"""The pieces that benchmarks of safety time do what the trainer does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cassle_jax.benchmark import checkpoint
from cassle_jax.step.state import TrainState


def state_of(optimizer):
  params = {"w": jnp.arange(4.0)}
  return TrainState(
    step=jnp.int32(3),
    params=params,
    batch_stats={"mean": jnp.ones(2)},
    target={},
    target_stats={},
    memory={},
    opt_state=optimizer.init(params),
  )


def test_the_guard_is_all_that_two_updates_differ_in():
  optimizer = optax.sgd(0.5, momentum=0.9)
  plain, guarded = (
    checkpoint.update_of(optimizer, guarded=flag) for flag in (False, True)
  )
  good = {"w": jnp.ones(4)}
  for update in (plain, guarded):
    moved = update(state_of(optimizer), good)
    np.testing.assert_allclose(moved.params["w"], np.arange(4) - 0.5)
  bad = {"w": jnp.ones(4).at[2].set(jnp.nan)}
  assert np.isnan(plain(state_of(optimizer), bad).params["w"][2])
  kept = guarded(state_of(optimizer), bad)
  for a, b in zip(
    jax.tree.leaves(kept), jax.tree.leaves(state_of(optimizer)), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_the_hosts_notes_write_nothing(tmp_path):
  work = checkpoint.host_work(str(tmp_path))
  for _ in range(3):
    work()
  assert not list(tmp_path.iterdir())
