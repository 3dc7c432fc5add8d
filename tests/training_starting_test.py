"""`init`: a run that starts with the weights of a file or of another run."""

import dataclasses
import functools

import exported
import jax
import numpy as np
import pytest
import small_run

from cassle_jax.errors import UserError
from cassle_jax.training import experiment, starting, trained

# MoCo has a target and a memory.
NET = dict(
  method__name="mocov2",
  model__backbone="vit_debug",
  model__width="0",
  model__patch_size="8",
)


def same(one, other):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)


@functools.cache
def parts():
  config = small_run.config_of(**NET)
  return experiment.build(config, devices=jax.devices()[:1], images=640)


@functools.cache
def fresh():
  return jax.device_get(parts().make_state())


def started(init, heads):
  config = parts().config.copy_and_resolve_references()
  config.init, config.init_heads = str(init), heads
  return starting.make_state(dataclasses.replace(parts(), config=config))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
  """{FILE or RUN: (path, the variables in it)}."""
  root = tmp_path_factory.mktemp("init")
  run = exported.opened(**NET)
  folder = exported.write(root / "file", run, "cassle")
  small_run.make(root / "run", key=9, **NET)
  return {
    "FILE": (folder / "model.pth", run.variables),
    "FOLDER": (folder, run.variables),
    "RUN": (root / "run", trained.open_run(str(root / "run")).variables),
  }


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("source", ["FILE", "FOLDER", "RUN"])
def test_networks_are_those_of_init(sources, source, heads):
  path, variables = sources[source]
  state, before = started(path, heads), fresh()
  assert int(state.step) == 0
  for name in ("backbone", "projector"):
    params, stats = state.params[name], state.batch_stats[name]
    taken = heads or name == "backbone"
    wanted = variables[name] if taken else {}
    assert same(params, wanted.get("params", before.params[name])), name
    kept = wanted.get("batch_stats", before.batch_stats[name])
    assert same(stats, kept), name
    assert not same(variables[name]["params"], before.params[name])
  # The target is a copy; optimiser and memory are fresh.
  assert same(state.target, {k: state.params[k] for k in state.target})
  assert jax.tree.leaves(state.target)
  assert same(state.opt_state, before.opt_state)
  assert same(state.memory, before.memory)


def test_without_init_nothing_is_taken():
  assert same(started("", True), fresh())


def test_other_networks_are_refused(tmp_path):
  other = NET | dict(model__patch_size="4")
  folder = exported.write(tmp_path / "out", exported.opened(**other), "cassle")
  with pytest.raises(UserError, match="--config.model.patch_size=4") as caught:
    started(folder, False)
  assert "\n" not in str(caught.value)
  with pytest.raises(UserError, match="no weights file"):
    started(tmp_path / "nothing", False)
