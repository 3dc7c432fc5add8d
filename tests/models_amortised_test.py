"""Backbones that take an invariance descriptor, and what networks weigh."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from random_variables import make

from cassle_jax import models
from cassle_jax.errors import UserError
from cassle_jax.models import (
  ConditionedProjector,
  footprint,
  resnet,
)
from cassle_jax.models.amortised import AmortisedConv, Prompt
from cassle_jax.models.conv import Conv
from cassle_jax.weights import torch_names

KEY = jax.random.key(0)
ONES = jnp.ones(2)
FAMILIES = {
  "resnet18": dict(backbone="resnet18", width=8, stem="small"),
  "resnet50": dict(backbone="resnet50", width=4, stem="small"),
  "conv2": dict(backbone="conv2", width=4),
  "vit_debug": dict(backbone="vit_debug", patch_size=8, prompt_mlps=3),
}


@pytest.fixture
def short(monkeypatch):
  """ResNets of one block; a bottleneck's shortcut is projected."""
  for name, (block, _) in resnet.VARIANTS.items():
    monkeypatch.setitem(resnet.VARIANTS, name, (block, (1,)))


def make_backbone(name, **options):
  options = {"amortised_rank": 16, **FAMILIES[name], **options}
  return models.build(
    image_size=16, descriptor_size=2, zero_init_residual=False, **options
  ).backbone


def variables_of(backbone, images, descriptor=ONES):
  """Random variables; `make` cannot pass a descriptor by keyword."""

  class Bound:
    def init(self, key, images, train):
      return backbone.init(key, images, train=train, descriptor=descriptor)

  return make(Bound(), images)


def shapes_of(backbone, size=16):
  return jax.eval_shape(
    lambda: backbone.init(
      KEY,
      jnp.zeros((1, size, size, 3)),
      train=False,
      descriptor=jnp.ones(2) if backbone.descriptor_size else None,
    )
  )


def images_of(count=4):
  return jax.random.normal(jax.random.key(1), (count, 16, 16, 3))


def gradients(backbone, variables, images):
  """Jitted: (parameters, descriptor) -> features, both gradients."""
  weights = jax.random.normal(jax.random.key(2), (backbone.features,))

  @jax.jit
  def run(params, descriptor):
    def loss(params, descriptor):
      (features, _), _ = backbone.apply(
        {**variables, "params": params},
        images,
        train=True,
        descriptor=descriptor,
        mutable=["batch_stats"],
      )
      return jnp.mean(features**2 @ weights), features

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, descriptor)

  return run


@pytest.mark.parametrize("name", FAMILIES)
def test_features_depend_on_the_descriptor(name, short):
  backbone = make_backbone(name)
  images = images_of()
  variables = variables_of(backbone, images)
  run = gradients(backbone, variables, images)
  seen = []
  for descriptor in ([1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]):
    (by_params, by_descriptor), features = run(
      variables["params"], jnp.array(descriptor)
    )
    assert features.shape == (4, backbone.features)
    assert np.isfinite(by_descriptor).all()
    assert (np.abs(by_descriptor) > 1e-7).all()
    for path, leaf in traverse_util.flatten_dict(by_params).items():
      assert np.isfinite(leaf).all()
      if path[0] != "patch_embed":
        assert np.abs(leaf).max() > 0, path
    for other in seen:
      assert np.abs(features - other).max() > 1e-4
    seen.append(features)


def test_remat_recomputes_the_emitted_kernels(short):
  results, kept = [], []
  for remat in (False, True):
    backbone = make_backbone("resnet50", remat=remat)
    images = images_of()
    variables = variables_of(backbone, images)
    run = gradients(backbone, variables, images)
    results.append(run(variables["params"], jnp.array([0.3, 0.8])))

    narrow = make_backbone("resnet50", remat=remat, dtype=jnp.bfloat16)

    def pull(params, backbone=narrow, variables=variables, images=images):
      def features(params):
        return backbone.apply(
          {**variables, "params": params},
          images,
          train=True,
          descriptor=jnp.ones(2),
          mutable=["batch_stats"],
        )[0][0]

      return jax.vjp(features, params)[1]

    leaves = jax.tree.leaves(jax.eval_shape(pull, variables["params"]))
    # Kernels in the compute type: parameters are float32.
    kernels = ((1, 1, 4, 4), (3, 3, 4, 4), (1, 1, 4, 16))
    kept.append(
      sum(
        leaf.shape in kernels and leaf.dtype == jnp.bfloat16 for leaf in leaves
      )
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    *results,
  )
  assert kept == [4, 0]


