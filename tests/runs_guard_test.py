"""Steps that are not finite: skipped, counted, and too many in a row."""

import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_loop_test

from cassle_jax.data import order
from cassle_jax.errors import UserError
from cassle_jax.runs import guard
from cassle_jax.step import all_finite, train_step
from cassle_jax.training import experiment, loop

KEY = jax.random.key(3)


def watch(folder, max_skipped=3, before=None):
  return guard.Guard(
    str(folder),
    seed=3,
    key=KEY,
    max_skipped=max_skipped,
    locate=lambda i: f"/images/{i}.png",
    before=before,
  )


def metrics(finite, loss=1.0):
  values = {"finite": finite, "loss": loss, "gradient_norm": 2.0}
  return {name: np.float32(value) for name, value in values.items()}


def see(guard, text, begin=1):
  """Shows it a step for each letter: a good one, or a bad."""
  for step, letter in enumerate(text, begin):
    good = letter == "."
    loss = 1.0 if good else np.nan
    index = np.arange(2) + 10 * step
    assert guard.see(step, index, metrics(good, loss)) == good


def test_what_is_skipped_is_counted_and_good_steps_begin_anew(tmp_path, capsys):
  one = watch(tmp_path)
  see(one, ".xx.xx..x")
  assert one.counts() == {"skipped": 5, "in_a_row": 1}
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 5
  assert "step 3 was not finite (loss nan, gradient norm 2)" in lines[1]
  assert "2 in a row, the run stops at 3 (guard.max_skipped)" in lines[1]
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("most, steps", [(0, "x"), (1, "x"), (3, "xx.xxx")])
def test_too_many_in_a_row_stop_the_run(tmp_path, most, steps):
  one = watch(tmp_path, most)
  see(one, steps[:-1])
  with pytest.raises(guard.Diverged, match=f"step {len(steps)} .*not applied"):
    see(one, steps[-1], len(steps))


def test_the_dump_has_what_repeats_each_bad_step(tmp_path):
  one = watch(tmp_path, 2)
  see(one, "..x")
  with pytest.raises(guard.Diverged, match="step 4 and 1 before it were"):
    see(one, "x", 4)
  dump = json.loads((tmp_path / "diverged-step-4.json").read_text())
  assert dump["seed"] == 3 and dump["in_a_row"] == 2
  assert [bad["step"] for bad in dump["steps"]] == [3, 4]
  for bad in dump["steps"]:
    first = 10 * bad["step"]
    assert bad["index"] == [first, first + 1]
    assert bad["images"][1] == f"/images/{first + 1}.png"
    assert bad["metrics"]["loss"] is None  # NaN is no JSON.
    # The state counts the steps before.
    key = jax.random.fold_in(KEY, bad["step"] - 1)
    np.testing.assert_array_equal(bad["key"], jax.random.key_data(key))


def test_a_dump_that_cannot_be_written_hides_nothing(tmp_path, monkeypatch):
  def full(path, value):
    raise OSError(errno.ENOSPC, "No space left on device", path)

  monkeypatch.setattr(guard.files, "write_json", full)
  with pytest.raises(guard.Diverged, match="could not be .*No space.*Lower"):
    see(watch(tmp_path, 1), "x")


def test_counting_goes_on_where_the_checkpoint_was(tmp_path):
  one = watch(tmp_path)
  see(one, "x.xx")
  held = json.loads(json.dumps(one.counts()))
  other = watch(tmp_path, before=held)
  with pytest.raises(guard.Diverged, match="step 5 and 2 before it were"):
    see(other, "x", 5)
  assert other.skipped == 4


@pytest.mark.parametrize("name", vars(guard.Limits()))
def test_values_out_of_range(name):
  with pytest.raises(UserError, match=f"guard.{name}=-1 must be at least 0"):
    guard.Limits(**{name: -1})
  assert getattr(guard.Limits(**{name: 0}), name) == 0


