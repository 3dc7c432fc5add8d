"""Every layout, written by torch, imported: features as torch has them.

Networks are those of torchvision and timm with random weights, names those of
the projects' own code.
"""

import argparse
import json
import types

import jax
import numpy as np
import pytest

from cassle_jax import convert
from cassle_jax.models import positions
from cassle_jax.training import trained
from cassle_jax.weights import reader

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")
pytestmark = pytest.mark.slow


def randomized(module, seed=0):
  """The module with weights for which every layer matters, in eval mode."""
  draw = torch.Generator().manual_seed(seed)
  for name, x in module.state_dict().items():
    if not x.dtype.is_floating_point:
      continue
    if name.endswith("running_var") or x.ndim == 1 and "weight" in name:
      x.uniform_(0.5, 1.5, generator=draw)
    elif x.ndim == 1:
      x.uniform_(-0.2, 0.2, generator=draw)
    elif x.ndim == 3:
      x.normal_(0, 0.3, generator=draw)
    else:
      x.normal_(0, 1, generator=draw)
      x /= np.sqrt(x[0].numel())
  return module.eval()


def resnet(name="resnet18", seed=0):
  module = getattr(torchvision.models, name)(num_classes=7)
  return randomized(module, seed)


def vit(heads=1, seed=0, **options):
  """A ViT of two blocks; its positions are resized by timm's rule."""
  options = {
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 64,
    "depth": 2,
    "num_classes": 0,
    "dynamic_img_size": True,
    **options,
  }
  module = timm.models.VisionTransformer(num_heads=heads, **options)
  return randomized(module, seed)


def sincos(module):
  """The same with MoCo v3's fixed positions."""
  size = module.pos_embed.shape[-1]
  places = positions.sincos_positions(14, 14, size)
  module.pos_embed.data = torch.as_tensor(places)
  return module


def under(prefix, state):
  return {f"{prefix}{name}": x for name, x in state.items()}


def mlp(*sizes, affine=True):
  """Linear, BatchNorm, ReLU, ..., Linear, BatchNorm."""
  layers = []
  for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
    last = i == len(sizes) - 2
    layers += [torch.nn.Linear(a, b), torch.nn.BatchNorm1d(b, affine=affine)]
    layers += [] if last else [torch.nn.ReLU()]
    if not last:
      layers[-2] = torch.nn.BatchNorm1d(b)
  return randomized(torch.nn.Sequential(*layers), 5)


def headless(module):
  module.fc = torch.nn.Identity()
  return module


def bare(module):
  """Without the classifier."""
  return {k: v for k, v in module.state_dict().items() if k[:3] != "fc."}


def children(module):
  return torch.nn.Sequential(*list(module.children())[:-1]).state_dict()