def emitted(outputs):
  """Emitted kernels by module from captured intermediates."""
  flat = traverse_util.flatten_dict(outputs["intermediates"])
  return {
    path[:-2]: value[0]
    for path, value in flat.items()
    if path[-2:] == ("linear1", "__call__")
  }


def test_emitted_kernels_start_with_hes_variance():
  backbone = make_backbone("conv2", width=32, amortised_rank=32)
  images = jnp.zeros((1, 16, 16, 3))

  @jax.jit
  def run(descriptor):
    variables = backbone.init(KEY, images, train=False, descriptor=descriptor)
    _, outputs = backbone.apply(
      variables,
      images,
      train=False,
      descriptor=jnp.ones(2),
      mutable=["intermediates"],
      capture_intermediates=True,
    )
    return emitted(outputs)

  # Whatever descriptor is given, parameters are made for one of ones.
  for given in ((1.0, 1.0), (0.0, 0.25)):
    kernels = run(jnp.array(given))
    assert set(kernels) == {("conv2",)}
    kernel = np.asarray(kernels["conv2",])
    assert kernel.shape == (3, 3, 32, 64)
    variance = 2 / (9 * 64)
    np.testing.assert_allclose(kernel.var(), variance, rtol=0.1)
    np.testing.assert_allclose(kernel.mean(), 0, atol=0.05 * variance**0.5)


def test_hes_variance_holds_where_the_hidden_layer_is_dead():
  layer = AmortisedConv(64, 3, rank=1)
  x, embedding = jnp.zeros((1, 4, 4, 16)), jnp.ones(16)

  def run(key):
    variables = layer.init(key, x, embedding)
    _, outputs = layer.apply(
      variables,
      x,
      embedding,
      mutable=["intermediates"],
      capture_intermediates=True,
    )
    hidden = outputs["intermediates"]["linear0"]["__call__"][0]
    return hidden[0], outputs["intermediates"]["linear1"]["__call__"][0]

  hidden, kernels = jax.jit(jax.vmap(run))(jax.random.split(KEY, 8))
  dead = np.asarray(hidden) <= 0
  assert dead.any() and not dead.all()
  for kernel in np.asarray(kernels):
    np.testing.assert_allclose(kernel.var(), 2 / (9 * 64), rtol=0.1)


@pytest.mark.parametrize("size, stride", [(3, 2), (1, 1)])
def test_emitted_convolution_equals_float64(size, stride):
  layer = AmortisedConv(4, size, stride, rank=3)
  generator = np.random.default_rng(0)
  draw = lambda *shape: generator.normal(size=shape)  # noqa: E731
  x, embedding = draw(2, 6, 6, 5), draw(16)
  first, second = draw(16, 3), draw(3, size * size * 5 * 4)
  bias, base = draw(3), draw(size * size * 5 * 4)
  shape = (size, size, 5, 4)
  variables = {
    "params": {
      "linear0": {"kernel": first, "bias": bias},
      "linear1": {
        "kernel": second.reshape(3, *shape),
        "bias": base.reshape(shape),
      },
    }
  }
  variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
  y = layer.apply(variables, jnp.float32(x), jnp.float32(embedding))
  kernel = np.maximum(embedding @ first + bias, 0) @ second + base
  kernel = kernel.reshape(shape)
  padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
  expected = np.zeros(y.shape)
  for i in range(y.shape[1]):
    for j in range(y.shape[2]):
      window = padded[:, i * stride :, j * stride :][:, :size, :size]
      expected[:, i, j] = np.einsum("bhwc,hwco->bo", window, kernel)
  scale = np.abs(expected).max()
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * scale)
  ordinary = Conv(4, size, stride).apply(
    {"params": {"kernel": jnp.asarray(kernel, jnp.float32)}}, jnp.float32(x)
  )
  np.testing.assert_allclose(y, ordinary, rtol=0, atol=1e-5 * scale)


def test_prompt_is_a_mean_of_mlps():
  prompt = Prompt(4, count=3)
  descriptor = jnp.array([0.25, 1.0])
  variables = jax.jit(prompt.init)(KEY, descriptor)
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)[
    "params"
  ]
  tokens = [
    np.maximum(np.asarray(descriptor) @ w0 + b0, 0) @ w1 + b1
    for w0, b0, w1, b1 in zip(
      *(params[n] for n in ("kernel0", "bias0", "kernel1", "bias1")),
      strict=True,
    )
  ]
  np.testing.assert_allclose(
    prompt.apply(variables, descriptor), np.mean(tokens, axis=0), rtol=1e-4
  )
  assert np.abs(params["kernel0"]).max() <= 2**-0.5
  assert np.abs(params["kernel1"]).max() <= 4**-0.5


