"""`convert import`: an official-layout checkpoint, and what is refused."""

import functools
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
import torch_save
from random_variables import make, shapes

from cassle_jax import augment, convert, evaluate
from cassle_jax.convert import run as run_lib
from cassle_jax.errors import UserError
from cassle_jax.models import ResNet, VisionTransformer
from cassle_jax.training import trained
from cassle_jax.weights import (
  beside,
  foreign,
  reader,
  recognize,
  torch_names,
)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIELDS = ("blur", "color", "color_diff", "crop", "grayscale")
CASE = "mlp_cat/"


def state_of(network, size=32, seed=0):
  """A state dict of random weights."""
  variables = make(network, jnp.zeros((1, size, size, 3)), seed=seed)
  return torch_names.to_torch(variables)


def resnet(**options):
  return state_of(ResNet(width=2, stem="small", **options))


def vit(**options):
  options = {"patch_size": 8, "positions": "learned", **options}
  return state_of(VisionTransformer(variant="vit_debug", **options))


def save(folder, tree, name="file.pth", kind="zip"):
  path = folder / name
  path.write_bytes(torch_save.FORMATS[kind](tree))
  return str(path)


def run(path, folder, *flags):
  assert convert.main(["import", path, f"--workdir={folder}", *flags]) == 0
  return str(folder)


@pytest.fixture(scope="module")
def golden_projector(request):
  """The arrays of tests/golden's projector, by name."""
  path = request.path.parent / "golden" / "aug_projector.npz"
  found, start = {}, 0
  with np.load(path) as packed:
    values = packed["values"]
    for name, text in zip(packed["names"], packed["shapes"], strict=True):
      shape = tuple(int(n) for n in text.decode().split("x"))
      stop = start + int(np.prod(shape))
      name = name.decode()
      if name.startswith(CASE):
        found[name.removeprefix(CASE)] = values[start:stop].reshape(shape)
      start = stop
  return found


def official(golden):
  """A checkpoint as gmum/CASSLE's pretrain_simclr.py saves it."""
  return {
    "backbone": resnet(),
    "projector": {
      k.removeprefix("sd/"): v for k, v in golden.items() if k[:3] == "sd/"
    },
    "optimizers": [{"state": {0: {"momentum_buffer": np.ones(3, "f4")}}}],
    "schedulers": [{"last_epoch": 200}],
    "trainer": {"epoch": 200},
  }


@pytest.mark.parametrize("kind", torch_save.FORMATS)
def test_an_official_cassle_file(tmp_path, golden_projector, kind, capsys):
  """Golden projections hold through the file; wrong omega is answered."""
  file = save(tmp_path, official(golden_projector), kind=kind)
  folder = run(file, tmp_path / "run")
  said = capsys.readouterr().err
  assert "CASSLE, conditioned projector" in said
  assert "left over: optimizers" in said
  opened = trained.open_run(folder)
  assert opened.step == 0 and opened.config.awareness.name == "cassle"
  assert opened.config.data.image_size == 32
  packed, omega, start = golden_projector["omega"], {}, 0
  for field in FIELDS:
    stop = start + augment.omega.FIELDS[field]
    omega[field] = packed[:, start:stop]
    start = stop
  expected = golden_projector["out_eval"]
  np.testing.assert_allclose(
    trained.project(opened, golden_projector["x"], omega),
    expected,
    rtol=0,
    atol=1e-4 * np.abs(expected).max(),
  )
  if kind == "zip":
    flags = ["--config.tasks=wrong_omega", "--config.wrong_omega.bins=5"]
    flags += ["--config.wrong_omega.pictures=32"]
    flags += ["--config.wrong_omega.operations=crop,jitter"]
    flags += [f"--config.data_dir={tmp_path}", f"--workdir={folder}"]
    config = f"--config={ROOT}/configs/eval/all.py"
    assert evaluate.main([config, *flags]) == 0
    with open(f"{folder}/eval/wrong_omega/earth.json") as stream:
      assert np.isfinite(json.load(stream)["value"])


def test_flags_reach_the_config(tmp_path):
  file = save(tmp_path, {"teacher": vit()})
  flags = ["--layout=timm", "--heads=4", "--pool=both", "--image_size=48"]
  flags += ["--normalization=swav", "--method=byol", "--prefix=teacher"]
  with pytest.raises(UserError, match="not the layout 'timm'"):
    run(file, tmp_path / "run", *flags)
  file = save(tmp_path, vit())
  with pytest.raises(UserError, match="--layout=dino.*--layout=timm"):
    run(file, tmp_path / "run")
  flags.remove("--prefix=teacher")
  folder = run(file, tmp_path / "run", *flags, "--config.seed=7")
  config = trained.open_run(folder).config
  assert config.model.attention_heads == 4 and config.model.pool == "both"
  assert config.model.positions_grid == 4 and config.data.image_size == 48
  assert config.augment.std == (0.228, 0.224, 0.225)
  assert config.method.name == "byol" and config.seed == 7


