"""What a compiled program sends between devices, read from its HLO text.

`parse` finds every collective with its payload, how often a step runs it and
the line of source that it comes from; `causes` says what it is for.
"""

import math
import re
from collections.abc import Collection
from typing import NamedTuple

from cassle_jax.preflight import hlo

KINDS = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
CAUSES = ("gradients", "parameters", "BatchNorm", "loss", "monitor", "other")

_OPCODE = re.compile(rf"({'|'.join(KINDS)})(-start)?")
_NORM = re.compile(r"\b(?:last_)?bn\d*/")


class Collective(NamedTuple):
  """One collective of a program.

  Attributes:
    kind: one of `KINDS`.
    shapes: its results, one or more.
    bytes: its payload on each device in one run: what is reduced, gathered
      (the whole result), scattered (before it is), exchanged or passed on.
    group: devices that take part in it together.
    count: how often a step runs it; more than 1 in a loop.
    op_name: JAX's name of the operation.
    source: "file.py:line function" of this package's innermost line, or "".
  """

  kind: str
  shapes: tuple[hlo.Array, ...]
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


def parse(program: hlo.Program, devices: int) -> list[Collective]:
  """The collectives of a program, in the order of the text.

  Args:
    program: from `hlo.parse`, of the partitioned text.
    devices: how many it runs on; the group of a collective that names none.

  Returns:
    Those that move anything: groups of one device are left out. A loop whose
    number of turns is not known counts once.
  """
  counts = hlo.counts(program)
  result = []
  for name, body in program.items():
    for one in body:
      found = _OPCODE.fullmatch(one.opcode)
      if not found or not counts.get(name):
        continue
      kind, started = found.group(1), bool(found.group(2))
      shapes = one.results
      if started and kind in ("all-gather", "collective-permute"):
        shapes = shapes[1:2]  # (operand, result, ...) of a single one.
      group = group_size(one.attributes, devices)
      size = sum(hlo.size_of(*shape[:2]) for shape in shapes)
      size *= group if kind == "reduce-scatter" else 1
      if group > 1:
        result.append(
          Collective(
            kind=kind,
            shapes=tuple(shapes),
            bytes=size,
            group=group,
            count=counts[name],
            op_name=one.op_name,
            source=one.source,
          )
        )
  return result


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

  return [of(shape.sizes) for shape in one.shapes]


def dims(sizes: Collection[int]) -> tuple[int, ...]:
  """Sizes without order and without ones: compilers transpose and reshape."""
  return tuple(sorted(size for size in sizes if size != 1))


def main_cause(one: Collective, parameters: Collection[tuple[int, ...]]) -> str:
  """The cause of most bytes of a collective; see `causes`."""
  sizes = [hlo.size_of(*shape[:2]) for shape in one.shapes]
  return causes(one, parameters)[sizes.index(max(sizes))]
