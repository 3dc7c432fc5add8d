"""What a compiled program sends between devices, read from its HLO text.

`parse` finds every collective with its payload, how often a step runs it and
the line of source that it comes from; `causes` says what it is for.
"""

import math
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

KINDS = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
CAUSES = ("gradients", "parameters", "BatchNorm", "loss", "monitor", "other")

_BITS = {"pred": 8, "c64": 64, "c128": 128}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_OPCODE = re.compile(r" (" + "|".join(KINDS) + r")(-start)?\(")
_CALLED = re.compile(
  r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)"
  r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_NORM = re.compile(r"\b(?:last_)?bn\d*/")
_FRAME = re.compile(r"stack_frame_id=(\d+)")


class Collective(NamedTuple):
  """One collective of a program.

  Attributes:
    kind: one of `KINDS`.
    shapes: (type, sizes) of its results, one or more.
    bytes: its payload on each device in one run: what is reduced, gathered
      (the whole result), scattered (before it is), exchanged or passed on.
    group: devices that take part in it together.
    count: how often a step runs it; more than 1 in a loop.
    op_name: JAX's name of the operation.
    source: "file.py:line function" of this package's innermost line, or "".
  """

  kind: str
  shapes: tuple[tuple[str, tuple[int, ...]], ...]
  bytes: int
  group: int
  count: int
  op_name: str
  source: str

  @property
  def sent(self) -> float:
    """Bytes that a device sends in one step, by the usual ring algorithms.

    An all-reduce is a reduce-scatter and an all-gather, each of which sends
    (n - 1) / n of the payload (Patarasuk and Yuan 2009).
    """
    share = (self.group - 1) / self.group
    if self.kind == "all-reduce":
      share *= 2
    elif self.kind == "collective-permute":
      share = 1.0
    return self.count * share * self.bytes


def parse(text: str, devices: int) -> list[Collective]:
  """The collectives of a program, in the order of the text.

  Args:
    text: of the partitioned program, `compiled.as_text()`.
    devices: how many it runs on; the group of a collective that names none.

  Returns:
    Those that move anything: groups of one device are left out. A loop whose
    number of turns is not known counts once.
  """
  sources, lines = _sources(text), _computations(text)
  counts = _counts(lines)
  result = []
  for name, body in lines.items():
    for line in body:
      found = _OPCODE.search(line)
      if not found or not counts.get(name):
        continue
      kind, started = found.group(1), bool(found.group(2))
      shapes = tuple(_arrays(line[: found.start()]))
      if started and kind in ("all-gather", "collective-permute"):
        shapes = shapes[1:2]  # (operand, result, ...) of a single one.
      group = group_size(line, devices)
      size = sum(map(size_of, shapes))
      size *= group if kind == "reduce-scatter" else 1
      op_name, frame = _OP_NAME.search(line), _FRAME.search(line)
      if group > 1:
        result.append(
          Collective(
            kind=kind,
            shapes=shapes,
            bytes=size,
            group=group,
            count=counts[name],
            op_name=op_name.group(1) if op_name else "",
            source=sources.get(int(frame.group(1)), "") if frame else "",
          )
        )
  return result


def size_of(shape: tuple[str, tuple[int, ...]]) -> int:
  """Bytes of an array of (HLO type, sizes)."""
  kind, sizes = shape
  bits = _BITS.get(kind) or int(re.search(r"\d+", kind).group())
  return math.prod(sizes) * bits // 8


def group_size(line: str, devices: int) -> int:
  """Devices in each group of a collective.

  Args:
    line: its HLO, with groups as lists, `{{0,1},{2,3}}`; as reshaped counts,
      `[2,2]<=[4]`; as axes of a mesh, `mesh['x'=2,'y'=2] {'x'}`, or parts of
      them, `{'x':(1)2}`; or with the pairs of a permutation.
    devices: the size where no group is named.
  """
  if "source_target_pairs=" in line:
    pairs = line.split("source_target_pairs=")[1].split("}}")[0]
    pairs = re.findall(r"(\d+),(\d+)", pairs)
    return 2 if any(a != b for a, b in pairs) else 1
  if "replica_groups=" not in line:
    return devices
  text = line.split("replica_groups=")[1]
  if text.startswith("mesh["):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", text.split("]")[0]))
    named = re.search(r"\{('[^}]*)\}", text).group(1)
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named)
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  if text.startswith("["):
    return int(text[1:].split("]")[0].split(",")[-1])
  first = text.split("}")[0].strip("{")
  return len(first.split(",")) if first else devices