def test_a_single_number_of_any_leaf_is_seen():
  tree = {
    "a": jnp.zeros((2, 3)),
    "b": [jnp.ones(4, jnp.bfloat16), jnp.float32(0)],
    "count": jnp.int32(2**31 - 1),
    "empty": jnp.zeros((0, 3)),
  }
  assert all_finite(tree) and all_finite({"count": tree["count"]})
  for bad in (jnp.nan, jnp.inf, -jnp.inf):
    assert not all_finite(tree | {"a": tree["a"].at[1, 2].set(bad)})
    assert not all_finite(tree | {"b": [tree["b"][0].at[3].set(bad)]})
    assert not all_finite(tree | {"b": [tree["b"][0], jnp.float32(bad)]})


def poisoned(*steps):
  """`train_step` whose first view is NaN in some steps, counted from 1."""

  def step(state, batch, *, awareness, **parts):
    def views(*arguments, **options):
      one, *others = awareness.views(*arguments, **options)
      bad = jnp.isin(state.step + 1, jnp.array(steps))
      image = jnp.where(bad, jnp.nan, one.image)
      return one._replace(image=image), *others

    return train_step(
      state, batch, awareness=awareness._replace(views=views), **parts
    )

  return step


def test_a_nan_batch_reaches_nothing_and_a_resumed_run_is_the_same(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(experiment, "train_step", poisoned(3))
  config = training_loop_test.small(
    **{"checkpoint.every": 1, "checkpoint.keep_last": 0}
  )
  straight, killed = str(tmp_path / "a"), str(tmp_path / "b")
  assert loop.run(config, straight) == 0

  # To the bit, over parameters, statistics, target, queue and optimiser.
  before = training_loop_test.final_fingerprints(straight, 2)
  after = training_loop_test.final_fingerprints(straight, 3)
  assert {path for path in after if after[path] != before[path]} == {"step"}
  following = training_loop_test.final_fingerprints(straight, 4)
  moved = {
    path.split("/")[0] for path in after if after[path] != following[path]
  }
  assert moved >= {"step", "params", "batch_stats", "target", "memory"}

  lines = training_loop_test.lines_of(straight)
  assert {"step": 3, "skipped_steps": 1} in lines
  with open(os.path.join(straight, "summary.json")) as file:
    summary = json.load(file)
  assert summary["skipped_steps"] == 1 and np.isfinite(summary["loss"])

  # Killed before it saved step 5, it goes on as if nothing had happened.
  shutil.copytree(straight, killed)
  for name in ("checkpoints/5", "checkpoints/6", "summary.json"):
    remove = os.unlink if name.endswith("json") else shutil.rmtree
    remove(os.path.join(killed, name))
  assert loop.run(config, killed) == 0
  last = training_loop_test.final_fingerprints
  assert last(killed) == last(straight)
  assert training_loop_test.lines_of(killed) == lines
  with open(os.path.join(killed, "summary.json")) as file:
    summary = json.load(file)
  assert summary["skipped_steps"] == 1
  spent = summary["goodput"]
  assert spent["starts"] == 2 and spent["lost_steps"] == 2
  assert 0 < spent["lost_seconds"] < spent["seconds"]["step"]
  for phase in ("init", "compile", "step", "save", "evaluation"):
    assert spent["seconds"][phase] > 0, phase


@pytest.mark.slow
def test_the_dump_of_a_run_names_its_images_and_keys(tmp_path, monkeypatch):
  monkeypatch.setattr(experiment, "train_step", poisoned(2, 4, 5))
  config = training_loop_test.small(**{"guard.max_skipped": 2})
  with pytest.raises(loop.Diverged, match="diverged-step-5.json"):
    loop.run(config, str(tmp_path))
  dump = json.loads((tmp_path / "diverged-step-5.json").read_text())
  assert [bad["step"] for bad in dump["steps"]] == [4, 5]
  with open(tmp_path / "config.json") as file:
    seed = json.load(file)["seed"]
  images = order.Order(4202, 16, seed)
  for bad in dump["steps"]:
    state_step = bad["step"] - 1
    assert bad["index"] == images.batch(state_step).tolist()
    key = jax.random.fold_in(experiment.root_key(seed), state_step)
    assert bad["key"] == jax.random.key_data(key).tolist()