@functools.cache
def cases():
  """What is refused: (tree, flags, words)."""
  padded = {f"backbone.{k}": v for k, v in resnet().items()}
  lightning = {"state_dict": padded}
  solo = {**padded, "classifier.weight": np.ones((2, 16), "f4")}
  wide = resnet()
  wide["layer2.0.conv1.weight"] = wide["layer2.0.conv1.weight"][:3]
  positionless = vit()
  del positionless["pos_embed"]
  deep = {"conv1.0.weight": np.ones((2, 3, 3, 3), "f4"), **resnet()}
  moco = {
    f"module.encoder_{x}.{k}": v for x in "qk" for k, v in resnet().items()
  }
  two = {"a": resnet(), "b": resnet()}
  odd = dict(resnet(), **{"layer1.0.se.weight": np.ones(2, "f4")})
  return {
    "classifier": (
      {"weight": np.ones((10, 512), "f4"), "bias": np.ones(10, "f4")},
      [],
      "classifier without its backbone",
    ),
    "padding of 2": ({"state_dict": solo}, [], "pads its 3x3 stem by 2"),
    "ambiguous": (lightning, [], "--layout=solo_learn.*--layout=lightly"),
    "two backbones": (two, ["--layout=torchvision"], "not the layout"),
    "no layout": (two, [], "no layout that is known"),
    "wrong width": (wide, [], "layer2.0.conv1.weight"),
    "no positions": (positionless, ["--layout=timm"], "no positions"),
    "heads": (vit(), ["--layout=timm", "--heads=7"], "7 attention heads"),
    "heads of a ResNet": (resnet(), ["--heads=2"], "leave it out"),
    "deep stem": (
      {k: v for k, v in deep.items() if k != "conv1.weight"},
      [],
      "deep stem",
    ),
    "unknown parts": (odd, [], "unused layer1.0.se.weight"),
    "layout": (moco, ["--layout=mocov4"], "--layout 'mocov4'"),
    "network": (moco, ["--network=both"], "--network 'both'"),
    "prefix": (moco, ["--prefix=encoder_x"], "--prefix=encoder_x"),
    "pool": (vit(), ["--layout=timm", "--pool=max"], "--pool 'max'"),
    "method": (moco, ["--method=moco"], "--method 'moco'"),
    "normalization": (moco, ["--normalization=x"], "--normalization 'x'"),
    "size": (vit(), ["--layout=timm", "--image_size=30"], "does not divide"),
    "config": (moco, ["--config.model.widht=3"], "widht"),
  }


def test_what_cannot_be_imported_is_one_line(tmp_path):
  for case, (tree, flags, words) in cases().items():
    file = save(tmp_path, tree)
    with pytest.raises(UserError, match=words) as caught:
      run(file, tmp_path / "run", *flags)
    assert "\n" not in str(caught.value), case
    assert not (tmp_path / "run").exists(), case


def taken_of(path):
  return foreign.take(recognize.recognize(reader.read(str(path))))


def test_the_size_is_that_of_timms_config(tmp_path):
  file = save(tmp_path, resnet(), name="model.pth")
  assert taken_of(file).image_size == 32  # By its stem.
  for size, expected in (([3, 64, 64], 64), ([3, 64, 48], 32), ("x", 32)):
    config = {"pretrained_cfg": {"input_size": size}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    taken = taken_of(file)
    assert taken.image_size == expected
    config = run_lib.configure(taken)
    assert config.data.image_size == expected
    config = run_lib.configure(taken, image_size=48)
    assert config.data.image_size == 48


def test_a_folder_stands_for_the_one_file_in_it(tmp_path):
  (tmp_path / "README.md").write_text("")
  file = save(tmp_path, resnet(), name="a.pth")
  assert reader.read(str(tmp_path)).path == file
  save(tmp_path, resnet(), name="b.ckpt")
  with pytest.raises(UserError, match="2 weights files.*: a.pth, b.ckpt"):
    reader.read(str(tmp_path))
  (tmp_path / "hub").mkdir()
  for name in ("model.safetensors", "model.pth", "pytorch_model.bin"):
    save(tmp_path / "hub", resnet(), name=name)
  found = reader.read(f"{tmp_path}/hub")
  assert os.path.basename(found.path) == "model.safetensors"


@pytest.mark.parametrize(
  "text, words",
  [
    ("{", "is damaged; export again, or delete it"),
    ("[]", "is damaged"),
    ('{"format": 2}', "is not of format 1"),
    ('{"format": 1, "mean": [1, 2]}', "has mean"),
    ('{"format": 1, "omega": [1]}', "has omega"),
    ('{"format": 1, "image_size": "64"}', "has image_size '64'"),
  ],
)
def test_a_damaged_description_is_one_line(tmp_path, text, words):
  file = save(tmp_path, resnet(), name="model.pth")
  (tmp_path / beside.NAME).write_text(text)
  with pytest.raises(UserError, match=words) as caught:
    taken_of(file)
  assert "\n" not in str(caught.value)


def test_the_command_itself(tmp_path, capsys):
  for arguments, words in (
    ([], "import"),
    (["improt"], "Did you mean 'import'"),
    (["import", "x.pth"], "--workdir"),
    (["import", "x.pth", f"--workdir={tmp_path}/r"], "no weights file x.pth"),
    (
      ["import", str(tmp_path), f"--workdir={tmp_path}/r"],
      "a folder without a weights file",
    ),
  ):
    with pytest.raises(UserError, match=words):
      convert.main(arguments)
  assert convert.main(["--help"]) == 0
  assert "import FILE" in capsys.readouterr().out
  file = save(tmp_path, resnet())
  with pytest.raises(UserError, match="not empty"):
    run(file, tmp_path)


def test_templates_are_those_of_the_networks():
  """No network here is left without a name in torch's layout."""
  network = VisionTransformer(
    variant="vit_debug",
    patch_size=8,
    positions="learned",
    registers=2,
    layer_scale=1.0,
    mlp="swiglu",
  )
  names = torch_names.torch_names(shapes(network, jnp.zeros((1, 16, 16, 3))))
  assert {"pos_embed", "reg_token", "blocks.1.ls2.gamma"} <= set(names.values())
  assert "blocks.0.mlp.w12.weight" in names.values()
