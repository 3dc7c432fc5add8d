"""Operations of the matrix products and convolutions of a program.

Counted in the program as it is written, before a compiler rewrites it: library
calls tell none. Everything else a step does is bound by memory.
"""

import math
from typing import Any

import jax


def flops(jaxpr: Any) -> float:
  """Products and sums, two for each pair that is multiplied.

  Args:
    jaxpr: from `jax.jit(...).trace(...).jaxpr`. Loops count all their turns, of
      branches the dearest.
  """
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  return sum(map(_of, jaxpr.eqns))


def _of(equation: Any) -> float:
  name, options = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = options["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
  if name == "conv_general_dilated":
    numbers = options["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    # Of the kernel's numbers each output meets those of its own group, and of
    # an input that is stretched by zeros one in so many.
    depth = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    depth /= math.prod(options["lhs_dilation"]) * options["batch_group_count"]
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
  inner = [
    flops(value)
    for value in jax.tree.leaves(
      list(options.values()), is_leaf=lambda x: hasattr(x, "eqns")
    )
    if hasattr(value, "eqns") or hasattr(value, "jaxpr")
  ]
  if name == "cond":
    return max(inner, default=0.0)
  return sum(inner) * (options["length"] if name == "scan" else 1)
