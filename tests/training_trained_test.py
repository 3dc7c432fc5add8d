"""Opening a run for evaluation: which networks, and that nothing changes."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

from cassle_jax import augment
from cassle_jax.errors import UserError
from cassle_jax.training import trained


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
