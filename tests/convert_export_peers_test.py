"""Exports loaded by torch, timm and torchvision, which the extra peers has."""

import json

import exported
import numpy as np
import pytest
from PIL import Image

from cassle_jax.convert import served
from cassle_jax.data import decode
from cassle_jax.models import MLP
from cassle_jax.weights import torch_names

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

VIT = dict(
  model__backbone="vit_debug",
  model__width="0",
  model__patch_size="8",
  data__image_size="32",
)
# A head count that no shape tells.
HEADS = VIT | dict(model__attention_heads="8")
REGISTERS = dict(
  model__positions="learned",
  model__registers="2",
  model__layer_scale="0.1",
  model__mlp="gelu_tanh",
)
RESNET = dict(
  model__backbone="resnet18", model__width="64", data__image_size="64"
)


def features(model, run, images):
  """What a torch module makes of [b, h, w, 3] uint8."""
  policy = run.setup.policies[0]
  x = (images / 255 - np.array(policy.mean)) / np.array(policy.std)
  x = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))
  with torch.no_grad():
    return model.eval()(x).numpy()


def same(model, run, size):
  images = served.random_images(size, count=2)
  exported.close(features(model, run, images), exported.expected(run, images))


@pytest.mark.slow
@pytest.mark.parametrize(
  "overrides",
  [
    HEADS,
    VIT | REGISTERS,
    VIT | dict(model__pool="mean", model__positions="learned"),
    VIT | dict(model__pool="mean", model__class_token="False"),
    RESNET,
    RESNET | dict(model__backbone="resnet50"),
  ],
  ids=lambda overrides: "-".join(map(str, overrides.values())),
)
def test_timm_loads_it_both_ways_and_strictly(tmp_path, overrides):
  timm = pytest.importorskip("timm")
  run = exported.opened(**overrides)
  folder = exported.write(tmp_path / "out", run, "timm")
  size = run.config.data.image_size
  model = timm.create_model(f"local-dir:{folder}", pretrained=True)
  same(model, run, size)
  data = timm.data.resolve_model_data_config(model)
  assert tuple(data["mean"]) == tuple(run.setup.policies[0].mean)
  assert data["interpolation"] == "bicubic"
  config = json.loads((folder / "config.json").read_text())
  # checkpoint_path is loaded strictly.
  again = timm.create_model(
    config["architecture"],
    **config["model_args"],
    checkpoint_path=str(folder / "model.safetensors"),
  )
  same(again, run, size)
  # The card's own lines do to a picture what `embed` does.
  card = (folder / "README.md").read_text()
  code = card.split("```python\n")[1].split("```")[0]
  code = code.replace(f":{folder.name}", f":{folder}")
  code = code.replace(f"{folder.name}/model", f"{folder}/model")
  for height, width in ((size, size), (size + 9, 2 * size), (50, 50)):
    draw = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    picture = Image.fromarray(draw.astype(np.uint8))
    names = {"picture": picture}
    with torch.no_grad():
      exec(code, names)
    crop = decode.evaluation_crop(picture, size)
    wanted = exported.expected(run, crop[None])
    exported.close(names["features"].numpy(), wanted)
  if "patch_size" not in config["model_args"]:
    same(model, run, size + 32)  # A ResNet takes any size.
  else:
    wrong = config["model_args"] | {"num_heads": 2}
    other = timm.create_model(
      config["architecture"],
      **wrong,
      checkpoint_path=str(folder / "model.safetensors"),
    )
    with pytest.raises(AssertionError):
      same(other, run, size)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_torchvision_loads_it_by_the_lines_of_the_card(tmp_path, stem):
  pytest.importorskip("torchvision")
  overrides = RESNET | dict(model__stem=stem)
  run = exported.opened(**overrides)
  folder = exported.write(tmp_path / "out", run, "torchvision")
  card = (folder / "README.md").read_text()
  code = card.split("```python\n")[1].split("```")[0]
  code = code.replace(folder.name + "/", f"{folder}/").splitlines()
  names = {}
  exec("\n".join(code[:-1]), names)
  for size in (64, 96):
    same(names["model"], run, size)


@pytest.mark.slow
def test_torch_load_gives_the_official_layout(tmp_path):
  overrides = RESNET | dict(awareness__name="cassle+augself")
  run = exported.opened(**overrides)
  folder = exported.write(tmp_path / "out", run, "cassle")
  for mapped in (False, True):
    held = torch.load(folder / "model.pth", weights_only=True, mmap=mapped)
    assert set(held) == {"backbone", "projector", "ss_predictor"}
    for network in ("backbone", "projector"):
      wanted = torch_names.to_torch(run.variables[network])
      assert set(held[network]) == set(wanted)
      for name, array in wanted.items():
        np.testing.assert_array_equal(held[network][name].numpy(), array)
  # gamma of the published code by itself: Linear, BatchNorm, ReLU, ...
  layers, inside = [], run.setup.omega_size
  width, depth = run.config.model.gamma_width, run.config.model.gamma_depth
  for _ in range(depth):
    layers.append(torch.nn.Linear(inside, width, bias=False))
    layers += [torch.nn.BatchNorm1d(width), torch.nn.ReLU()]
    inside = width
  module = torch.nn.Sequential(*layers[:-1])
  module.load_state_dict(
    {
      name.removeprefix("aug_processor."): tensor
      for name, tensor in held["projector"].items()
      if name.startswith("aug_processor.")
    }
  )
  omega = torch.randn(4, run.setup.omega_size)
  with torch.no_grad():
    found = module.eval()(omega).numpy()
  own = {
    kind: tree["gamma"] for kind, tree in run.variables["projector"].items()
  }
  widths = (width,) * depth
  wanted = MLP(widths, norm="affine").apply(own, omega.numpy(), train=False)
  exported.close(found, np.asarray(wanted))
