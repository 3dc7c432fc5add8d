"""Reads the text of a compiled program, `compiled.as_text()`.

Only what `traffic`, `buffers` and `collectives` ask for is kept.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BITS = {"pred": 8, "c64": 64, "c128": 128}

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_ASSIGNED = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(
  r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](?:\{([^}]*)\})?"
)
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
  r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)"
  r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_TILE = re.compile(r"T\(([\d,]+)\)")
# Of a TPU: the vector memory, which is on the chip.
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")


class Array(NamedTuple):
  """A type in HLO.

  Attributes:
    kind: of its numbers, e.g. "bf16".
    sizes: of its axes.
    bytes: that it takes as it is laid out, in tiles.
    on_chip: whether it lies in a memory on the chip.
  """

  kind: str
  sizes: tuple[int, ...]
  bytes: int
  on_chip: bool = False


class Instruction(NamedTuple):
  """One line of a computation.

  Attributes:
    name: by which others take it.
    opcode: e.g. "fusion".
    results: one or more arrays.
    operands: names.
    attributes: the rest of the line.
    source: "file.py:line function" of this package's innermost line, or "".
  """

  name: str
  opcode: str
  results: tuple[Array, ...]
  operands: tuple[str, ...]
  attributes: str
  source: str = ""

  @property
  def op_name(self) -> str:
    """JAX's name of the operation, or ""."""
    found = _OP_NAME.search(self.attributes)
    return found.group(1) if found else ""

  @property
  def called(self) -> list[str]:
    """The computations that it runs or is fused of."""
    result = _CALLED.findall(self.attributes)
    for branches in _BRANCHES.findall(self.attributes):
      result += [one.strip().lstrip("%") for one in branches.split(",")]
    return result

  @property
  def trips(self) -> int:
    """Turns of a loop where the compiler knows them, else 1."""
    found = _TRIPS.search(self.attributes)
    return int(found.group(1)) if found else 1

  @property
  def bytes(self) -> int:
    """Of its results that lie in the device's memory."""
    return sum(one.bytes for one in self.results if not one.on_chip)


# Computation -> its instructions in the order in which they run; the entry is
# called "".
Program = dict[str, list[Instruction]]


def parse(text: str) -> Program:
  """The computations of a program."""
  sources = _sources(text)
  result: Program = {}
  name = None
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head:
      name = "" if line.startswith("ENTRY") else head.group(1)
      result[name] = []
    elif line.startswith("}"):
      name = None
    elif name is not None:
      body = _ASSIGNED.match(line)
      if body:
        result[name].append(_instruction(*body.groups(), sources))
  return result


def counts(program: Program) -> dict[str, int]:
  """How often a run of the entry runs each computation."""
  result: dict[str, int] = {}

  def visit(name: str, times: int) -> None:
    result[name] = result.get(name, 0) + times
    for one in program.get(name, ()):
      for other in one.called:
        visit(other, times * one.trips)

  visit("", 1)
  return result


def size_of(kind: str, sizes: tuple[int, ...], layout: str = "") -> int:
  """Bytes of an array, with what tiles round up.

  Args:
    kind: of its numbers.
    sizes: of its axes.
    layout: e.g. "1,0:T(8,128)": axes from the innermost, and tiles, the first
      of which counts (those behind it are parts of it).
  """
  bits = _BITS.get(kind) or int((re.search(r"\d+", kind) or ["8"])[0])
  sizes = list(sizes)
  tile = _TILE.search(layout)
  if tile and sizes:
    order = [int(axis) for axis in layout.split(":")[0].split(",") if axis]
    inner = [int(size) for size in tile.group(1).split(",")][::-1]
    for axis, size in zip(order, inner, strict=False):
      sizes[axis] = -(-sizes[axis] // size) * size
  return math.prod(sizes) * bits // 8


def arrays(text: str) -> Iterator[Array]:
  """The arrays of a type, e.g. of a tuple's."""
  for kind, sizes, layout in _ARRAY.findall(text):
    sizes = tuple(int(size) for size in sizes.split(",") if size)
    size = size_of(kind, sizes, layout)
    yield Array(kind, sizes, size, bool(_ON_CHIP.search(layout)))


def _instruction(name: str, text: str, sources: dict[int, str]) -> Instruction:
  end = _closing(text) if text.startswith("(") else text.find(" ")
  kind, rest = text[:end], text[end:]
  opcode = _OPCODE.match(rest)
  if opcode is None:
    return Instruction(name, "", (), (), "")
  start = opcode.end() - 1
  stop = start + _closing(rest[start:])
  attributes = rest[stop:]
  if opcode.group(1) == "parameter":
    attributes = rest[start:]  # With the number that it has.
  frame = _FRAME.search(attributes)
  return Instruction(
    name,
    opcode.group(1),
    tuple(arrays(kind)),
    tuple(_OPERAND.findall(rest[start:stop])),
    attributes,
    sources.get(int(frame.group(1)), "") if frame else "",
  )


def _closing(text: str) -> int:
  """Where the parenthesis that opens a text has been closed."""
  depth = 0
  for found in re.finditer(r"[()]", text):
    depth += 1 if found.group() == "(" else -1
    if not depth:
      return found.end()
  return len(text)


def _sources(text: str) -> dict[int, str]:
  """Stack frame -> the innermost line of this package, from the tables."""
  names = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
  tables = {name: _table(text, name) for name in names}
  result = {}
  for frame in tables["StackFrames"]:
    result[frame], at = "", frame
    while at:
      entry = _numbers(tables["StackFrames"][at])
      place = _numbers(tables["FileLocations"][entry["file_location_id"]])
      file = tables["FileNames"][place["file_name_id"]].strip('"')
      if "cassle_jax/" in file:
        function = tables["FunctionNames"][place["function_name_id"]].strip('"')
        file = file.rsplit("cassle_jax/", 1)[1]
        result[frame] = f"{file}:{place['line']} {function}"
        break
      parent = entry.get("parent_frame_id", 0)
      at = 0 if parent == at else parent
  return result


def _table(text: str, name: str) -> dict[int, str]:
  found = re.search(rf"^{name}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
  rows = found.group(1).splitlines() if found else ()
  return {int(row.split(" ", 1)[0]): row.split(" ", 1)[1] for row in rows}


def _numbers(entry: str) -> dict[str, int]:
  return {key: int(n) for key, n in re.findall(r"(\w+)=(\d+)", entry)}
