"""The package's backbones in eval mode as graphs of ONNX.

Written out for each kind of network, for the converters from JAX drop the
padding of max pooling without a word. `exporting` compares each file with the
run before it is kept, so what is missing here is refused and not wrong.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cassle_jax.convert import served
from cassle_jax.convert.onnx_graph import Graph
from cassle_jax.convert.states import Export, vit_settings
from cassle_jax.errors import UserError
from cassle_jax.models import ConvNet, ResNet, VisionTransformer, resnet
from cassle_jax.training.trained import Trained

FILE = "model.onnx"
_BATCH_NORM, _LAYER_NORM = 1e-5, 1e-6
_TOLERANCE = 1e-4


def onnx(run: Trained, image_size: int) -> tuple[bytes, Export]:
  """The file: images [batch, 3, s, s] float32 in [0, 1] -> features [batch, d].

  Args:
    run: from `trained.open_run`.
    image_size: s.

  Raises:
    UserError: a package is not there, the backbone has no graph, or the
      graph's features in onnxruntime are not the run's.
  """
  try:
    import onnx  # noqa: F401
    import onnxruntime
  except ImportError:
    raise UserError(
      "--format=onnx needs the packages onnx and onnxruntime, which checks the"
      " file: pip install onnx onnxruntime."
    ) from None
  data = graph_of(run, image_size)
  session = onnxruntime.InferenceSession(
    data, providers=["CPUExecutionProvider"]
  )
  pictures = served.random_images(image_size)
  images = pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255
  (found,) = session.run(None, {"images": images})
  expected = jax.jit(served.features_of(run))(pictures)
  served.check(found, expected, _TOLERANCE, FILE)
  code = (
    "import onnxruntime\n\n"
    f'session = onnxruntime.InferenceSession("FOLDER/{FILE}")\n'
    "# [B, 3, H, W] float32, RGB in [0, 1]\n"
    '(features,) = session.run(None, {"images": images})'
  )
  notes = (
    "Normalisation is inside: it takes RGB in [0, 1], any number of pictures.",
  )
  return data, Export(None, None, {}, code, notes, run.config.model.backbone)


def graph_of(run: Trained, image_size: int) -> bytes:
  """The file's bytes; see `onnx`."""
  backbone, policy = run.setup.networks.backbone, run.setup.policies[0]
  kinds = {ResNet: _resnet, ConvNet: _convnet, VisionTransformer: _vit}
  if type(backbone) not in kinds or backbone.descriptor_size:
    raise UserError(
      f"--format=onnx has no graph for a {type(backbone).__name__}"
      + " that is told a descriptor" * bool(run.setup.awareness.descriptors)
      + "; use --format=stablehlo."
    )
  variables = jax.tree.map(np.asarray, run.variables["backbone"])
  graph = Graph()
  mean, std = (
    graph.constant(np.reshape(np.float32(x), (1, 3, 1, 1)))
    for x in (policy.mean, policy.std)
  )
  x = graph.node("Div", [graph.node("Sub", ["images", mean]), std])
  output = kinds[type(backbone)](graph, x, backbone, variables, image_size)
  return graph.model(output, image_size, run.setup.networks.features)


