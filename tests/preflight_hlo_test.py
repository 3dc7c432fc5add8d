"""What is read out of a compiled program's text, by hand."""

import os

import jax
import jax.numpy as jnp
import pytest

from cassle_jax.preflight import (
  arithmetic,
  buffers,
  compiler,
  hlo,
  parts,
  traffic,
)

ROOT = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(ROOT, "step.hlo")) as stream:
  TEXT = stream.read()
PROGRAM = hlo.parse(TEXT)


def test_instructions_with_their_operands_and_places():
  names = {one.name: one for one in PROGRAM[""]}
  loop = names["loop"]
  assert (loop.opcode, loop.operands, loop.trips) == ("while", ("init",), 5)
  assert loop.called == ["condition", "body"]
  assert [array.sizes for array in loop.results] == [(), (100,)]
  assert names["views"].source == "augment/operations/crop.py:9 crop_planes"
  assert [array.kind for array in names["scores"].results] == ["f32", "s8"]
  assert hlo.counts(PROGRAM)["body"] == 5


@pytest.mark.parametrize(
  "kind,sizes,layout,expected",
  [
    ("f32", (3, 5), "1,0", 60),
    ("pred", (7,), "", 7),
    ("c64", (2,), "", 16),
    ("f8e4m3fn", (3,), "", 3),
    # Tiles of 8 x 128: 16 x 128 of 13 x 5, whichever axis is inside.
    ("f32", (13, 5), "1,0:T(8,128)", 4 * 16 * 128),
    ("bf16", (5, 13), "0,1:T(8,128)(2,1)", 2 * 16 * 128),
    ("f32", (300,), "0:T(256)", 4 * 512),
  ],
)
def test_bytes_of_arrays(kind, sizes, layout, expected):
  assert hlo.size_of(kind, sizes, layout) == expected


def test_traffic_by_hand():
  moved = {m.instruction.name: m for m in traffic.moves(PROGRAM)}
  bytes_of = {name: move.bytes for name, move in moved.items()}
  assert bytes_of == {
    "twice": 5 * 3 * 400,  # Two reads and a write in each of five turns.
    "views": 64 * 32 + 2 * 64 * 32,
    "scores": 2 * 2 * 64 * 32 + 4 * 64 * 64,
    "taken": 2 * 8 * 16 * 4 + 4,  # A part of the queue, not all of it.
    "copied": 8 * 16 * 4,  # To the chip's own memory: read alone.
    "features": 4 * 64 * 64 + 4 * 64 * 16,
    "pushed": 2 * 8 * 16 * 4 + 4,  # In place.
  }
  assert moved["scores"].workspace == 4096


def test_memory_is_told_where_it_is_fullest():
  held = {one.instruction.name: one.bytes for one in buffers.at_peak(PROGRAM)}
  # At the product: its operand, its result, its workspace. The loop's state
  # and what the step returns take the place of arguments.
  workspace = [one for one in buffers.at_peak(PROGRAM) if one.bytes == 4096]
  assert len(workspace) == 2  # The views are of that size too.
  assert set(held) == {"views", "scores"}
  total = sum(one.bytes for one in buffers.at_peak(PROGRAM))
  assert total == 2 * 64 * 32 + 4 * 64 * 64 + 4096


def test_parts_of_the_step():
  names = {one.name: parts.part_of(one) for one in PROGRAM[""]}
  assert names["views"] == "augmentation"
  assert names["scores"] == "attention"
  assert names["features"] == "heads"
  assert names["pushed"] == parts.OTHER


@pytest.mark.parametrize(
  "name,expected",
  [
    ("jvp(VisionTransformer)/block11/mlp/fc1/dot_general", "MLP of blocks"),
    ("transpose(jvp(VisionTransformer))/block0/norm1/mul", "LayerNorm"),
    ("jvp(VisionTransformer)/patch_embed/dot_general", "patches"),
    ("jvp(ResNet)/stage1_0/bn1/reduce_sum", "BatchNorm"),
    ("jvp(ResNet)/stage1_0/conv1/conv_general_dilated", "convolutions"),
    ("jvp(ConditionedProjector)/mlp/bn0/add", "heads"),
    ("jvp(ResNet)/max", "rest of the backbone"),
  ],
)
def test_parts_by_name(name, expected):
  text = f', metadata={{op_name="jit(on_store)/{name}"}}'
  one = hlo.Instruction("x", "fusion", (), (), text)
  assert parts.part_of(one) == expected


def test_all_of_it_together():
  found = compiler.read(TEXT, 2, [])
  assert sum(found["traffic"].values()) == sum(
    move.bytes for move in traffic.moves(PROGRAM)
  )
  assert found["workspace"] == 4096 and found["collectives"] == []
  largest = found["largest"][0]
  assert largest["array"] == "f32[64, 64]" and largest["part"] == "attention"


def test_a_program_that_does_not_fit_says_what_it_needs():
  text = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM,"
    " the total memory required for HLO temporaries (448.00G) exceeds available"
    " HBM (15.75G)."
  )
  assert compiler.needed(text) == 448 * 2**30
  text = "RESOURCE_EXHAUSTED: Ran out of memory. Used 17.50G of 15.75G hbm."
  assert compiler.needed(text) == int(17.5 * 2**30)
  assert compiler.needed("RESOURCE_EXHAUSTED: something else") is None
  with pytest.raises(compiler.UserError, match="cannot be compiled: INTERNAL"):
    compiler.needed("INTERNAL: Couldn't find\n  output tile sizes")


def traced(function, *arguments):
  return arithmetic.flops(jax.jit(function).trace(*arguments).jaxpr)


def test_operations_by_hand():
  x, w = jnp.ones((8, 4)), jnp.ones((4, 4))
  one = 2 * 8 * 4 * 4
  assert traced(jnp.matmul, x, w) == one

  def loop(x, w):
    turn = jax.checkpoint(lambda x, _: (jnp.sin(x) @ w, None))
    return jax.lax.scan(turn, x, None, length=5)[0]

  assert traced(loop, x, w) == 5 * one

  def either(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

  assert traced(either, x, w) == 2 * one


def test_operations_of_a_convolution_and_its_gradients():
  x, w = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 16))

  def convolve(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  one = 2 * (2 * 4 * 4 * 16) * (3 * 3 * 4)
  assert traced(convolve, x, w) == one
  both = jax.grad(lambda x, w: jnp.sum(convolve(x, w) ** 2), (0, 1))
  # Forward, and as much again for each of the two gradients.
  assert traced(both, x, w) == 3 * one
