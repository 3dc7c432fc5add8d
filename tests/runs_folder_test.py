"""A run's folder belongs to one config."""

import errno
import json
import os

import numpy as np
import pytest

from cassle_jax.errors import UserError
from cassle_jax.runs import folder as run_folder
from cassle_jax.runs import lock
from cassle_jax.runs.folder import check_config

CONFIG = {
  "seed": 0,
  "augment": {"preset": "cassle"},
  "method": {"name": "simclr"},
  "model": {"backbone": "conv2"},
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
  with run_folder.held(folder):
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


def test_keys_that_the_caller_judges_are_told(tmp_path):
  started(tmp_path)
  other = changed(data={"source": "folder:/a"})
  told = check_config(str(tmp_path), other, judged=("data.source", "seed"))
  assert told == ['data.source is "folder:/a" (the run\'s: "bundled:earth")']
  assert check_config(str(tmp_path), CONFIG, judged=("data.source",)) == []


def test_a_new_key_at_its_usual_value_is_no_difference(tmp_path):
  started(tmp_path)
  later = changed(optim={"clip": None}, awareness={"name": None})
  check_config(str(tmp_path), {**later, "steps": None})
  with pytest.raises(UserError, match=r"optim.clip is 0.0 \(the run's: absent"):
    check_config(str(tmp_path), changed(optim={"clip": 0.0}))
  # A value that the run had is not the same as none.
  with pytest.raises(UserError, match="optim.learning_rate is null"):
    check_config(str(tmp_path), changed(optim={"learning_rate": None}))


def test_a_run_of_before_a_key_has_that_keys_default():
  usual = {"a": {"came": "learned", "kept": 0}, "b": 0}
  old, new = {"a": {"kept": 1}}, {"a": {"kept": 1, "came": "learned"}, "b": 0}
  assert run_folder.differences(old, new, usual=usual) == []
  new["a"]["came"] = "sincos"
  (text,) = run_folder.differences(old, new, usual=usual)
  assert text == 'a.came is "sincos" (the run\'s: "learned")'
  # What the run has, it has.
  (text,) = run_folder.differences({"b": 7}, {"b": 0}, usual=usual)
  assert text == "b is 0 (the run's: 7)"


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


@pytest.mark.parametrize(
  "name, text",
  [
    ("config.json", "[]"),
    ("config.json", '{"name": "a package"}'),
    ("config.json", '{"seed": 3, "model": {"lr": 1}, "data": {}}'),
    ("metrics.jsonl", '{"step": 1}'),
    ("summary.json", "{}"),
    ("run.json", '{"written_by": "me"}\n'),
  ],
)
def test_what_is_no_run_is_not_overwritten(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  (tmp_path / "summary.json").write_text(text)
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(UserError, match="is no run of cassle_jax.*another --w"):
    with run_folder.held(str(tmp_path)):
      pass
  assert (tmp_path / name).read_text() == text
  assert sorted(os.listdir(tmp_path)) == before


def test_a_run_without_a_mark_is_known_by_its_config(tmp_path):
  """Those of earlier versions, and those that were copied without run.json."""
  started(tmp_path)
  assert not os.path.exists(tmp_path / "run.json")
  for _ in range(2):
    with run_folder.held(str(tmp_path)):
      check_config(str(tmp_path), CONFIG)
  with open(tmp_path / "run.json") as file:
    assert json.load(file)["written_by"] == "cassle_jax"


def test_a_mark_makes_up_for_a_start_that_was_cut_short(tmp_path):
  with run_folder.held(str(tmp_path)):
    (tmp_path / "config.json").write_text('{"seed":')
  with run_folder.held(str(tmp_path)):
    check_config(str(tmp_path), CONFIG)
  assert on_file(tmp_path) == json.loads(json.dumps(CONFIG))


def test_folders_that_cannot_be_used_are_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "folder" / "config.json").mkdir(parents=True)
  for path, reason in (
    ("/proc/nope/x", "No such file"),
    (f"{tmp_path}/file", "exists"),
    (f"{tmp_path}/file/x", "Not a directory"),
    (f"{tmp_path}/folder", "Is a directory"),
  ):
    with pytest.raises(UserError, match=f"--workdir={path} .*{reason}") as e:
      with run_folder.held(path):
        pass
    assert "\n" not in str(e.value)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
  def refuse(path, value):
    raise PermissionError(errno.EACCES, "Permission denied", path)

  # Root may write everywhere, so the answer is made up.
  monkeypatch.setattr(lock.files, "write_json", refuse)
  with pytest.raises(UserError, match="Permission denied"):
    with run_folder.held(str(tmp_path)):
      pass


@pytest.mark.parametrize("given", ["", "  "])
def test_an_empty_name_is_refused(given):
  with pytest.raises(UserError, match="a variable that is not set"):
    run_folder.expanded(given)


def test_tilde_is_the_home_folder(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  assert run_folder.expanded("~/runs/a") == "/home/me/runs/a"
  assert run_folder.expanded("a~b/~") == "a~b/~"
  with pytest.raises(UserError, match="no user 'nobody-here'"):
    run_folder.expanded("~nobody-here/x")


def test_a_bucket_must_be_mounted(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match="--workdir=gs://a/b .*mount the bucket"):
    with run_folder.held("gs://a/b"):
      pass
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
  "text, reason",
  [
    ('{"seed":', "not readable as JSON"),
    ("[]", "not a run's config"),
    (None, "is not there"),
  ],
)
def test_checkpoints_whose_config_is_lost_are_not_continued(
  tmp_path, text, reason
):
  started(tmp_path)
  os.unlink(tmp_path / "config.json")
  if text is not None:
    (tmp_path / "config.json").write_text(text)
  with pytest.raises(UserError, match=f"{reason}.*put a copy of it back"):
    check_config(str(tmp_path), CONFIG)


def test_what_an_earlier_run_left_is_put_by(tmp_path, capfd):
  for name in ("summary.json", "metrics.jsonl", "config.json"):
    (tmp_path / name).write_text(name)
  os.makedirs(tmp_path / "eval" / "knn")
  run_folder.put_by_earlier(str(tmp_path))
  (place,) = (n for n in os.listdir(tmp_path) if n.startswith("earlier-"))
  assert sorted(os.listdir(tmp_path)) == ["config.json", place]
  found = sorted(os.listdir(tmp_path / place))
  assert found == ["eval", "metrics.jsonl", "summary.json"]
  assert place in capfd.readouterr().err


def test_a_start_that_was_cut_short_leaves_nothing_to_put_by(tmp_path):
  (tmp_path / "metrics.jsonl").write_text("")
  run_folder.put_by_earlier(str(tmp_path))
  assert os.listdir(tmp_path) == ["metrics.jsonl"]
