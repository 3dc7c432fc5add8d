"""How many operations a second a device can do at most."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.benchmark import common
from cassle_jax.hosts import chips


class Peak(NamedTuple):
  """What one device can do.

  Attributes:
    flops_per_second: floating-point operations a second.
    source: who says so.
    clock: "wall", or "cpu" where the second is one of a core's time, which
      other work on the machine does not stretch.
  """

  flops_per_second: float
  source: str
  clock: str = "wall"


def published(kind: str) -> Peak | None:
  """The published peak of a device, by JAX's name for it; None = not known."""
  chip = chips.of_kind(kind)
  return chip and Peak(chip.flops, f"{chip.source}, {chip.type}")


def measured(*, size: int = 2048, rounds: int = 5) -> Peak:
  """The rate of one large float32 product, by CPU time, the best of several.

  Args:
    size: rows and columns of the square factors.
    rounds: how often it is timed.
  """
  numbers = np.random.default_rng(0).normal(size=(size, size))
  one = jnp.asarray(numbers, jnp.float32)
  product = jax.jit(jnp.matmul)
  call = {"product": lambda: jax.block_until_ready(product(one, one))}
  milliseconds = common.best(call, 1, rounds)["product"].cpu
  rate = 2 * size**3 / (milliseconds / 1e3)
  source = f"a core, measured: a float32 product of {size} x {size}"
  return Peak(rate, source, "cpu")


def of(devices: Sequence[jax.Device]) -> Peak | None:
  """The peak of one of some devices that are alike.

  Published for accelerators, None for one that is not in the table; measured on
  CPUs, whose clock and share of the machine no data sheet knows.
  """
  if devices[0].platform == "cpu":
    return measured()
  return published(devices[0].device_kind)


def utilisation(
  flops: float | None,
  *,
  cpu_ms: float,
  wall_ms: float,
  devices: int,
  peak: Peak | None,
) -> float | None:
  """The share of the peak that was used, in [0, 1]; None where not known.

  Args:
    flops: operations of a step on all devices.
    cpu_ms: milliseconds of CPU time that it took on all cores together.
    wall_ms: milliseconds that passed.
    devices: how many took part.
    peak: of each of them.
  """
  if flops is None or peak is None:
    return None
  ms = cpu_ms if peak.clock == "cpu" else wall_ms * devices
  return flops / (ms / 1e3) / peak.flops_per_second
