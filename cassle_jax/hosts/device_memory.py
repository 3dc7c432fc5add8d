"""What a compiled step needs on each device, and what to do if that is much."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from cassle_jax.errors import UserError

# Above this share of a device's memory a step may or may not fit: evaluation,
# the buffers of collectives and holes between allocations come on top.
TIGHT = 0.92


class OutOfMemory(UserError):
  """A device's memory did not suffice."""


class Memory(NamedTuple):
  """Bytes of a compiled program on one device, of arguments and so on.

  Temporaries are activations and gradients; `aliased` is the part of the output
  that takes the place of arguments.
  """

  arguments: int
  temporaries: int
  output: int
  aliased: int

  @property
  def total(self) -> int:
    """All together."""
    return self.arguments + self.temporaries + self.output - self.aliased


def of(compiled: jax.stages.Compiled) -> Memory | None:
  """A program's memory by XLA's own analysis; None where it does not tell."""
  try:
    found = compiled.memory_analysis()
  except (NotImplementedError, jax.errors.JaxRuntimeError):
    return None
  if found is None:
    return None
  memory = Memory(
    found.argument_size_in_bytes,
    found.temp_size_in_bytes,
    found.output_size_in_bytes,
    found.alias_size_in_bytes,
  )
  return memory if memory.total > 0 else None


def limit(devices: Sequence[jax.Device]) -> int | None:
  """Bytes of the smallest of this process's devices; None if none tells."""
  found = []
  for device in devices:
    if device.process_index == jax.process_index():
      with contextlib.suppress(NotImplementedError, jax.errors.JaxRuntimeError):
        found.append((device.memory_stats() or {}).get("bytes_limit"))
  return min((x for x in found if x), default=None)


def words(
  compiled: jax.stages.Compiled, devices: Sequence[jax.Device], advice: str
) -> list[str]:
  """What to say before a program's first call: its memory, whether it fits."""
  needed, held = of(compiled), limit(devices)
  if needed is None:
    return []
  warning = forecast(needed, held, advice)
  return [statement(needed, held)] + [warning] * (warning is not None)


def statement(memory: Memory, bytes_limit: int | None) -> str:
  """One line on what a step needs of a device with so many bytes, if known."""
  line = (
    f"memory of each device: {size(memory.total)} for a step (arguments"
    f" {size(memory.arguments)}, temporaries {size(memory.temporaries)}, output"
    f" {size(memory.output)}, of which {size(memory.aliased)} in the arguments'"
    " place)"
  )
  if bytes_limit:
    share = memory.total / bytes_limit
    line += f", {share:.0%} of its {size(bytes_limit)}"
  return line


def forecast(
  memory: Memory, bytes_limit: int | None, advice: str
) -> str | None:
  """The warning before a step that will hardly fit; None if it will, or may.

  `bytes_limit` is a device's, None where it is not known.
  """
  if not bytes_limit or memory.total <= TIGHT * bytes_limit:
    return None
  word = "will not" if memory.total > bytes_limit else "may not"
  return f"the step {word} fit into the device's memory: {advice}"


def advise(
  *,
  batch_size: int,
  accumulate: int,
  remat: bool,
  precision: str,
  fsdp: int,
  devices: int,
) -> str:
  """The keys of a config that save memory and are not yet at their best."""
  keys = []
  # Halves have to divide over the devices, too.
  if (batch_size // accumulate) % (2 * devices) == 0:
    keys += [
      f"accumulate={2 * accumulate} (contrastive losses then see half the"
      " negatives)",
      f"batch_size={batch_size // 2}",
    ]
  if not remat:
    keys.insert(0, "model.remat=true (ResNets and ViTs)")
  if precision == "float32":
    keys.insert(0, "precision=bfloat16")
  if devices > fsdp:
    keys.append(
      f"mesh.data=0 with mesh.fsdp={devices} (splits parameters, optimiser and"
      " target)"
    )
  if not keys:
    return "use more devices, or a smaller model"
  return f"set {', or '.join(keys)}"


@contextlib.contextmanager
def explained(advice: str) -> Iterator[None]:
  """Turns XLA's own words for too little memory into an OutOfMemory.

  The line gives the user the `advice`.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" not in text:
      raise
    _, _, said = text.partition("RESOURCE_EXHAUSTED: ")
    raise OutOfMemory(f"out of memory ({said[:120]}): {advice}") from error


def size(number: int) -> str:
  """In GB (1e9 bytes), or in MB where there is less than one."""
  if number >= 1e9:
    return f"{number / 1e9:.1f} GB"
  return f"{number / 1e6:.1f} MB"
