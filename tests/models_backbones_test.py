"""Backbones against torch's numbers, their shapes, sizes and options."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_fill
from random_variables import make, shapes

from cassle_jax import models
from cassle_jax.errors import UserError
from cassle_jax.models import ResNet, VisionTransformer, positions, resnet
from cassle_jax.models.attention import choose_attention
from cassle_jax.models.conv import Conv, space_to_depth
from cassle_jax.models.positions import sincos_positions
from cassle_jax.models.transformer import gelu
from cassle_jax.weights import torch_names

KEY = jax.random.key(0)
# Golden name of a block: ours.
STAGES = {
  "conv1": "stem",
  "l1": "stage1",
  "l2": "stage2",
  "l3": "stage3",
  "l4": "stage4",
}


def abstract(backbone, size, batch=2):
  """Abstract variables, features and intermediates of a backbone."""
  images = jnp.zeros((batch, size, size, 3))
  variables = shapes(backbone, images)
  (features, intermediates), _ = jax.eval_shape(
    lambda v, x: backbone.apply(v, x, train=True, mutable=["batch_stats"]),
    variables,
    images,
  )
  return variables, features, intermediates


def count(tree):
  return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def close(actual, expected, rtol=1e-4):
  """Compares relative to the largest entry."""
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * scale)


def variables_and_images(backbone, size, batch=4):
  images = jax.random.normal(jax.random.key(1), (batch, size, size, 3))
  return make(backbone, images), images


def gradient(backbone, variables, images):
  """Jitted gradient, features and new statistics of a training pass."""

  @jax.jit
  def run(params):
    def loss(params):
      (features, _), new = backbone.apply(
        {**variables, "params": params},
        images,
        train=True,
        mutable=["batch_stats"],
      )
      return jnp.sum(features**2) / 2, (features, new)

    return jax.value_and_grad(loss, has_aux=True)(params)

  return run(variables["params"])


def norms(gradients, names):
  gradients = torch_names.to_torch({"params": gradients})
  return np.array([np.linalg.norm(gradients[n.decode()]) for n in names])


def test_resnet18_equals_torch(golden):
  arrays = golden("backbone_resnet18")
  state = torch_fill.state_dict(arrays["names"], arrays["shapes"])
  for i, name in enumerate(arrays["names"]):
    if name.decode() in state:
      total = np.sum(state[name.decode()], dtype=np.float64)
      np.testing.assert_allclose(total, arrays["weight_sum"][i], atol=1e-2)
  backbone = ResNet()
  variables = torch_names.from_torch(abstract(backbone, 64)[0], state)
  images = arrays["x"].transpose(0, 2, 3, 1)
  for mode in ("eval", "train"):
    (features, maps), new = jax.jit(
      lambda v, x, train: backbone.apply(
        v, x, train=train, mutable=["batch_stats"]
      ),
      static_argnums=2,
    )(variables, images, mode == "train")
    close(features, arrays[f"features_{mode}"])
    for theirs, name in STAGES.items():
      ours = maps[name]
      close(ours.mean((1, 2)), arrays[f"{theirs}_mean_{mode}"])
      close(ours.std((1, 2)), arrays[f"{theirs}_std_{mode}"])
  after = torch_names.to_torch(new)
  for name in arrays:
    if name.startswith("after_train/"):
      close(after[name.removeprefix("after_train/")], arrays[name])
  running = [n.decode() for n in arrays["names"] if b"running" in n]
  close([after[n].sum() for n in running], arrays["after_train_running_sum"])
  (loss, _), gradients = gradient(backbone, variables, images)
  np.testing.assert_allclose(loss, arrays["loss_train"], rtol=1e-4)
  np.testing.assert_allclose(
    norms(gradients, arrays["param_names"]), arrays["grad_norms"], rtol=1e-4
  )


def test_vit_small_equals_torch(golden):
  arrays = golden("backbone_vit_small")
  state = torch_fill.state_dict(arrays["names"], arrays["shapes"])
  backbone = VisionTransformer()
  variables = torch_names.from_torch(abstract(backbone, 224)[0], state)
  images = torch_fill.symmetric((2, 3, 224, 224), 778, 2.0)
  images = images.transpose(0, 2, 3, 1)
  places = sincos_positions(14, 14, 384)[0]
  np.testing.assert_allclose(
    places[arrays["pos_embed_rows"]], arrays["pos_embed"], atol=2e-6
  )

  @jax.jit
  def run(params):
    def loss(params):
      features, tokens = backbone.apply({"params": params}, images, train=True)
      return jnp.sum(features**2) / 2, (features, tokens)

    return jax.value_and_grad(loss, has_aux=True)(params)

  (loss, (features, tokens)), gradients = run(variables["params"])
  close(features, arrays["features_eval"])
  patches = tokens["stem"][:, 1:9] - places[None, 1:9]
  close(patches, arrays["patch_embed_first8"])
  for i, theirs in enumerate(arrays["cls_after_block"]):
    close(tokens[f"block{i}"][:, 0], theirs)
  np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-4)
  trained = arrays["requires_grad"]
  np.testing.assert_allclose(
    norms(gradients, arrays["param_names"][trained]),
    arrays["grad_norms"][trained],
    rtol=1e-4,
  )
  frozen = jax.tree.leaves(gradients["patch_embed"])
  assert all(not np.any(leaf) for leaf in frozen)


# Parameters of torchvision's ResNets without fc; of MoCo-v3's ViTs without
# positions and head (ViT-S: timm's 22,050,664 less head 385,000, pos 75,648).
@pytest.mark.parametrize(
  "name, parameters, features",
  [
    ("resnet18", 11_176_512, 512),
    ("resnet34", 21_284_672, 512),
    ("resnet50", 23_508_032, 2048),
    ("resnet101", 42_500_160, 2048),
    ("vit_tiny", 5_486_592, 192),
    ("vit_small", 21_590_016, 384),
    ("vit_base", 85_647_360, 768),
  ],
)
def test_size_equals_the_reference_model(name, parameters, features):
  backbone = models.build(backbone=name).backbone
  variables = shapes(backbone, jnp.zeros((1, 224, 224, 3)))
  assert count(variables["params"]) == parameters
  assert backbone.features == features


@pytest.mark.parametrize("name", models.BACKBONES)
def test_every_backbone_returns_features_and_blocks(name):
  size, dtype = 32, jnp.bfloat16
  backbone = models.build(
    backbone=name, image_size=size, patch_size=8, dtype=dtype
  ).backbone
  variables, features, intermediates = abstract(backbone, size)
  assert features.shape == (2, backbone.features)
  assert features.dtype == jnp.float32
  assert len(intermediates) >= 2
  for block in intermediates.values():
    assert block.dtype == dtype and block.shape[0] == 2
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32


@pytest.mark.parametrize(
  "stem, size, expected",
  [("imagenet", 64, 16), ("small", 32, 32), ("space_to_depth", 32, 16)],
)
def test_stems(stem, size, expected):
  backbone = ResNet(width=8, stem=stem)
  _, features, maps = abstract(backbone, size)
  assert features.shape == (2, 64)
  sides = [maps[name].shape[1] for name in STAGES.values()]
  assert sides == [expected] + [expected // 2**i for i in range(4)]


def test_bottleneck_strides_in_its_3x3():
  block = resnet.Bottleneck(4, 2, True, 1, jnp.float32)
  x = jnp.zeros((1, 8, 8, 8))
  _, state = jax.eval_shape(
    lambda: block.apply(make(block, x), x, False, capture_intermediates=True)
  )
  sides = {
    name: state["intermediates"][name]["__call__"][0].shape[1]
    for name in ("conv1", "conv2", "conv3", "downsample_conv")
  }
  assert sides == {"conv1": 8, "conv2": 4, "conv3": 4, "downsample_conv": 4}


def test_space_to_depth_keeps_every_pixel():
  images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  cut = np.asarray(space_to_depth(jnp.asarray(images), 2))
  assert cut.shape == (2, 2, 3, 12)
  patch = images[1, 2:4, 4:6].reshape(-1)
  np.testing.assert_array_equal(cut[1, 1, 2], patch)
  with pytest.raises(UserError, match="multiple of 4"):
    space_to_depth(jnp.asarray(images), 4)


@pytest.mark.parametrize("init", ["he_normal", "torch"])
def test_convolutions_start_as_torchvisions_or_as_torchs(init):
  """He's normal over fan_out, or U(+-1/sqrt(fan_in)), in every one of them."""
  layer = Conv(64, 3, initializer=init)
  kernel = layer.init(KEY, jnp.zeros((1, 3, 3, 16)))["params"]["kernel"]
  bound = 1 / np.sqrt(3 * 3 * 16)
  expected = np.sqrt(2 / (3 * 3 * 64))
  if init == "torch":
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    expected = bound / np.sqrt(3)
  np.testing.assert_allclose(kernel.std(), expected, rtol=0.03)
  found = []

  def note(call, args, kwargs, context):
    if isinstance(context.module, Conv):
      found.append(context.module.initializer)
    return call(*args, **kwargs)

  for name in ("resnet18", "conv3"):
    options = dict(backbone=name, image_size=32, conv_init=init)
    with nn.intercept_methods(note):
      shapes(models.build(**options).backbone, jnp.zeros((1, 32, 32, 3)))
  assert found == [init] * (20 + 3)