def _resnet(
  graph: Graph, x: str, net: ResNet, variables: Mapping, image_size: int
) -> str:
  del image_size
  params, stats = variables["params"], variables["batch_stats"]

  def normed(x: str, params: Any, stats: Any, name: str) -> str:
    return graph.batch_norm(x, params[name], stats[name], _BATCH_NORM)

  if net.stem == "space_to_depth":
    x = graph.node("SpaceToDepth", [x], blocksize=net.stem_factor)
  stride = 2 if net.stem == "imagenet" else 1
  x = graph.convolve(x, params["conv1"]["kernel"], stride)
  x = graph.relu(normed(x, params, stats, "bn1"))
  if net.stem == "imagenet":
    x = graph.max_pool(x, 3, 2, 1)
  block, stages = resnet.VARIANTS[net.variant]
  count = 3 if block is resnet.Bottleneck else 2
  # The stride sits on the 3x3: the second convolution of a bottleneck.
  strided = 2 if block is resnet.Bottleneck else 1
  for stage, blocks in enumerate(stages, 1):
    for number in range(blocks):
      name = f"layer{stage}_block{number}"
      p, s = params[name], stats[name]
      stride = 2 if stage > 1 and number == 0 else 1
      y = x
      for layer in range(1, count + 1):
        step = stride if layer == strided else 1
        y = graph.convolve(y, p[f"conv{layer}"]["kernel"], step)
        y = normed(y, p, s, f"bn{layer}")
        y = graph.relu(y) if layer < count else y
      if "downsample_conv" in p:
        x = graph.convolve(x, p["downsample_conv"]["kernel"], stride)
        x = normed(x, p, s, "downsample_bn")
      x = graph.relu(graph.add(y, x))
  return graph.mean(x, 2, 3)


def _convnet(
  graph: Graph, x: str, net: ConvNet, variables: Mapping, image_size: int
) -> str:
  del image_size
  params = variables["params"]
  if net.patch > 1:
    x = graph.node("SpaceToDepth", [x], blocksize=net.patch)
  for number, stride in enumerate(net.strides, 1):
    x = graph.convolve(x, params[f"conv{number}"]["kernel"], stride)
    if net.norm == "batch":
      name = f"bn{number}"
      stats = variables["batch_stats"][name]
      x = graph.batch_norm(x, params[name], stats, _BATCH_NORM)
    else:
      x = _group_norm(graph, x, params[f"gn{number}"], net.widths[number - 1])
    x = graph.relu(x)
  return graph.mean(x, 2, 3)


