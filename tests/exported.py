"""Runs of random weights that were never trained, and what is exported."""

import jax
import numpy as np
import optax
import small_run

from cassle_jax.convert import exporting, served
from cassle_jax.hosts import sharding
from cassle_jax.hosts.platforms import Platform
from cassle_jax.training import experiment
from cassle_jax.training import setup as setup_lib
from cassle_jax.training.trained import Trained


def opened(**overrides):
  """As `trained.open_run` gives it, every number random; nothing is compiled.

  Args:
    **overrides: see `small_run.config_of`.
  """
  config = small_run.config_of(**overrides)
  setup = setup_lib.build(config, Platform("cpu"))
  mesh = sharding.make_mesh()
  abstract, _ = experiment.init_state(
    jax.random.key(0),
    setup,
    optimizer=optax.identity(),
    image_size=config.data.image_size,
    mesh=mesh,
  )
  draw = np.random.default_rng(0)

  def fill(path, leaf):
    name = path[-1].key
    values = draw.normal(size=leaf.shape).astype(np.float32)
    if name == "var":
      return 0.5 + values**2
    if name in ("scale", "gamma"):
      return 1 + np.float32(0.2) * values
    fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 25
    return values / np.float32(np.sqrt(fan_in))

  kinds = {"params": abstract.params, "batch_stats": abstract.batch_stats}
  filled = jax.tree_util.tree_map_with_path(fill, kinds)
  variables = {
    name: {kind: tree.get(name, {}) for kind, tree in filled.items()}
    for name in abstract.params
  }
  return Trained(config, setup, 3, variables, mesh)


def write(folder, run, format, **options):
  """Writes a format into a new folder, which is returned."""
  folder.mkdir()
  options = {"image_size": run.config.data.image_size} | options
  exporting.write(
    str(folder),
    run,
    workdir="nowhere",
    format=format,
    name=folder.name,
    license_name="other",
    **options,
  )
  return folder


def expected(run, images):
  """Features [b, d] of the run for [b, h, w, 3] uint8."""
  return np.asarray(jax.jit(served.features_of(run))(images))


def close(found, wanted, tolerance=1e-4):
  """Compares relative to the largest feature."""
  scale = np.abs(wanted).max()
  assert scale > 1e-3
  np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale)