def test_zero_init_residual_starts_each_block_as_its_shortcut():
  def last_scale(zero_init_residual):
    backbone = ResNet(width=8, zero_init_residual=zero_init_residual)
    images = jnp.zeros((1, 32, 32, 3))
    # Only what is returned is compiled.
    return jax.jit(
      lambda: backbone.init(KEY, images, train=False)["params"][
        "layer4_block1"
      ]["bn2"]["scale"]
    )()

  np.testing.assert_array_equal(last_scale(True), np.zeros(64))
  np.testing.assert_array_equal(last_scale(False), np.ones(64))


@pytest.mark.parametrize(
  "options",
  [
    dict(backbone="resnet18", width=8, stem="small"),
    dict(backbone="vit_debug", patch_size=8),
    dict(backbone="vit_conv_debug", patch_size=8),
  ],
  ids=lambda options: options["backbone"],
)
def test_remat_changes_nothing(options, monkeypatch):
  short = (resnet.BasicBlock, (1, 2))
  monkeypatch.setitem(resnet.VARIANTS, "resnet18", short)
  results = []
  for remat in (False, True):
    backbone = models.build(image_size=16, remat=remat, **options).backbone
    variables, images = variables_and_images(backbone, 16)
    results.append(gradient(backbone, variables, images))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    *results,
  )