def _group_norm(graph: Graph, x: str, params: Any, width: int) -> str:
  """As instances of [B, groups, everything else]: older opsets have it so."""
  groups = max(1, width // 16)
  shape = graph.node("Shape", [x])
  y = graph.reshape(x, 0, groups, -1)
  ones = graph.constant(np.ones(groups, np.float32))
  zeros = graph.constant(np.zeros(groups, np.float32))
  y = graph.node("InstanceNormalization", [y, ones, zeros], epsilon=_LAYER_NORM)
  y = graph.node("Reshape", [y, shape])
  scale, bias = (
    graph.constant(np.reshape(params[name], (1, width, 1, 1)))
    for name in ("scale", "bias")
  )
  return graph.add(graph.node("Mul", [y, scale]), bias)


def _vit(
  graph: Graph,
  x: str,
  net: VisionTransformer,
  variables: Mapping,
  image_size: int,
) -> str:
  params, settings = variables["params"], vit_settings(net)
  size, patch = settings["width"], settings["patch_size"]
  stem = params["patch_embed"]
  if settings["conv_stem"]:
    stats = variables["batch_stats"]["patch_embed"]
    for number in range(patch.bit_length() - 1):
      x = graph.convolve(x, stem[f"conv{number}"]["kernel"], 2)
      name = f"bn{number}"
      x = graph.batch_norm(x, stem[name], stats[name], _BATCH_NORM)
      x = graph.relu(x)
    x = graph.convolve(x, stem["proj"]["kernel"], 1, stem["proj"]["bias"])
  else:
    x = graph.convolve(x, stem["kernel"], patch, stem["bias"], pad=0)
  count = (image_size // patch) ** 2
  x = graph.transpose(graph.reshape(x, 0, size, count), 0, 2, 1)
  tokens = _tokens(net, variables, image_size)
  start = tokens.shape[1] - count
  x = graph.add(x, graph.constant(tokens[:, start:]))
  if start:
    # As many copies as there are pictures.
    batch = graph.slice(graph.node("Shape", [x]), 0, 0, 1)
    shape = graph.node("Concat", [batch, graph.integers(start, size)], axis=0)
    first = graph.node("Expand", [graph.constant(tokens[:, :start]), shape])
    x = graph.node("Concat", [first, x], axis=1)
  for number in range(settings["depth"]):
    x = _block(graph, x, settings, params[f"block{number}"])
  pool = settings["pool"]
  if pool == "cls":
    cls = graph.reshape(graph.slice(x, 1, 0, 1), 0, size)
    return graph.layer_norm(cls, params["norm"], _LAYER_NORM)
  x = graph.layer_norm(x, params["norm"], _LAYER_NORM)
  mean = graph.mean(graph.slice(x, 1, start, start + count), 1)
  if pool == "mean":
    return mean
  cls = graph.reshape(graph.slice(x, 1, 0, 1), 0, size)
  return graph.node("Concat", [cls, mean], axis=1)


def _tokens(
  net: VisionTransformer, variables: Mapping, image_size: int
) -> np.ndarray:
  """[1, tokens, d]: [cls], registers and positions, all that is no patch.

  The network's own tokens, of patches whose projection is 0.
  """
  stem = variables["params"]["patch_embed"]
  last = stem.get("proj", stem)
  nothing = {name: np.zeros_like(last[name]) for name in ("kernel", "bias")}
  stem = stem | {"proj": nothing} if "proj" in stem else nothing
  params = variables["params"] | {"patch_embed": stem}
  image = np.zeros((1, image_size, image_size, 3), np.float32)

  @jax.jit
  def tokens(params: Any, image: Any) -> Any:
    held = {**variables, "params": params}
    return net.apply(held, image, train=False)[1]["stem"]

  return np.asarray(tokens(params, image), np.float32)


def _block(graph: Graph, x: str, net: Mapping, params: Any) -> str:
  def scaled(y: str, name: str) -> str:
    if name not in params:
      return y
    return graph.node("Mul", [y, graph.constant(params[name]["gamma"])])

  size, heads = net["width"], net["attention_heads"]
  width = size // heads
  y = graph.layer_norm(x, params["norm1"], _LAYER_NORM)
  y = graph.linear(y, params["attn"]["qkv"])
  y = graph.transpose(graph.reshape(y, 0, 0, 3, heads, width), 2, 0, 3, 1, 4)
  q, k, v = (
    graph.node("Squeeze", [graph.slice(y, 0, i, i + 1), graph.integers(0)])
    for i in range(3)
  )
  q = graph.node("Mul", [q, graph.constant(np.float32(1 / math.sqrt(width)))])
  scores = graph.node("MatMul", [q, graph.transpose(k, 0, 1, 3, 2)])
  y = graph.node("MatMul", [graph.node("Softmax", [scores], axis=-1), v])
  y = graph.reshape(graph.transpose(y, 0, 2, 1, 3), 0, 0, size)
  x = graph.add(x, scaled(graph.linear(y, params["attn"]["proj"]), "ls1"))
  y = graph.layer_norm(x, params["norm2"], _LAYER_NORM)
  return graph.add(x, scaled(_mlp(graph, y, net["mlp"], params["mlp"]), "ls2"))


def _mlp(graph: Graph, x: str, kind: str, params: Any) -> str:
  if kind == "swiglu":
    y = graph.linear(x, params["w12"])
    inside = params["w3"]["kernel"].shape[0]
    gate = graph.slice(y, 2, 0, inside)
    value = graph.slice(y, 2, inside, 2 * inside)
    gate = graph.node("Mul", [gate, graph.node("Sigmoid", [gate])])
    return graph.linear(graph.node("Mul", [gate, value]), params["w3"])
  approximate = "tanh" if kind == "gelu_tanh" else "none"
  y = graph.node(
    "Gelu", [graph.linear(x, params["fc1"])], approximate=approximate
  )
  return graph.linear(y, params["fc2"])