def layouts():
  """Name -> function of () that gives (tree, module, flags, words of heads)."""

  def moco():
    q, k = resnet(), resnet(seed=1)
    head = torch.nn.Sequential(
      torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 128)
    )
    state = under("module.encoder_q.", bare(q))
    state |= under("module.encoder_q.fc.", head.state_dict())
    state |= under("module.encoder_k.", k.state_dict())
    state["module.queue"] = torch.zeros(128, 16)
    tree = {"epoch": 200, "arch": "resnet18", "state_dict": state}
    return tree, q, [], "projector"

  def moco_v1():
    q = resnet()
    tree = {"state_dict": under("module.encoder_q.", q.state_dict())}
    return tree, q, [], "projector"

  def mocov3():
    q = resnet()
    state = under("module.base_encoder.", bare(q))
    head = mlp(512, 32, 32, 16, affine=False)
    state |= under("module.base_encoder.fc.", head.state_dict())
    state |= under("module.momentum_encoder.", bare(resnet(seed=1)))
    predictor = mlp(16, 32, 16, affine=False).state_dict()
    state |= under("module.predictor.", predictor)
    return {"state_dict": state}, q, [], "projector, predictor"

  def mocov3_vit():
    q = sincos(vit(heads=12, embed_dim=96))
    state = under("module.base_encoder.", q.state_dict())
    state |= under("module.momentum_encoder.", q.state_dict())
    return {"state_dict": state}, q, [], "none"

  def simsiam():
    q = resnet()
    state = under("module.encoder.", bare(q))
    head = mlp(512, 32, 32, 16, affine=False).state_dict()
    state |= under("module.encoder.fc.", head)
    predictor = torch.nn.Sequential(
      *mlp(16, 8)[:2], torch.nn.ReLU(), torch.nn.Linear(8, 16)
    )
    state |= under("module.predictor.", predictor.state_dict())
    return {"state_dict": state}, q, [], "projector, predictor"

  def barlow():
    q = resnet()
    state = under("module.backbone.", bare(q))
    head = mlp(512, 32, 32)[:-1].state_dict()
    state |= under("module.projector.", head)
    state |= under("module.bn.", torch.nn.BatchNorm1d(32).state_dict())
    return {"epoch": 1, "model": state}, q, [], "projector"

  def vicreg():
    q = resnet()
    state = under("module.backbone.", bare(q))
    state |= under("module.projector.", mlp(512, 32, 32)[:-1].state_dict())
    return {"epoch": 1, "model": state}, q, [], "projector"

  def swav():
    q = resnet()
    head = torch.nn.Sequential(
      *mlp(512, 32)[:2], torch.nn.ReLU(), torch.nn.Linear(32, 16)
    )
    state = under("module.", bare(q))
    state |= under("module.projection_head.", head.state_dict())
    state["module.prototypes.weight"] = torch.randn(9, 16)
    return {"state_dict": state}, q, [], "projector, prototypes"

  def dino():
    q, k = vit(), vit(seed=1)
    head = {}
    for i, (a, b) in enumerate(((64, 32), (32, 32), (32, 16))):
      head[f"mlp.{2 * i}.weight"] = torch.randn(b, a)
      head[f"mlp.{2 * i}.bias"] = torch.randn(b)
    head["last_layer.weight_g"] = torch.ones(9, 1)
    head["last_layer.weight_v"] = torch.randn(9, 16)
    tree = {
      "student": under("module.backbone.", k.state_dict())
      | under("module.head.", head),
      "teacher": under("backbone.", q.state_dict()) | under("head.", head),
      "args": argparse.Namespace(arch="vit_small"),
    }
    return tree, with_dinos_resize(q), [], "projector, prototypes"

  def dino_hub():
    q = vit()
    return q.state_dict(), with_dinos_resize(q), ["--layout=dino"], "none"

  def dinov2():
    q = vit(img_size=112, patch_size=14, init_values=1.0)
    state = dict(q.state_dict(), mask_token=torch.zeros(1, 64))
    return state, with_dinos_resize(q), [], "none"

  def dinov2_registers():
    q = vit(
      img_size=112,
      patch_size=14,
      init_values=1.0,
      reg_tokens=4,
      no_embed_class=True,
    )
    state = dict(q.state_dict(), mask_token=torch.zeros(1, 64))
    state["register_tokens"] = state.pop("reg_token")
    cls = torch.randn(1, 1, 64) / 4
    state["pos_embed"] = torch.cat([cls, state["pos_embed"]], 1)
    state["cls_token"] = state["cls_token"] - cls
    state = {k.replace("blocks.", "blocks.0."): v for k, v in state.items()}
    return state, q, [], "none"

  def giant():
    q = vit(
      init_values=1.0,
      mlp_layer=timm.layers.SwiGLUPacked,
      act_layer=torch.nn.SiLU,
      mlp_ratio=176 * 2 / 64,
    )
    return q.state_dict(), q, ["--layout=timm"], "none"

  def timm_registers():
    q = vit(reg_tokens=4, no_embed_class=True)
    return q.state_dict(), q, [], "none"

  def timm_classifier():
    q = vit(num_classes=5)
    headed = q.state_dict()
    q.head = torch.nn.Identity()
    return headed, q, [], "none"

  def byol():
    q = resnet()
    state = under("module.online_network.encoder.", children(q))
    head = torch.nn.Sequential(*mlp(512, 32)[:2], torch.nn.ReLU())
    head.append(torch.nn.Linear(32, 16))
    state |= under("module.online_network.projetion.net.", head.state_dict())
    state |= under("module.target_network.encoder.", children(resnet(seed=1)))
    return {"epoch": 1, "steps": 2, "model": state}, q, [], "projector"

  def solo():
    q = resnet()
    state = under("backbone.", bare(q))
    state |= under("momentum_backbone.", bare(resnet(seed=1)))
    state |= under("projector.", mlp(512, 32, 16)[:-1].state_dict())
    state["classifier.weight"] = torch.zeros(10, 512)
    tree = {"state_dict": state, "pytorch-lightning_version": "1.9"}
    tree["hyper_parameters"] = types.SimpleNamespace(lr=1)
    return tree, q, [], "projector"

  def lightly():
    q = resnet()
    state = under("backbone.", children(q))
    head = mlp(512, 32, 16)[:-1].state_dict()
    state |= under("projection_head.layers.", head)
    return {"state_dict": state}, q, [], "projector"

  def lightly_own():
    q = resnet()
    q.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    q.maxpool = torch.nn.Identity()
    q = randomized(q)
    state = under("backbone.", bare(q))
    state = {k.replace("downsample", "shortcut"): v for k, v in state.items()}
    state["projection_head.layers.0.weight"] = torch.zeros(4, 512)
    return {"state_dict": state}, q, [], "projector"

  def cassle():
    q = resnet()
    tree = {"backbone": bare(q), "projector": mlp(512, 32, 16).state_dict()}
    return tree | {"optimizers": [], "trainer": {}}, q, [], "projector"

  def torchvision_resnet50():
    q = resnet("resnet50")
    return q.state_dict(), q, [], "none"

  def compiled():
    q = resnet("resnet34")
    return under("_orig_mod.module.", q.state_dict()), q, [], "none"

  return {
    name: make
    for name, make in locals().items()
    if isinstance(make, types.FunctionType)
  }