@pytest.mark.parametrize("name", ["conv4", "vit_debug", "vit_conv_debug"])
def test_bfloat16_is_close_to_float32(name):
  results = []
  for dtype in (jnp.float32, jnp.bfloat16):
    backbone = models.build(
      backbone=name, image_size=16, patch_size=8, dtype=dtype
    ).backbone
    variables, images = variables_and_images(backbone, 16)
    (features, _), _ = jax.jit(
      lambda v, x, backbone=backbone: backbone.apply(
        v, x, train=True, mutable=["batch_stats"]
      )
    )(variables, images)
    results.append(np.asarray(features))
  close(results[1], results[0], rtol=0.05)
  assert np.abs(results[1] - results[0]).max() > 0


@pytest.mark.parametrize("size, stride", [(3, 1), (3, 2), (7, 2), (1, 2)])
@pytest.mark.parametrize("side", [1, 2, 4, 5, 12])
def test_convolution_equals_xlas(size, stride, side):
  x = jax.random.normal(KEY, (2, side, side, 5))
  kernel = jax.random.normal(KEY, (size, size, 5, 4))
  layer = Conv(4, size, stride)
  actual = layer.apply({"params": {"kernel": kernel}}, x)
  expected = jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(size // 2, size // 2)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_group_norm_conv_net_has_no_statistics():
  backbone = models.build(
    backbone="conv4", norm="group", image_size=16
  ).backbone
  variables, _, _ = abstract(backbone, 16)
  assert set(variables) == {"params"}
  assert "gn1" in variables["params"]


def test_vit_initialisation_is_moco_v3s():
  backbone = VisionTransformer(variant="vit_debug", patch_size=4)
  images = jnp.zeros((1, 8, 8, 3))
  params = jax.jit(lambda: backbone.init(KEY, images, train=False))()["params"]
  attention = params["block0"]["attn"]
  cases = {
    # Queries, keys and values are [64, 64] each, not one [64, 192].
    np.sqrt(6 / 128): attention["qkv"]["kernel"],
    np.sqrt(6 / (64 + 256)): params["block1"]["mlp"]["fc1"]["kernel"],
    np.sqrt(6 / (48 + 64)): params["patch_embed"]["kernel"],
  }
  for limit, kernel in cases.items():
    assert 0.97 * limit < np.abs(kernel).max() <= limit
  assert not np.any(attention["qkv"]["bias"])
  assert 0 < np.abs(params["cls_token"]).max() < 1e-5


def test_patches_train_when_not_frozen():
  backbone = VisionTransformer(
    variant="vit_debug", patch_size=4, frozen_patches=False
  )
  variables, images = variables_and_images(backbone, 8, batch=2)
  _, gradients = gradient(backbone, variables, images)
  assert np.abs(gradients["patch_embed"]["kernel"]).max() > 0


def test_positions_tell_rows_from_columns():
  places = sincos_positions(2, 3, 8)[0]
  assert places.shape == (7, 8)
  np.testing.assert_array_equal(places[0], 0)
  # Token 1 + 3 * row + column; quarter angles are position * (1, 0.01).
  row, column = 1, 2
  angles = lambda p: p * np.array([1.0, 0.01])  # noqa: E731
  expected = np.concatenate(
    [f(angles(p)) for p in (row, column) for f in (np.sin, np.cos)]
  )
  np.testing.assert_allclose(places[6], expected, rtol=1e-6)
  with pytest.raises(UserError, match="multiple of 4"):
    sincos_positions(2, 2, 6)


def test_image_that_patches_do_not_tile_is_a_user_error():
  with pytest.raises(UserError, match="patch_size=16"):
    abstract(VisionTransformer(variant="vit_debug"), 40)


@pytest.mark.parametrize(
  "module, words",
  [
    (ResNet(variant="resnet19"), "ResNet variant 'resnet19'.*'resnet18'"),
    (VisionTransformer(variant="vit_smal"), "ViT variant.*'vit_small'"),
    (models.MLP(widths=(4, 2), activation="gelo"), "activation.*'gelu'"),
    (models.MLP(widths=(4, 2), norm="x"), "norm 'x'.*Valid: affine"),
  ],
)
def test_a_module_by_itself_names_the_valid_words(module, words):
  inputs = jnp.zeros(
    (2, 3) if isinstance(module, models.MLP) else (2, 32, 32, 3)
  )
  with pytest.raises(UserError, match=words):
    jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, train=True))


