"""A run's folder without the training: a small net at its first step."""

import os

import jax
import optax

from cassle_jax import config as config_lib
from cassle_jax.hosts.platforms import Platform
from cassle_jax.runs import files
from cassle_jax.runs import folder as run_folder
from cassle_jax.runs.checkpoint import Checkpointer
from cassle_jax.training import experiment
from cassle_jax.training import setup as setup_lib


def config_of(**overrides):
  """A tiny SimCLR with CASSLE on 16 px views; overrides as `a__b="value"`."""
  config = config_lib.tiny(config_lib.default())
  settings = {
    "data.image_size": 16,
    "model.backbone": "conv2",
    "model.width": 8,
    "model.stem": "imagenet",
    "model.projector": "12,8",
    "model.gamma_depth": 2,
    "augment.blur_kernel": 3,
  }
  settings |= {k.replace("__", "."): v for k, v in overrides.items()}
  for key, value in settings.items():
    config_lib.apply_override(config, f"{key}={value}")
  return setup_lib.resolve(config)


def make(folder, *, step=3, mesh=None, key=5, **overrides):
  """Writes config.json and a checkpoint; returns the state that was saved."""
  config = config_of(**overrides)
  setup = setup_lib.build(config, Platform("cpu"))
  mesh = mesh or jax.make_mesh((1, 1), ("data", "fsdp"))
  _, make_state = experiment.init_state(
    jax.random.key(key),
    setup,
    optimizer=optax.sgd(0.1, momentum=0.9),
    image_size=config.data.image_size,
    mesh=mesh,
  )
  state = make_state()
  os.makedirs(folder, exist_ok=True)
  path = os.path.join(folder, run_folder.CONFIG)
  files.write_json(path, config_lib.to_dict(config))
  with Checkpointer(os.path.join(folder, "checkpoints")) as checkpoints:
    checkpoints.save(step, state, {})
    assert checkpoints.wait()
  return state
