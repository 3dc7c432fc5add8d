"""Bytes that a compiled program reads and writes in the device's memory.

Every instruction that the entry runs reads its operands once and writes its
results once; within a fusion nothing is written. What only a slice of an
operand is taken of counts as the slice. Memory on the chip (a TPU's vector
memory, where the compiler puts arrays itself) is free; a GPU's caches are not
known to the compiler, so what a kernel finds there counts all the same. Hence
an estimate.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from cassle_jax.preflight import hlo

# These name arrays that are there already.
_FREE = {
  "",
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "after-all",
  "partition-id",
  "replica-id",
  "opt-barrier",
  "add-dependency",
}
# These run other computations.
_CALLS = {"while", "conditional", "call", "async-start"}
_SLICES = ("dynamic-slice", "slice", "gather")
_NUMBER = re.compile(r"^\((\d+)\)")


class Move(NamedTuple):
  """What one instruction moves.

  Attributes:
    instruction: it.
    bytes: read and written in a step.
    workspace: bytes that a library asks for beside its results; how much of
      them it touches nobody knows, and they are no part of `bytes`.
  """

  instruction: hlo.Instruction
  bytes: int
  workspace: int = 0


def moves(program: hlo.Program) -> list[Move]:
  """What each instruction of a step moves; loops count all their turns."""
  return list(_of(program, "", 1))


def _of(program: hlo.Program, name: str, times: int) -> Iterator[Move]:
  body = program.get(name, [])
  known = {one.name: one for one in body}
  for one in body:
    if one.opcode in _CALLS:
      branches = [
        list(_of(program, other, times * one.trips)) for other in one.called
      ]
      if one.opcode == "conditional":
        # One of them runs: the dearest.
        costs = [sum(move.bytes for move in each) for each in branches]
        branches = [branches[costs.index(max(costs))]] if costs else []
      for each in branches:
        yield from each
    elif one.opcode not in _FREE and not one.opcode.endswith(
      ("-done", "-update")
    ):
      read = _read(program, one, known)
      written, workspace = _written(program, one)
      if read + written or workspace:
        yield Move(one, times * (read + written), times * workspace)


def _read(
  program: hlo.Program,
  one: hlo.Instruction,
  known: dict[str, hlo.Instruction],
) -> int:
  shares = _shares(program, one)
  total = 0
  for position, name in enumerate(one.operands):
    if name in known:
      whole = known[name].bytes
      total += min(whole, shares.get(position, whole))
  return total


def _written(program: hlo.Program, one: hlo.Instruction) -> tuple[int, int]:
  results = list(one.results)
  workspace = 0
  if one.opcode == "custom-call" and len(results) > 1:
    # Libraries' scratch is the last of several results, in plain bytes.
    if results[-1].kind in ("s8", "u8") and len(results[-1].sizes) == 1:
      workspace = results.pop().bytes
  if one.opcode.endswith("-start") and one.opcode != "all-reduce-start":
    # What goes on in the background has its operand among its results, in
    # front of the own one but for copies.
    first = 0 if one.opcode == "copy-start" or len(results) < 2 else 1
    results = results[first : first + 1]
  written = sum(array.bytes for array in results if not array.on_chip)
  root = _root(program, one)
  if root is not None and root.opcode == "dynamic-update-slice":
    inner = {each.name: each for each in _inner(program, one)}
    update = inner.get(root.operands[1])
    if update is not None:
      written = min(written, sum(array.bytes for array in update.results))
  return written, workspace


def _shares(program: hlo.Program, one: hlo.Instruction) -> dict[int, int]:
  """Operand -> bytes that are taken of it, where that is not all of it."""
  if one.opcode in _SLICES:
    return {0: sum(array.bytes for array in one.results)}
  if one.opcode == "slice-start":
    return {0: sum(array.bytes for array in one.results[1:2])}
  if one.opcode != "fusion":
    return {}
  inner = _inner(program, one)
  result = {}
  for parameter in inner:
    if parameter.opcode != "parameter":
      continue
    users = [each for each in inner if parameter.name in each.operands]
    taken = 0
    for user in users:
      first = user.operands[0] == parameter.name
      if user.opcode in _SLICES and first:
        taken += sum(array.bytes for array in user.results)
      elif user.opcode != "dynamic-update-slice" or not first:
        break  # Which writes in place.
    else:
      number = _NUMBER.match(parameter.attributes)
      if users and number:
        result[int(number.group(1))] = taken
  return result


def _inner(program: hlo.Program, one: hlo.Instruction) -> list[hlo.Instruction]:
  called = one.called
  return program.get(called[0], []) if called else []


def _root(program: hlo.Program, one: hlo.Instruction) -> hlo.Instruction | None:
  if one.opcode == "fusion":
    inner = _inner(program, one)
    return inner[-1] if inner else None
  return one
