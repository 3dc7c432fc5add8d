"""What holds a device's memory where a step needs most of it.

Told by the order in which the compiled program runs: an array is there from the
instruction that makes it to the last that reads it. XLA itself packs arrays
closer (results may take the place of operands), so the sum is an estimate; its
own total is `device_memory.of`.
"""

import re
from typing import NamedTuple

from cassle_jax.preflight import hlo

# Other names of what is there.
_NAMES = {"bitcast", "get-tuple-element", "tuple"}
# Their results take the place of their operands.
_ALIASES = _NAMES | {
  "while",
  "opt-barrier",
  "add-dependency",
  "dynamic-update-slice",
}
_INDEX = re.compile(r"\bindex=(\d+)")
_NOTHING = {"parameter", "constant", "after-all", "partition-id", ""}


# An array that an instruction makes: its name and which of the results.
_Array = tuple[str, int]


class Held(NamedTuple):
  """An array that the memory holds, with the instruction that made it."""

  instruction: hlo.Instruction
  array: hlo.Array

  @property
  def bytes(self) -> int:
    """That it takes."""
    return self.array.bytes


def at_peak(program: hlo.Program) -> list[Held]:
  """The temporaries that are there when they are most, largest first."""
  body = program.get("", [])
  # Name -> for each of its results the arrays that it stands for.
  owners: dict[str, list[set[_Array]]] = {}
  made = {one.name: one for one in body}
  last: dict[_Array, int] = {}
  for place, one in enumerate(body):
    read = [owners.get(name, []) for name in one.operands]
    if one.opcode not in _NAMES:
      for array in _joined(sum(read, [])):
        last[array] = place
    owners[one.name] = _owners(one, read)
    for array in _joined(owners[one.name]):
      last.setdefault(array, place)
  # What the step returns takes the place of the state that it is given.
  returned = _joined(owners[body[-1].name]) if body else set()
  ends: dict[int, list[_Array]] = {}
  for array, place in last.items():
    ends.setdefault(place, []).append(array)
  there: dict[_Array, int] = {}
  best: dict[_Array, int] = {}
  total = most = 0
  for place, one in enumerate(body):
    for number, array in enumerate(one.results):
      key = one.name, number
      if key in last and key not in returned and not array.on_chip:
        there[key] = array.bytes
        total += array.bytes
    if total > most:
      most, best = total, dict(there)
    for key in ends.get(place, ()):
      total -= there.pop(key, 0)
  held = [
    Held(made[name], made[name].results[number])
    for (name, number), size in best.items()
    if size
  ]
  return sorted(held, key=lambda one: -one.bytes)


def _owners(
  one: hlo.Instruction, read: list[list[set[_Array]]]
) -> list[set[_Array]]:
  """The arrays that each result of an instruction stands for."""
  if one.opcode in _NOTHING:
    return [set() for _ in one.results]
  if one.opcode == "get-tuple-element":
    number = int(_INDEX.search(one.attributes).group(1))
    return read[0][number : number + 1] if read else [set()]
  if one.opcode == "tuple":
    return [_joined(each) for each in read]
  if one.opcode in _ALIASES or one.opcode.endswith("-done"):
    return (
      read[0]
      if read and len(read[0]) == len(one.results)
      else [_joined(sum(read, []))] * len(one.results)
    )
  own = [{(one.name, number)} for number in range(len(one.results))]
  if one.opcode.endswith("-start") and one.opcode != "all-reduce-start":
    # The operand stands among the results, in front but for copies.
    first = 0 if one.opcode == "copy-start" or len(own) < 2 else 1
    own = own[first : first + 1]
  return own


def _joined(sets: list[set[_Array]]) -> set[_Array]:
  return set().union(*sets)
