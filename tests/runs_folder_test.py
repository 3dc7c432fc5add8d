"""A run's folder belongs to one config."""

import json
import os

import numpy as np
import pytest

from cassle_jax.errors import UserError
from cassle_jax.runs import folder as run_folder
from cassle_jax.runs.folder import check_config, check_path

CONFIG = {
  "seed": 0,
  "optim": {"learning_rate": 0.03, "betas": (0.9, 0.999), "exclude": ()},
  "checkpoint": {"every": 10},
  "data": {"source": "bundled:earth", "threads": 2},
  "awareness": {},
}


def started(folder, step="10"):
  """A run of CONFIG in this folder that has saved a checkpoint."""
  check_config(str(folder), CONFIG)
  os.makedirs(folder / "checkpoints" / step)


def on_file(folder):
  with open(folder / "config.json") as file:
    return json.load(file)


def changed(**sections):
  return {
    key: {**value, **sections.get(key, {})}
    if isinstance(value, dict)
    else value
    for key, value in CONFIG.items()
  }


def test_the_first_run_writes_it(tmp_path):
  folder = str(tmp_path / "new" / "run")
  check_config(folder, CONFIG)
  with open(f"{folder}/config.json") as file:
    assert json.load(file) == json.loads(json.dumps(CONFIG))
  check_config(folder, CONFIG)
  check_config(folder, {**CONFIG, "seed": np.int64(0)})


def test_another_config_is_refused_with_all_differences(tmp_path):
  started(tmp_path)
  other = changed(optim={"learning_rate": 0.1, "clip": 1.0})
  del other["data"]["threads"]
  with pytest.raises(UserError) as error:
    check_config(str(tmp_path), other)
  line = str(error.value)
  assert "\n" not in line
  assert "optim.learning_rate is 0.1 (the run's: 0.03)" in line
  assert "optim.clip is 1.0 (the run's: absent)" in line
  assert "data.threads is absent (the run's: 2)" in line
  assert "seed" not in line


def test_free_keys_may_differ(tmp_path):
  started(tmp_path)
  other = changed(checkpoint={"every": 5}, data={"threads": 8})
  check_config(str(tmp_path), other, free=("checkpoint", "data.threads"))
  with pytest.raises(UserError, match="data.threads"):
    check_config(str(tmp_path), other, free=("checkpoint", "data.thread"))
  # What the run was started with stays on file.
  assert on_file(tmp_path)["checkpoint"]["every"] == 10


def test_a_new_key_at_its_usual_value_is_no_difference(tmp_path):
  started(tmp_path)
  later = changed(optim={"clip": None}, awareness={"name": None})
  check_config(str(tmp_path), {**later, "steps": None})
  with pytest.raises(UserError, match=r"optim.clip is 0.0 \(the run's: absent"):
    check_config(str(tmp_path), changed(optim={"clip": 0.0}))
  # A value that the run had is not the same as none.
  with pytest.raises(UserError, match="optim.learning_rate is null"):
    check_config(str(tmp_path), changed(optim={"learning_rate": None}))


def test_keys_that_came_or_went_with_a_version_are_no_difference():
  old = {"a": {"gone": None, "kept": 1}, "b": 2}
  new = {"a": {"kept": 1, "came": None}, "b": 2}
  assert run_folder.differences(old, new) == []
  old["a"]["gone"] = 3
  assert run_folder.differences(old, new) == ["a.gone is absent (the run's: 3)"]
  assert run_folder.differences(old, new, free=("a",)) == []


@pytest.mark.parametrize("left", [None, "7.orbax-checkpoint-tmp"])
def test_a_start_that_failed_does_not_hold_the_folder(tmp_path, left):
  check_config(str(tmp_path), CONFIG)
  if left:
    os.makedirs(tmp_path / "checkpoints" / left)
  other = changed(optim={"learning_rate": 0.1}, checkpoint={"every": 5})
  check_config(str(tmp_path), other)
  assert on_file(tmp_path) == json.loads(json.dumps(other))


@pytest.mark.parametrize("step", ["0", "10", "damaged-10-0"])
def test_a_folder_with_checkpoints_keeps_its_config(tmp_path, step):
  started(tmp_path, step)
  before = on_file(tmp_path)
  with pytest.raises(UserError, match="another config: seed is 1"):
    check_config(str(tmp_path), {**CONFIG, "seed": 1})
  assert on_file(tmp_path) == before


@pytest.mark.parametrize("text", ["[]", '{"name": "a package"}'])
def test_a_config_of_something_else_is_not_overwritten(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(UserError, match="not a run's config"):
    check_config(str(tmp_path), CONFIG)
  assert (tmp_path / "config.json").read_text() == text


def test_folders_that_cannot_be_used_are_one_line(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  (tmp_path / "folder" / "config.json").mkdir(parents=True)
  for path, reason in (
    ("/proc/nope/x", "No such file"),
    (f"{tmp_path}/file", "exists"),
    (f"{tmp_path}/file/x", "Not a directory"),
    (f"{tmp_path}/folder", "Is a directory"),
  ):
    with pytest.raises(UserError, match=f"--workdir={path} .*{reason}") as e:
      check_config(path, CONFIG)
    assert "\n" not in str(e.value)
  started(tmp_path)
  # Root may write everywhere, so the answer is made up.
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  with pytest.raises(UserError, match="not writable"):
    check_config(str(tmp_path), CONFIG)


def test_a_bucket_must_be_mounted(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match="--workdir=gs://a/b .*mount the bucket"):
    check_config("gs://a/b", CONFIG)
  assert not os.listdir(tmp_path)


def test_an_unreadable_file_is_refused(tmp_path):
  (tmp_path / "config.json").write_text('{"seed":')
  with pytest.raises(UserError, match="not readable as JSON"):
    check_config(str(tmp_path), CONFIG)


def test_paths_that_orbax_cannot_read_back(tmp_path):
  check_path("/tmp/a b/{x}*?")
  with pytest.raises(UserError, match=r"contains '\['"):
    check_config(str(tmp_path / "run[1]"), CONFIG)
  assert not list(tmp_path.iterdir())
