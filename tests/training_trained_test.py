"""Opening a run for evaluation: which networks, and that nothing changes."""

import json
import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

from cassle_jax import augment
from cassle_jax.errors import UserError
from cassle_jax.evaluate import subject
from cassle_jax.evaluation import online
from cassle_jax.hosts.platforms import Platform
from cassle_jax.runs.checkpoint import Checkpointer
from cassle_jax.training import evaluations, experiment, trained
from cassle_jax.training import setup as setup_lib


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), a, b)


def listing(folder):
  return {
    os.path.join(path, name): os.stat(os.path.join(path, name)).st_mtime_ns
    for path, _, names in os.walk(folder)
    for name in names
  }


def test_networks_are_those_of_the_checkpoint(tmp_path):
  state = small_run.make(tmp_path)
  before = listing(tmp_path)
  run = trained.open_run(str(tmp_path))
  assert run.step == 3 and run.config.method.name == "simclr"
  assert set(run.variables) == {"backbone", "projector"}
  for name, variables in run.variables.items():
    close(variables["params"], state.params[name])
    close(variables["batch_stats"], state.batch_stats[name])
  assert listing(tmp_path) == before


@pytest.mark.parametrize(
  "overrides, index",
  [
    (dict(awareness__name="ai", model__amortised_rank="4"), 2),
    (
      dict(
        method__name="mocov2",
        method__queue_size="32",
        awareness__name="looc",
        augment__rotation="1.0",
      ),
      0,
    ),
  ],
)
def test_of_stacked_heads_one_is_taken(tmp_path, overrides, index):
  """AI's last descriptor, and LooC's space that ignores every group."""
  state = small_run.make(tmp_path, **overrides)
  run = trained.open_run(str(tmp_path))
  heads = jax.tree.map(lambda x: x[index], state.params["projector"])
  close(run.variables["projector"]["params"], heads)
  close(run.variables["backbone"]["params"], state.params["backbone"])


def test_the_network_that_is_evaluated_is_the_authors_or_the_asked_one(
  tmp_path,
):
  """DINO's teacher, BYOL's online network; a result says which."""
  heads = dict(method__prototypes="16", augment__local_views="0")
  state = small_run.make(tmp_path / "dino", method__name="dino", **heads)
  path = str(tmp_path / "dino")
  # A target that has moved away from the online network.
  held = jax.tree.map(lambda x: x + 1, state.target["backbone"])
  moved = state.replace(target={**state.target, "backbone": held})
  with Checkpointer(os.path.join(path, "checkpoints")) as checkpoints:
    checkpoints.save(4, moved, {})
    assert checkpoints.wait()
  run = trained.open_run(path)
  close(run.variables["backbone"]["params"], held)
  close(run.variables["projector"]["params"], state.target["projector"])
  assert subject.of_run(run).network == "target"
  run = trained.open_run(path, network="online")
  close(run.variables["backbone"]["params"], state.params["backbone"])
  assert subject.of_run(run).network == "online"
  with pytest.raises(UserError, match="simclr has no target network; set"):
    setup_lib.build(
      small_run.config_of(evaluation__network="target"), Platform("cpu")
    )


def test_the_online_evaluation_looks_at_the_same_network(monkeypatch):
  found = []

  def evaluate(settings, extract, variables, probe):
    found.append(variables)
    return {"knn_top1": 0.5}

  monkeypatch.setattr(online, "evaluate", evaluate)
  for network in ("online", "target"):
    config = small_run.config_of(
      method__name="byol",
      model__predictor="12,8",
      evaluation__network=network,
    )
    config.evaluation.max_images = 16
    parts = experiment.build(config)
    watched = evaluations.Evaluations(parts, stop=lambda: None)
    trees = dict(
      params={"backbone": "p"},
      batch_stats={"backbone": "s"},
      target={"backbone": "t"},
      target_stats={"backbone": "u"},
    )
    watched.make(3, types.SimpleNamespace(**trees))
    assert watched.about["network"] == network
    parts.pipeline.close()
  assert found == [
    {"params": "p", "batch_stats": "s"},
    {"params": "t", "batch_stats": "u"},
  ]


def test_features_do_not_depend_on_batch_or_devices(tmp_path):
  """`embed` on one device equals the extractor on eight, padded."""
  small_run.make(tmp_path)
  run = trained.open_run(str(tmp_path))
  assert run.mesh.size == 8
  images = np.random.default_rng(0).integers(
    0, 256, (11, 16, 16, 3), dtype=np.uint8
  )
  found = trained.extractor(run)(images)
  policy = run.setup.policies[0]
  views = images / np.float32(255) - np.float32(policy.mean)
  views = jnp.asarray(views / np.float32(policy.std), jnp.float32)
  embed = jax.jit(lambda x: trained.embed(run, x)[0])
  np.testing.assert_allclose(found, embed(views), rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(
    found[4:5], embed(views[4:5]), rtol=2e-5, atol=1e-6
  )


def test_the_projector_is_told_the_runs_fields(tmp_path):
  small_run.make(tmp_path, model__omega="crop,color")
  run = trained.open_run(str(tmp_path))
  omega = {
    field: jax.random.normal(jax.random.key(size), (4, size))
    for field, size in augment.omega.FIELDS.items()
  }
  features = jax.random.normal(jax.random.key(0), (4, 16))
  project = jax.jit(lambda omega: trained.project(run, features, omega))
  z = project(omega)
  assert z.shape == (4, 8)
  for field in augment.omega.FIELDS:
    changed = project({**omega, field: omega[field] + 1})
    assert np.allclose(z, changed) == (field not in ("crop", "color")), field


def test_mistakes_are_one_line(tmp_path):
  with pytest.raises(UserError, match="is no run's folder"):
    trained.open_run(str(tmp_path))
  small_run.make(tmp_path)
  with pytest.raises(UserError, match="no checkpoint of step 7.*there are: 3"):
    trained.open_run(str(tmp_path), step=7)
  path = tmp_path / "config.json"
  config = json.loads(path.read_text())
  config["model"]["from_the_future"] = 1
  path.write_text(json.dumps(config))
  words = "config.json is of another version.*unknown key.*from_the_future"
  with pytest.raises(UserError, match=words) as error:
    trained.open_run(str(tmp_path))
  assert "\n" not in str(error.value)
  del config["model"]["from_the_future"]
  config["model"]["width"] = 16
  path.write_text(json.dumps(config))
  with pytest.raises(UserError, match="does not fit this config"):
    trained.open_run(str(tmp_path))