@pytest.mark.parametrize("resize", ["antialias", "bicubic"])
def test_positions_are_resized_as_torch_does(golden, resize):
  """By timm 1.0.31, and by DINO's call of torch 2.14: 5 x 5 to 7 x 3."""
  arrays = golden("positions")
  found = positions.resized(arrays["positions"], 5, 7, 3, resize=resize)
  np.testing.assert_allclose(found, arrays[resize], atol=1e-5)
  other = arrays[{"antialias": "bicubic", "bicubic": "antialias"}[resize]]
  assert np.abs(found - other).max() > 0.1
  same = positions.resized(arrays["positions"], 5, 5, 5, resize=resize)
  np.testing.assert_array_equal(same, arrays["positions"])


@pytest.mark.parametrize("kind", ["sincos", "learned"])
def test_another_resolution_interpolates_positions(kind):
  """The tokens of a picture of twice the side; a network knows one grid."""
  backbone = models.build(
    backbone="vit_debug", image_size=8, patch_size=4, positions=kind
  ).backbone
  assert backbone.positions_grid == 2
  variables, _ = variables_and_images(backbone, 8)
  known = variables["params"].get("pos_embed")
  if known is None:
    known = sincos_positions(2, 2, 64)
  blank = jnp.zeros((1, 16, 16, 3))
  _, tokens = backbone.apply(variables, blank, train=False)
  bias = variables["params"]["patch_embed"]["bias"]
  expected = positions.resized(known, 2, 4, 4, resize="antialias")[:, 1:]
  close(tokens["stem"][:, 1:] - bias[None, None], expected)


