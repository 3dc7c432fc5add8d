"""Schedules against the published ones, and where they start and end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import optim
from cassle_jax.errors import UserError
from cassle_jax.optim import schedules

STEPS = 7  # an epoch in these tests


def both(schedule, steps):
  """The schedule on the host in float64, and on the device in float32."""
  host = schedule(np.asarray(steps))
  assert host.dtype == np.float64
  device = jax.jit(schedule)(jnp.asarray(steps))
  assert device.dtype == jnp.float32
  np.testing.assert_allclose(device, host, rtol=2e-6)
  return host


@pytest.mark.parametrize(
  "name, rate, warmup",
  [
    ("cosine_lr0.03_500", 0.03, 0),
    ("cosine_lr0.03_200", 0.03, 0),
    ("mocov3_lr1.5e-4_warm40_300", 1.5e-4, 40),
    ("mocov3_lr1_warm40_60", 1.0, 40),
    ("barlow_lr0.2_warm10_100_two_groups", 0.2, 10),
  ],
)
def test_learning_rate_is_the_published_one(golden, name, rate, warmup):
  expected = golden("schedules")[name]
  epochs = len(expected)
  optimizer = optim.build(
    learning_rate=rate,
    warmup_epochs=warmup,
    per="epoch",
    batch_size=256,
    steps_per_epoch=STEPS,
    total_steps=STEPS * epochs,
  )
  for within in (0, STEPS - 1):
    steps = STEPS * np.arange(epochs) + within
    found = both(optimizer.learning_rate, steps)
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-11)


def test_momentum_is_the_published_one(golden):
  expected = golden("schedules")["byol_momentum_per_epoch_200"]
  ramp = schedules.cosine_ramp(
    0.996, 1.0, 200 * STEPS, per="epoch", steps_per_epoch=STEPS
  )
  found = both(ramp, STEPS * np.arange(200) + 3)
  np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_cosine_per_step():
  fraction = schedules.learning_rate_fraction(
    "cosine", total_steps=100, steps_per_epoch=5, warmup_epochs=4, final=0.1
  )
  found = both(fraction, [0, 10, 20, 60, 100, 120])
  np.testing.assert_allclose(found, [0, 0.5, 1, 0.55, 0.1, 0.1], atol=1e-12)


def test_the_last_steps_keep_their_digits_in_float32():
  fraction = schedules.learning_rate_fraction("cosine", total_steps=1_000_000)
  found = jax.jit(fraction)(jnp.int32(999_999))
  np.testing.assert_allclose(found, (np.pi / 2e6) ** 2, rtol=1e-5)


@pytest.mark.parametrize(
  "name, final, expected",
  [
    ("linear", 0.2, [1, 0.5, 0.2, 0.2]),
    ("constant", 0.0, [1, 1, 1, 1]),
    ("multistep", 0.0, [1, 0.1, 0.01, 0.01]),
  ],
)
def test_other_schedules(name, final, expected):
  fraction = schedules.learning_rate_fraction(
    name, total_steps=8, final=final, milestones=(0.5, 1.0)
  )
  found = both(fraction, [0, 5, 8, 9])
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_ramp_in_either_direction():
  up = schedules.cosine_ramp(0.04, 0.4, 10)
  np.testing.assert_allclose(both(up, [0, 5, 10, 11]), [0.04, 0.22, 0.4, 0.4])
  down = schedules.cosine_ramp(1.0, 0.0, 10)
  np.testing.assert_allclose(down(10), 0.0, atol=1e-15)


def test_a_warmup_longer_than_the_run_only_warms_up():
  fraction = schedules.learning_rate_fraction(
    "cosine", total_steps=10, warmup_epochs=20
  )
  np.testing.assert_allclose(both(fraction, [0, 9]), [0, 0.45])


def test_a_run_of_one_step_is_one():
  fraction = schedules.learning_rate_fraction("cosine", total_steps=1)
  np.testing.assert_allclose(both(fraction, [0, 1]), [1, 0], atol=1e-12)


@pytest.mark.parametrize(
  "call, words",
  [
    (
      lambda: schedules.learning_rate_fraction("cosin", total_steps=5),
      "Did you mean 'cosine'",
    ),
    (
      lambda: schedules.cosine_ramp(0, 1, 5, per="stop"),
      "optim.per 'stop'.*epoch, step",
    ),
    (
      lambda: schedules.cosine_ramp(0, 1, 5, per="stop", name="method.x"),
      "unknown method.x 'stop'",
    ),
    (
      lambda: schedules.cosine_ramp(0, 1, 5, per="epoch", steps_per_epoch=0),
      "at least 1",
    ),
    (
      lambda: schedules.learning_rate_fraction("cosine", total_steps=0),
      "a run of 0 steps",
    ),
  ],
)
def test_errors(call, words):
  with pytest.raises(UserError, match=words):
    call()
