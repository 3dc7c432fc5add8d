"""What a step needs, and the keys that make it less."""

import jax
import jax.numpy as jnp
import pytest

from cassle_jax.errors import UserError
from cassle_jax.hosts import device_memory as memory
from cassle_jax.hosts import sharding

ADVICE = dict(
  batch_size=64,
  accumulate=1,
  remat=False,
  precision="float32",
  fsdp=1,
  devices=8,
)


def test_bytes_of_a_donated_program_by_hand():
  """4 kB in, 4 kB out in their place, and a batch of which a device has 1/8."""
  mesh = sharding.make_mesh()
  state = jax.device_put(jnp.zeros(1000), sharding.replicated(mesh))
  batch = jax.device_put(jnp.zeros((8, 500)), sharding.batch_sharding(mesh))
  step = jax.jit(
    lambda s, b: (s + 1, jnp.sum(b)),
    donate_argnums=0,
    out_shardings=sharding.replicated(mesh),
  )
  found = memory.of(step.lower(state, batch).compile())
  assert found.arguments == 4000 + 4 * 500
  assert found.aliased == 4000
  assert found.output >= 4004
  assert found.total == found.arguments + found.temporaries + (
    found.output - found.aliased
  )


def test_the_line_before_training():
  needed = memory.Memory(3 * 10**9, 10**9, 2 * 10**9, 2 * 10**9)
  assert needed.total == 4 * 10**9
  line = memory.statement(needed, 16 * 10**9)
  assert "4.0 GB for a step (arguments 3.0 GB, temporaries 1.0 GB" in line
  assert "output 2.0 GB, of which 2.0 GB in the arguments' place" in line
  assert line.endswith("25% of its 16.0 GB")
  assert memory.statement(needed, None).endswith("place)")


def test_the_forecast():
  needed = memory.Memory(10**9, 0, 0, 0)
  assert memory.forecast(needed, None, "x") is None  # Not known: no forecast.
  assert memory.forecast(needed, 2 * 10**9, "x") is None
  tight = memory.forecast(needed, 1.05 * 10**9, "set x=1")
  assert tight == "the step may not fit into the device's memory: set x=1"
  assert "will not fit" in memory.forecast(needed, 0.9 * 10**9, "set x=1")


def test_advice_names_the_keys_that_are_left():
  text = memory.advise(**ADVICE)
  for key in (
    "precision=bfloat16",
    "model.remat=true",
    "accumulate=2",
    "batch_size=32",
    "mesh.data=0 with mesh.fsdp=8",
  ):
    assert key in text
  best = dict(
    batch_size=8, remat=True, precision="bfloat16", fsdp=8, accumulate=1
  )
  text = memory.advise(**ADVICE | best)
  assert text == "use more devices, or a smaller model"
  assert "accumulate=8" in memory.advise(**ADVICE | {"accumulate": 4})


def test_too_little_memory_is_one_line_for_the_user():
  with pytest.raises(UserError, match="set batch_size=2") as error:
    with memory.explained("set batch_size=2"):
      jax.block_until_ready(jnp.zeros((2**44,), jnp.float32))  # 70 TB.
  assert isinstance(error.value, memory.OutOfMemory)
  assert "out of memory (Out of memory allocating" in str(error.value)
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    with memory.explained("set batch_size=2"):
      raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_where_the_device_does_not_tell():
  assert memory.limit(jax.devices()) is None  # CPUs.

  class Device:
    process_index = 0

    def __init__(self, held):
      self.held = held

    def memory_stats(self):
      return {"bytes_limit": self.held}

  assert memory.limit([Device(5), Device(3)]) == 3


def test_the_words_before_the_first_step(monkeypatch):
  compiled = jax.jit(lambda x: x + 1).lower(jnp.zeros(1000)).compile()
  (line,) = memory.words(compiled, jax.devices(), "set x=1")
  assert "arguments 0.0 MB" in line
  monkeypatch.setattr(memory, "limit", lambda devices: 100)
  _, warning = memory.words(compiled, jax.devices(), "set x=1")
  assert warning.endswith("will not fit into the device's memory: set x=1")
  monkeypatch.setattr(memory, "of", lambda compiled: None)
  assert memory.words(compiled, jax.devices(), "set x=1") == []
