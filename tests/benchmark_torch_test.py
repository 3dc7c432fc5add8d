"""The torch peer: its networks are ours in size, its losses ours in value."""

import os
import sys

import jax
import numpy as np
import pytest

from cassle_jax import benchmark, models
from cassle_jax import config as config_lib
from cassle_jax.benchmark import program, torch_networks, torch_step
from cassle_jax.errors import UserError
from cassle_jax.methods import mocov2, mocov3, simclr

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIMCLR = os.path.join(ROOT, "configs", "simclr_resnet50.py")


def test_torch_missing_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
  monkeypatch.setitem(sys.modules, "torch", None)
  arguments = [f"--config={SIMCLR}", "--compare", "torch"]
  arguments.append("--config.mesh.data=1")
  with pytest.raises(UserError, match=r"cassle_jax\[peers\]") as error:
    benchmark.main(["step", *arguments])
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "overrides,message",
  [
    (["method.name=byol", "method.temperature=None"], "method for --compare"),
    (["accumulate=2"], "accumulate=2"),
  ],
)
def test_what_the_peer_lacks_is_refused(overrides, message):
  config = config_lib.load(f"{SIMCLR}:vanilla", [])
  for text in overrides:
    path, value = text.split("=")
    *section, key = path.split(".")
    node = config[section[0]] if section else config
    with node.ignore_type():
      node[key] = {"None": None, "2": 2}.get(value, value)
  with pytest.raises(UserError, match=message):
    torch_step.check(config)


@pytest.mark.parametrize(
  "name,image_size", [("resnet18", 64), ("resnet50", 64), ("vit_small", 224)]
)
def test_networks_have_as_many_parameters_as_ours(name, image_size):
  pytest.importorskip("torch")
  if name.startswith("vit"):
    other = torch_networks.vit(name, image_size=image_size)
  else:
    other = torch_networks.resnet(name)
  ours = models.build(
    backbone=name, image_size=image_size, projector=(8,), omega_size=14
  ).backbone
  shapes = jax.eval_shape(
    lambda key: ours.init(
      key, np.zeros((1, image_size, image_size, 3), np.float32), train=False
    ),
    jax.random.key(0),
  )
  count = program.count(shapes["params"])
  assert sum(p.numel() for p in other.parameters()) == count


def test_losses_are_ours():
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  a, b, c, d = rng.normal(size=(4, 6, 5)).astype(np.float32)
  same = torch.nn.ModuleDict(
    {name: torch.nn.Identity() for name in ("backbone", "projector")}
  )
  online = torch.nn.ModuleDict({**same, "predictor": torch.nn.Identity()})
  views = [torch.from_numpy(a), torch.from_numpy(b)]
  loss, _ = torch_step._simclr(online, None, None, 0.3)(views)
  expected, _ = simclr.nt_xent(a, b, temperature=0.3)
  np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)
  loss, _ = torch_step._mocov3(online, same, None, 0.3)(views)
  pairs = (a, b), (b, a)
  parts = [mocov3.contrast_pairs(*p, temperature=0.3)[0] for p in pairs]
  np.testing.assert_allclose(loss.item(), sum(parts), rtol=1e-5)
  queue = np.concatenate([c, d])
  queue /= np.linalg.norm(queue, axis=1, keepdims=True)
  run = torch_step._mocov2(online, same, torch.from_numpy(queue), 0.3)
  loss, keys = run(views)
  expected, _ = mocov2.info_nce(a, b, queue, temperature=0.3)
  np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)
  np.testing.assert_allclose(keys.norm(dim=1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  "config,optimizer",
  [
    ("simclr_resnet50", "sgd"),
    ("mocov2_resnet50", "lars"),
    ("mocov3_vit", "adamw"),
  ],
)
def test_a_step_trains(config, optimizer):
  torch = pytest.importorskip("torch")
  pytest.importorskip("kornia")
  overrides = ["mesh.data=1", "precision=float32", f"optim.name={optimizer}"]
  if "vit" in config:
    overrides += ["model.backbone=vit_debug"]
  else:
    overrides += ["model.backbone=resnet18", "model.stem=small"]
  path = os.path.join(ROOT, "configs", f"{config}.py:vanilla")
  loaded = config_lib.load(path, overrides)
  loaded.batch_size, loaded.data.image_size = 8, 32
  if config.startswith("mocov2"):
    loaded.model.bn_groups, loaded.method.queue_size = 1, 32
  made = torch_step.check(loaded)()
  assert made.batch_size == 8 and made.figures["parameters"] > 1e5
  made.step()
  assert torch.get_num_threads() >= 1