def causes(
  one: Collective, parameters: Collection[tuple[int, ...]]
) -> list[str]:
  """What each array of a collective is for, of `CAUSES`.

  Compilers join small collectives into one of many arrays, whose name is then
  one of several, so an array's own sizes are looked at as well.

  Args:
    one: the collective.
    parameters: `dims` of the sizes of all parameters and of their parts on a
      device, by which gradients and gathered parameters are known.
  """
  file = one.source.split(":")[0]
  backward = "transpose(" in one.op_name
  normalises = file.endswith("models/norm.py") or _NORM.search(one.op_name)

  def of(sizes: tuple[int, ...]) -> str:
    if file.endswith("monitor.py"):
      return "monitor"
    if file.startswith(("methods/", "awareness/")):
      return "loss"
    known = dims(sizes) in parameters
    if known and one.kind not in ("all-reduce", "reduce-scatter"):
      return "parameters"
    if known and backward and (len(dims(sizes)) > 1 or not normalises):
      return "gradients"
    return "BatchNorm" if normalises else "other"

  return [of(sizes) for _, sizes in one.shapes]


def dims(sizes: Collection[int]) -> tuple[int, ...]:
  """Sizes without order and without ones: compilers transpose and reshape."""
  return tuple(sorted(size for size in sizes if size != 1))


def totals(
  collectives: Collection[Collective], parameters: Collection[tuple[int, ...]]
) -> dict[str, dict[str, Any]]:
  """Sums by cause.

  Returns:
    cause -> {"collectives" (runs in a step), "bytes" (payload on a device in
    a step), "sent" (bytes that a device sends), and "kinds": kind -> payload};
    for all of `CAUSES`.
  """
  result = {
    name: {"collectives": 0, "bytes": 0, "sent": 0.0, "kinds": {}}
    for name in CAUSES
  }
  for one in collectives:
    sizes = [size_of(shape) for shape in one.shapes]
    names = causes(one, parameters)
    # A joined one counts where most of it belongs.
    main = names[sizes.index(max(sizes))]
    result[main]["collectives"] += one.count
    for name, size in zip(names, sizes, strict=True):
      share = size / max(sum(sizes), 1)
      payload = round(one.count * one.bytes * share)
      total, kinds = result[name], result[name]["kinds"]
      total["bytes"] += payload
      total["sent"] += one.sent * share
      kinds[one.kind] = kinds.get(one.kind, 0) + payload
  return result


def _arrays(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
  for kind, sizes in _ARRAY.findall(text):
    yield kind, tuple(int(size) for size in sizes.split(",") if size)


def _computations(text: str) -> dict[str, list[str]]:
  """Name -> instructions of each computation; the entry is called ""."""
  result, name = {}, None
  for line in text.splitlines():
    head = _COMPUTATION.match(line)
    if head:
      name = "" if line.startswith("ENTRY") else head.group(1)
      result[name] = []
    elif line.startswith("}"):
      name = None
    elif name is not None:
      body = _INSTRUCTION.match(line)
      if body:
        # A space in front, so that an opcode is found after any type.
        result[name].append(" " + body.group(1))
  return result


def _counts(lines: dict[str, list[str]]) -> dict[str, int]:
  """How often a run of the entry runs each computation."""
  result: dict[str, int] = {}

  def visit(name: str, times: int) -> None:
    result[name] = result.get(name, 0) + times
    for line in lines.get(name, ()):
      trips = _TRIPS.search(line)
      called = _CALLED.findall(line)
      for branches in _BRANCHES.findall(line):
        called += [branch.strip().lstrip("%") for branch in branches.split(",")]
      for other in called:
        visit(other, times * (int(trips.group(1)) if trips else 1))

  visit("", 1)
  return result


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
