"""A graph of ONNX, put together node by node; opset 20 and later.

Arrays are [B, C, H, W] and [B, N, d]. Kernels come in the layout of JAX and are
turned. The package onnx is imported where it is needed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

OPSET = 20


class Graph:
  """Nodes and constants; methods return the name of their output."""

  def __init__(self):
    self.nodes: list[Any] = []
    self.constants: list[Any] = []

  def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
    """Adds a node of one output."""
    from onnx import helper

    name = f"{kind.lower()}_{len(self.nodes)}"
    self.nodes.append(
      helper.make_node(kind, list(inputs), [name], name=name, **attributes)
    )
    return name

  def constant(self, array: Any) -> str:
    """Adds an array."""
    from onnx import numpy_helper

    name = f"constant_{len(self.constants)}"
    array = np.ascontiguousarray(array)
    self.constants.append(numpy_helper.from_array(array, name))
    return name

  def integers(self, *values: int) -> str:
    """Adds a vector of int64: axes, shapes."""
    return self.constant(np.array(values, np.int64))

  def add(self, first: str, second: str) -> str:
    return self.node("Add", [first, second])

  def relu(self, x: str) -> str:
    return self.node("Relu", [x])

  def convolve(
    self, x: str, kernel: Any, stride: int, bias: Any = None, pad: int = -1
  ) -> str:
    """A convolution, padded by size // 2 unless `pad` is given."""
    kernel = np.transpose(np.asarray(kernel), (3, 2, 0, 1))
    size = kernel.shape[2]
    pad = size // 2 if pad < 0 else pad
    inputs = [x, self.constant(kernel)]
    if bias is not None:
      inputs.append(self.constant(bias))
    return self.node(
      "Conv",
      inputs,
      kernel_shape=[size, size],
      strides=[stride, stride],
      pads=[pad] * 4,
    )

  def batch_norm(self, x: str, params: Any, stats: Any, epsilon: float) -> str:
    """BatchNorm by its running statistics."""
    arrays = params["scale"], params["bias"], stats["mean"], stats["var"]
    return self.node(
      "BatchNormalization",
      [x, *map(self.constant, arrays)],
      epsilon=epsilon,
    )

  def max_pool(self, x: str, size: int, stride: int, pad: int) -> str:
    return self.node(
      "MaxPool",
      [x],
      kernel_shape=[size, size],
      strides=[stride, stride],
      pads=[pad] * 4,
    )

  def mean(self, x: str, *axes: int) -> str:
    """The mean over axes, which are left out."""
    return self.node("ReduceMean", [x, self.integers(*axes)], keepdims=0)

  def linear(self, x: str, params: Any) -> str:
    """x @ kernel + bias over the last axis."""
    y = self.node("MatMul", [x, self.constant(params["kernel"])])
    return self.add(y, self.constant(params["bias"]))

  def layer_norm(self, x: str, params: Any, epsilon: float) -> str:
    arrays = params["scale"], params["bias"]
    return self.node(
      "LayerNormalization",
      [x, *map(self.constant, arrays)],
      axis=-1,
      epsilon=epsilon,
    )

  def reshape(self, x: str, *shape: int) -> str:
    """0 keeps an axis, -1 is what is left."""
    return self.node("Reshape", [x, self.integers(*shape)])

  def transpose(self, x: str, *axes: int) -> str:
    return self.node("Transpose", [x], perm=list(axes))

  def slice(self, x: str, axis: int, start: int, stop: int) -> str:
    ends = (self.integers(value) for value in (start, stop, axis))
    return self.node("Slice", [x, *ends])

  def model(self, output: str, image_size: int, features: int) -> bytes:
    """The file: images [batch, 3, s, s] -> features [batch, d]."""
    from onnx import TensorProto, checker, helper

    kind = TensorProto.FLOAT
    shape = ["batch", 3, image_size, image_size]
    self.nodes.append(helper.make_node("Identity", [output], ["features"]))
    graph = helper.make_graph(
      self.nodes,
      "backbone",
      [helper.make_tensor_value_info("images", kind, shape)],
      [helper.make_tensor_value_info("features", kind, ["batch", features])],
      self.constants,
    )
    opset = helper.make_opsetid("", OPSET)
    made = helper.make_model(
      graph,
      opset_imports=[opset],
      producer_name="cassle_jax",
      # The oldest that has this opset, so that older runtimes can read it.
      ir_version=helper.find_min_ir_version_for([opset]),
    )
    checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)
