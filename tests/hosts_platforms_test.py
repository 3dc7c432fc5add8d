"""What a mesh's devices are, and that the choices of a run follow them."""

import functools
import types

import jax
import numpy as np
import pytest

from cassle_jax import augment
from cassle_jax import config as config_lib
from cassle_jax.augment import forms
from cassle_jax.hosts import platforms, sharding
from cassle_jax.hosts.platforms import Platform
from cassle_jax.training import setup as setup_lib


def mesh_of(**attributes):
  device = types.SimpleNamespace(**attributes)
  return types.SimpleNamespace(devices=np.array([[device]], dtype=object))


@pytest.mark.parametrize(
  "attributes, expected",
  [
    ({"platform": "tpu"}, Platform("tpu")),
    ({"platform": "gpu", "compute_capability": "9.0"}, Platform("gpu", True)),
    ({"platform": "cuda", "compute_capability": "8.0"}, Platform("gpu", True)),
    ({"platform": "gpu", "compute_capability": "7.5"}, Platform("gpu")),
    ({"platform": "gpu", "compute_capability": "gfx90a"}, Platform("gpu")),
  ],
)
def test_devices_by_what_they_say(attributes, expected):
  assert platforms.of(mesh_of(**attributes)) == expected


def test_this_machine_is_a_cpu():
  assert platforms.of(sharding.make_mesh()) == Platform("cpu")


@pytest.mark.parametrize(
  "platform, expected", [("cpu", "banded"), ("gpu", "dense"), ("tpu", "dense")]
)
def test_the_form_of_augmentation_is_told(platform, expected):
  assert forms.resolve("auto", platform) == expected
  assert forms.resolve("dense", platform) == "dense"
  assert forms.resolve("auto") == "banded"  # Of JAX's default backend.


@pytest.mark.parametrize("awareness", ["cassle", "looc", "ai"])
def test_a_run_is_made_for_its_mesh_not_for_this_cpu(awareness, monkeypatch):
  config = config_lib.default()
  config.method.name = "mocov2"
  config.awareness.name = awareness
  config.model.backbone = "resnet18" if awareness == "looc" else "vit_debug"
  config.precision = "bfloat16"
  config.augment.rotation = 1.0 if awareness == "looc" else 0.0
  config = setup_lib.resolve(config)
  asked = []

  def make(*arguments, form, stored):
    asked.append(form)

  monkeypatch.setattr(augment, "make", make)
  monkeypatch.setattr(augment.pipeline, "make", make)
  index = {"index": 0} if awareness == "ai" else {}
  for platform, form, attention in (
    (Platform("cpu"), "banded", "xla"),
    (Platform("gpu", cudnn_attention=True), "dense", "cudnn"),
    (Platform("tpu"), "dense", "xla"),
  ):
    asked.clear()
    made = setup_lib.build(config, platform)
    if awareness != "looc":
      assert made.networks.backbone.attention == attention
    views = functools.partial(
      made.awareness.views, policies=made.policies, **index
    )
    jax.eval_shape(
      views,
      jax.random.key(0),
      np.zeros((2, 64, 64, 3), np.uint8),
      np.full((2, 2), 64, np.int32),
    )
    assert len(asked) >= 2 and set(asked) == {form}