def test_prompt_follows_the_patches_without_a_position():
  options = {**FAMILIES["vit_debug"], "image_size": 16}
  backbone = make_backbone("vit_debug")
  images = images_of(2)
  variables = variables_of(backbone, images)
  descriptor = jnp.array([0.25, 1.0])

  def stem(backbone, params, descriptor):
    return jax.jit(
      lambda: backbone.apply(
        {"params": params}, images, train=False, descriptor=descriptor
      )[1]["stem"]
    )()

  params = dict(variables["params"])
  tokens = stem(backbone, params, descriptor)
  token = Prompt(64, 3).apply({"params": params.pop("prompt")}, descriptor)
  ordinary = stem(models.build(**options).backbone, params, None)
  assert tokens.shape == (2, 1 + 4 + 1, 64)
  np.testing.assert_array_equal(tokens[:, :-1], ordinary)
  for row in tokens[:, -1]:
    np.testing.assert_allclose(row, token, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "conv2", "vit_debug"])
def test_descriptor_must_fit_the_backbone(name, short):
  images = jnp.zeros((1, 16, 16, 3))
  options = {**FAMILIES[name], "image_size": 16}

  def init(backbone, descriptor):
    jax.eval_shape(
      lambda: backbone.init(KEY, images, train=False, descriptor=descriptor)
    )

  with pytest.raises(UserError, match="ordinary backbone") as error:
    init(models.build(**options).backbone, jnp.ones(2))
  assert "\n" not in str(error.value)
  with pytest.raises(UserError, match="no descriptor"):
    init(make_backbone(name), None)
  for wrong in (jnp.ones(3), jnp.ones((4, 2))):
    with pytest.raises(UserError, match="descriptor_size=2"):
      init(make_backbone(name), wrong)


def test_stem_and_norms_stay_ordinary(short):
  for name in ("resnet18", "resnet50", "conv2"):
    backbone = make_backbone(name)
    params = shapes_of(backbone)["params"]
    assert set(params["conv1"]) == {"kernel"}
    ordinary = models.build(image_size=16, **FAMILIES[name]).backbone
    plain = traverse_util.flatten_dict(shapes_of(ordinary))
    amortised = traverse_util.flatten_dict(shapes_of(backbone))
    kernels = {path for path in plain if path[-1] == "kernel"}
    assert set(plain) - set(amortised) == kernels - {
      ("params", "conv1", "kernel")
    }


@functools.cache
def weights_of(name):
  """Parameters of an ordinary network; its kernels' sizes but the first."""
  params = shapes_of(models.build(backbone=name).backbone, 32)["params"]
  flat = traverse_util.flatten_dict(params)
  sizes = {path: leaf.size for path, leaf in flat.items()}
  total = sum(sizes.values())
  del sizes["conv1", "kernel"]
  return total, [n for path, n in sizes.items() if path[-1] == "kernel"]


@functools.cache
def params_of(name, rank=32):
  """Shapes of the parameters of an amortised backbone and its projector."""
  networks = models.build(backbone=name, descriptor_size=2, amortised_rank=rank)
  features = jnp.zeros((2, networks.features))
  projector = jax.eval_shape(
    lambda: networks.projector.init(
      KEY, features, jnp.zeros((2, 14)), train=False
    )
  )
  return {
    "backbone": shapes_of(networks.backbone, 32)["params"],
    "projector": projector["params"],
  }


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  "name, blocks, rank",
  [
    ("resnet18", 8, 5),
    ("resnet50", 16, 8),
    ("resnet50", 16, 32),
    ("conv3", 1, 32),
  ],
)
def test_amortised_size_by_formula(name, blocks, rank):
  total, sizes = weights_of(name)
  expected = total - sum(sizes)
  expected += blocks * 2 * 16 + len(sizes) * (16 + 1) * rank
  expected += (rank + 1) * sum(sizes)
  assert count(params_of(name, rank)["backbone"]) == expected


def test_prompt_size_by_formula():
  prompt = 256 * (2 * 768 + 768 + 768 * 768 + 768)
  assert count(params_of("vit_base")["backbone"]) == 85_647_360 + prompt


def test_amortised_networks_have_no_torch_layout(short):
  for name in ("resnet18", "conv2", "vit_debug"):
    with pytest.raises(UserError, match="no torch layout"):
      torch_names.torch_names(shapes_of(make_backbone(name)))