def with_dinos_resize(module):
  """The module with DINO's own resizing of positions."""

  def resized(self, x):
    batch, height, width, size = x.shape
    cls, patches = module.pos_embed[:, :1], module.pos_embed[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    if (height, width) != (side, side):
      square = patches.reshape(1, side, side, size).permute(0, 3, 1, 2)
      square = torch.nn.functional.interpolate(
        square,
        scale_factor=((height + 0.1) / side, (width + 0.1) / side),
        mode="bicubic",
      )
      patches = square.permute(0, 2, 3, 1).reshape(1, -1, size)
    x = x.reshape(batch, -1, size)
    x = torch.cat([module.cls_token.expand(batch, -1, -1), x], 1)
    return x + torch.cat([cls, patches], 1)

  module._pos_embed = types.MethodType(resized, module)
  return module


def features(run, images):
  opened = trained.open_run(run)
  embed = jax.jit(
    lambda v, x: trained.embed(opened._replace(variables=v), x)[0]
  )
  return np.asarray(embed(opened.variables, images.transpose(0, 2, 3, 1)))


@pytest.mark.parametrize("name", layouts())
def test_features_equal_torchs(tmp_path, name, capsys):
  tree, module, flags, heads = layouts()[name]()
  path = str(tmp_path / "weights.pth")
  legacy = name in ("moco", "simsiam", "swav")
  torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
  run = str(tmp_path / "run")
  convert.main(["import", path, f"--workdir={run}", *flags])
  assert f"heads: {heads} imported" in capsys.readouterr().err
  if hasattr(module, "fc"):
    headless(module)
  draw = np.random.default_rng(0)
  for size in (224, 112):
    images = draw.normal(size=(2, 3, size, size)).astype(np.float32)
    with torch.no_grad():
      expected = module(torch.as_tensor(images)).flatten(1).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
      features(run, images), expected, rtol=0, atol=1e-4 * scale
    )


def test_timms_own_folder(tmp_path):
  """model.safetensors beside config.json: heads and normalisation from it."""
  save_file = pytest.importorskip("safetensors.torch").save_file
  module = vit(heads=4)
  path = str(tmp_path / "model.safetensors")
  save_file(module.state_dict(), path)
  config = {
    "architecture": "vit_small_patch16_224",
    "model_args": {"num_heads": 4},
    "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
  }
  with open(tmp_path / "config.json", "w") as file:
    json.dump(config, file)
  run = str(tmp_path / "run")
  convert.main(["import", path, f"--workdir={run}"])
  opened = trained.open_run(run)
  assert opened.config.model.attention_heads == 4
  assert opened.config.augment.mean == (0.1, 0.2, 0.3)
  images = np.random.default_rng(0).normal(size=(2, 3, 224, 224))
  with torch.no_grad():
    expected = module(torch.as_tensor(images, dtype=torch.float32)).numpy()
  scale = np.abs(expected).max()
  found = features(run, images.astype(np.float32))
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)