def test_vit_pools_and_tokens():
  options = dict(backbone="vit_debug", image_size=8, patch_size=4)
  outputs = {}
  for pool in ("cls", "mean", "both"):
    backbone = models.build(**options, pool=pool, registers=3).backbone
    variables, images = variables_and_images(backbone, 8, batch=2)
    outputs[pool], tokens = backbone.apply(variables, images, train=False)
    assert outputs[pool].shape == (2, backbone.features)
    assert tokens["block0"].shape == (2, 1 + 3 + 4, 64)
  both = np.concatenate([outputs["cls"], outputs["mean"]], axis=1)
  close(outputs["both"], both)
  # The mean is of the patches alone, normalised one by one.
  x = np.asarray(tokens["block1"], np.float64)[:, 4:]
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  norm = variables["params"]["norm"]
  x = x * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
  close(outputs["mean"], x.mean(1))
  bare = models.build(**options, pool="mean", class_token=False).backbone
  variables, images = variables_and_images(bare, 8, batch=2)
  assert "cls_token" not in variables["params"]
  _, tokens = bare.apply(variables, images, train=False)
  assert tokens["block0"].shape == (2, 4, 64)


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(class_token=False), "pool='mean'"),
    (dict(pool="max"), "model.pool"),
    (dict(attention_heads=5), "5 attention heads"),
    (dict(registers=-1), "registers"),
    (dict(positions="fixed"), "positions"),
    (dict(backbone="resnet18", registers=2), "vision transformers"),
  ],
)
def test_options_of_vits_are_checked(options, words):
  options = dict(backbone="vit_debug", image_size=16, patch_size=8) | options
  with pytest.raises(UserError, match=words):
    models.build(**options)


@jax.custom_vjp
def leaves_garbage(x):
  """Hands x on; its gradient is not a number behind the fifth token."""
  return x


leaves_garbage.defvjp(
  lambda x: (x, None), lambda _, g: (g.at[:, 5:].set(jnp.nan),)
)


def test_a_token_more_for_cudnn_changes_nothing(monkeypatch):
  """5 tokens take the way of cuDNN's, computed by XLA for there is no GPU."""
  called, attend = [], jax.nn.dot_product_attention

  def on_cpu(q, k, v, *, implementation, key_value_seq_lengths=None):
    called.append((implementation, q.shape[1]))
    if key_value_seq_lengths is not None:
      k, v = leaves_garbage(k), leaves_garbage(v)
    return attend(q, k, v, key_value_seq_lengths=key_value_seq_lengths)

  monkeypatch.setattr(jax.nn, "dot_product_attention", on_cpu)
  found = []
  for attention in ("xla", "cudnn"):
    backbone = VisionTransformer("vit_debug", attention=attention)
    variables, images = variables_and_images(backbone, 32, batch=2)

    @jax.jit
    def run(params, backbone=backbone, images=images):
      def loss(params):
        variables = {"params": params}
        features, outputs = backbone.apply(variables, images, train=True)
        return jnp.sum(jnp.sin(features)), outputs

      return jax.value_and_grad(loss, has_aux=True)(params)

    found.append(run(variables["params"]))
  assert set(called) == {("xla", 5), ("cudnn", 6)}
  assert found[0][0][1]["block1"].shape == (2, 5, 64)
  jax.tree.map(lambda x, y: close(y, x, 1e-4), *found)


@pytest.mark.parametrize(
  "attention, options, expected",
  [
    ("auto", {}, "xla"),
    ("auto", {"cudnn": True}, "xla"),  # float32
    ("auto", {"cudnn": True, "dtype": jnp.bfloat16}, "cudnn"),
    ("xla", {"cudnn": True, "dtype": jnp.bfloat16}, "xla"),
    ("cudnn", {"cudnn": True, "dtype": jnp.bfloat16}, "cudnn"),
    # Heads of 12 numbers.
    ("auto", {"cudnn": True, "dtype": jnp.bfloat16, "head_size": 12}, "xla"),
  ],
)
def test_attention_follows_the_devices(attention, options, expected):
  chosen = choose_attention(attention, **{"head_size": 32} | options)
  assert chosen == expected


@pytest.mark.parametrize(
  "attention, message",
  [("cudnn", "needs an NVIDIA GPU"), ("flash", "'flash'.*auto, cudnn, xla")],
)
def test_attention_that_does_not_run_is_refused(attention, message):
  with pytest.raises(UserError, match=message):
    choose_attention(attention, head_size=32, dtype=jnp.bfloat16)


def test_the_gradient_of_gelu_is_made_of_its_input_alone():
  x = jnp.linspace(-6, 6, 101)
  slope = jax.vmap(jax.grad(gelu))(x)
  exact = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False)))(x)
  np.testing.assert_allclose(slope, exact, atol=1e-6)
  half = jax.vmap(jax.grad(gelu))(x.astype(jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=2e-2)
  kept = jax.eval_shape(lambda x: jax.vjp(gelu, x)[1], x)
  assert [leaf.shape for leaf in jax.tree.leaves(kept)] == [x.shape]