def test_documented_sizes_of_resnet50():
  text = " ".join(footprint.__doc__.split())
  for rank in (32, 8):
    size = count(params_of("resnet50", rank)["backbone"])
    assert f"{size / 1e6:.1f} M" in text, rank


def test_statement_is_one_line_of_computed_numbers():
  networks = models.build(backbone="resnet50", descriptor_size=2)
  params = params_of("resnet50")
  total, backbone = count(params), count(params["backbone"])
  # Parameters and gradients, two moments, a target.
  line = footprint.statement(
    networks, params, (params, params), params, batch_size=256
  )
  assert line == (
    f"amortised resnet50, rank 32: {total / 1e6:.1f} M parameters (backbone"
    f" {backbone / 1e6:.1f} M, projector {(total - backbone) / 1e6:.1f} M),"
    f" {20 * total / 1e9:.1f} GB with gradients and the rest of the"
    " state"
  )
  example = re.search(r'E\.g\. "(.*?)"', footprint.statement.__doc__, re.DOTALL)
  assert " ".join(example[1].split()) == line
  vit = models.build(backbone="vit_debug", descriptor_size=2, prompt_mlps=5)
  assert footprint.statement(vit, params, batch_size=1).startswith(
    "amortised vit_debug, prompt of 5 MLPs: "
  )
  emitting = models.build(backbone="conv3", conditioning="hypernetwork")
  line = footprint.statement(emitting, {"a": jnp.ones(3)}, batch_size=256)
  assert line.startswith("conv3: 0.0 M parameters (a 0.0 M), 0.0 MB with")
  kept = footprint.hypernetwork_bytes(emitting, 256)
  assert line.endswith(
    f"the hypernetwork keeps {kept / 1e6:.1f} MB of emitted weights for a"
    " batch of 256"
  )


def emitting_of(sizes, **options):
  """A hypernetwork projector behind features of the first size."""
  projector = ConditionedProjector(
    sizes[1:], conditioning="hypernetwork", **options
  )
  return models.Networks(None, sizes[0], projector)


def test_hypernetwork_bytes_by_hand():
  # (3 * 4 + 4) + (4 * 2 + 2) numbers for each of 5 examples, twice.
  networks = emitting_of((3, 4, 2))
  assert footprint.hypernetwork_bytes(networks, 5) == 5 * 26 * 8
  networks = emitting_of((3, 4, 2), last_bias=False, dtype=jnp.bfloat16)
  assert footprint.hypernetwork_bytes(networks, 5, views=2) == 2 * 5 * 24 * 6


def test_hypernetwork_bytes_are_near_the_compilers():
  batch, networks = 32, emitting_of((64, 64, 32))
  projector = networks.projector
  features, omega = jnp.zeros((batch, 64)), jnp.zeros((batch, 14))
  variables = make(projector, features, omega)

  def loss(params, features, omega):
    z, _ = projector.apply(
      {**variables, "params": params},
      features,
      omega,
      train=True,
      mutable=["batch_stats"],
    )
    return jnp.sum(z**2)

  compiled = (
    jax.jit(jax.grad(loss))
    .lower(variables["params"], features, omega)
    .compile()
  )
  actual = compiled.memory_analysis().temp_size_in_bytes
  expected = footprint.hypernetwork_bytes(networks, batch)
  assert 0.9 < actual / expected < 1.5


def test_hypernetwork_beyond_the_bound_is_refused():
  # 2048 features, 256 examples: 8.5 GiB.
  options = dict(backbone="resnet50", conditioning="hypernetwork")
  networks = models.build(**options)
  with pytest.raises(UserError, match=r"8\.5 GiB .* 8\.0 GiB") as error:
    footprint.check_hypernetwork(networks, batch_size=256)
  assert "\n" not in str(error.value)
  for fix in ("model.projector=(2048, 128)", "smaller batch", "'concat'"):
    assert fix in str(error.value)
  footprint.check_hypernetwork(networks, batch_size=128)
  with pytest.raises(UserError):
    footprint.check_hypernetwork(networks, batch_size=128, views=2)
  smaller = models.build(**options, projector=(1024, 128))
  footprint.check_hypernetwork(smaller, batch_size=256)
  narrow = models.build(**options, dtype=jnp.bfloat16)
  footprint.check_hypernetwork(narrow, batch_size=256)
  footprint.check_hypernetwork(
    models.build(backbone="resnet50"), batch_size=10**9
  )