def googles(module, old):
  """A timm ViT under Google's names; tanh GELU is the module's own."""
  state = {k: v.numpy() for k, v in module.state_dict().items()}
  size, heads = 64, 2
  attention, second, mlp_name = (
    ("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
    if old
    else ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
  )
  flat = {
    "cls": state["cls_token"],
    "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
    "embedding/bias": state["patch_embed.proj.bias"],
    "Transformer/encoder_norm/scale": state["norm.weight"],
    "Transformer/encoder_norm/bias": state["norm.bias"],
    "head/kernel": np.zeros((64, 5), np.float32),
  }
  place = "Transformer/posembed_input/pos_embedding"
  flat[place if old else "pos_embedding"] = state["pos_embed"]
  for i in range(2):
    ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
    for norm, name in (("norm1", "LayerNorm_0"), ("norm2", second)):
      flat[f"{theirs}{name}/scale"] = state[f"{ours}{norm}.weight"]
      flat[f"{theirs}{name}/bias"] = state[f"{ours}{norm}.bias"]
    kernels = np.split(state[f"{ours}attn.qkv.weight"], 3)
    biases = np.split(state[f"{ours}attn.qkv.bias"], 3)
    for name, kernel, bias in zip(
      ("query", "key", "value"), kernels, biases, strict=True
    ):
      flat[f"{theirs}{attention}/{name}/kernel"] = kernel.T.reshape(
        size, heads, size // heads
      )
      flat[f"{theirs}{attention}/{name}/bias"] = bias.reshape(heads, -1)
    out = state[f"{ours}attn.proj.weight"].T.reshape(heads, -1, size)
    flat[f"{theirs}{attention}/out/kernel"] = out
    flat[f"{theirs}{attention}/out/bias"] = state[f"{ours}attn.proj.bias"]
    for j in (0, 1):
      weight = state[f"{ours}mlp.fc{j + 1}.weight"].T
      flat[f"{theirs}{mlp_name}/Dense_{j}/kernel"] = weight
      bias = state[f"{ours}mlp.fc{j + 1}.bias"]
      flat[f"{theirs}{mlp_name}/Dense_{j}/bias"] = bias
  return flat


@pytest.mark.parametrize("kind", ["vit_jax", "scanned", "gap"])
def test_googles_npz(tmp_path, kind):
  options = {"act_layer": lambda: torch.nn.GELU(approximate="tanh")}
  module = vit(heads=2, **options)
  flat = googles(module, old=kind == "vit_jax")
  if kind != "vit_jax":
    # big_vision adds no position to cls.
    module.pos_embed.data[:, 0] = 0
    flat["pos_embedding"] = flat["pos_embedding"][:, 1:]
  if kind == "scanned":
    scanned = {}
    for name in [n for n in flat if "encoderblock_0" in n]:
      both = [flat.pop(name), flat.pop(name.replace("block_0/", "block_1/"))]
      scanned[name.replace("block_0/", "block/")] = np.stack(both)
    flat = {f"params/{k}": v for k, v in {**flat, **scanned}.items()}
  if kind == "gap":
    del flat["cls"]
  path = str(tmp_path / "weights.npz")
  np.savez(path, **flat)
  run = str(tmp_path / "run")
  convert.main(["import", path, f"--workdir={run}"])
  for size in (224, 112):
    images = np.random.default_rng(0).normal(size=(2, 3, size, size))
    images = images.astype(np.float32)
    with torch.no_grad():
      if kind == "gap":
        module.pos_embed.data[:, 0] = 0
        x = module.patch_embed(torch.as_tensor(images))
        x = module._pos_embed(x)[:, 1:]
        expected = module.norm(module.blocks(x)).mean(1).numpy()
      else:
        expected = module(torch.as_tensor(images)).numpy()
    scale = np.abs(expected).max()
    found = features(run, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)


def test_reads_what_torch_load_reads(tmp_path):
  """`torch.load(weights_only=True)` on both formats, bit for bit."""
  base = torch.randn(4, 6)
  tree = {
    "model": resnet().state_dict(),
    "views": [base.t(), base[1:3, ::2], base[None], base.expand(2, 4, 6)[:1]],
    "types": [
      base.to(getattr(torch, name))
      for name in ("float64", "float16", "int32", "int8", "uint8", "bool")
    ],
    "odd": [torch.tensor(2.5), torch.zeros(0, 3), torch.nn.Parameter(base)],
  }
  path = str(tmp_path / "file.pth")
  for zipped in (True, False):
    torch.save(tree, path, _use_new_zipfile_serialization=zipped)
    oracle = torch.load(path, weights_only=True)
    weights = reader.read(path)
    count = 0
    for name, expected in oracle["model"].items():
      found = reader.array(weights, f"model.{name}")
      np.testing.assert_array_equal(found, expected.numpy(), strict=True)
      count += 1
    for group in ("views", "types", "odd"):
      for i, expected in enumerate(oracle[group]):
        found = reader.array(weights, f"{group}.{i}")
        expected = expected.detach().numpy()
        np.testing.assert_array_equal(found, expected, strict=True)
        count += 1
    assert count == len(weights.tensors)


@pytest.mark.parametrize("grid, size", [(14, 16), (14, 7), (37, 16), (16, 14)])
def test_positions_are_resized_by_timms_rule(grid, size):
  known = torch.randn(1, 1 + grid * grid, 8)
  expected = timm.layers.resample_abs_pos_embed(known, [size, size])
  found = positions.resized(known.numpy(), grid, size, size, resize="antialias")
  np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
