"""What run folders are read as, what is left out, what repeats what."""

import json
import os

import numpy as np
import pytest
import report_folder

from cassle_jax.errors import UserError
from cassle_jax.report import grouping, results, runs, words


def read(folder):
  warnings = []
  return runs.read(str(folder), warnings.append), warnings


def grouped(*folders):
  warnings = []
  found = [runs.read(folder, warnings.append) for folder in folders]
  assert not warnings
  return grouping.group(found, warnings.append), warnings


def test_find_takes_runs_and_folders_of_runs_once(tmp_path):
  a = report_folder.make(tmp_path / "all" / "a")
  b = report_folder.make(tmp_path / "all" / "b")
  os.makedirs(tmp_path / "all" / "report")
  assert runs.find([str(tmp_path / "all")]) == [a, b]
  assert runs.find([b + "/", str(tmp_path / "all")]) == [b, a]


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_find_says_in_one_line_what_is_no_run(tmp_path, name):
  os.makedirs(tmp_path / "empty")
  with pytest.raises(UserError, match=f"{name}.*--workdir") as error:
    runs.find([str(tmp_path / name)])
  assert "\n" not in str(error.value)


def test_read_has_results_curves_and_settings(tmp_path):
  folder = report_folder.make(tmp_path / "a", seed=3, published="x")
  report_folder.measured(folder)
  run, warnings = read(folder)
  assert not warnings
  assert (run.method, run.backbone, run.awareness) == (
    "simclr",
    "resnet50",
    "cassle",
  )
  assert run.seed == 3 and run.published == "x"
  assert run.settings["model.backbone"] == "resnet50"
  assert "model.norm" not in run.settings  # None is as good as absent.
  assert run.curves["loss"] == ([0, 50, 100], [5.0, 4.0, 3.0])
  assert run.curves["knn_top1"] == ([0, 100], [0.3, 0.5])
  assert {task for task, _ in run.results} == set(results.TASKS)
  knn = run.results["knn", "earth"]
  assert knn.value == 55 and knn.data["top1"] == {1: 50, 20: 55, 200: 52}
  assert np.isnan(knn.interval) and knn.step == 100
  omega = run.results["wrong_omega", "earth"].data
  assert omega["ops"]["crop"]["other"]["mean"] == 0.8
  np.testing.assert_array_equal(omega["edges"], report_folder.EDGES)
  probe = run.results["probe", "earth"].data["single"]["flip"]
  assert probe["linear"] == 0.7 and np.isnan(probe["mlp"])
  assert probe["score"] == "auc"


def test_older_results_call_the_jitter_color(tmp_path):
  """Read under the name of today, and printed by its title."""
  folder = report_folder.make(tmp_path / "a")
  report_folder.measured(folder)
  for task in ("sensitivity", "wrong_omega"):
    path = f"{folder}/eval/{task}/earth.json"
    with open(path) as file:
      record = json.load(file)
    record["details"]["ops"]["color"] = record["details"]["ops"].pop("jitter")
    report_folder.write(folder, f"eval/{task}/earth.json", record)
  run, warnings = read(folder)
  assert not warnings
  for task in ("sensitivity", "wrong_omega"):
    assert list(run.results[task, "earth"].data["ops"]) == ["crop", "jitter"]
  assert words.operation("jitter") == "colour jitter"
  assert words.operation("of a fork") == "of a fork"


def test_a_damaged_config_leaves_its_run_out(tmp_path):
  report_folder.write(tmp_path / "a", "config.json", "{")
  report_folder.write(tmp_path / "b", "config.json", {"method": {}})
  for name in "ab":
    run, warnings = read(tmp_path / name)
    assert run is None and len(warnings) == 1
    assert f"{name}/config.json" in warnings[0]


@pytest.mark.parametrize(
  "task, text",
  [
    ("linear", "{"),
    ("linear", "[]"),
    ("linear", '{"step": 1}'),
    ("linear", '{"step": 1, "value": "many"}'),
    ("knn", '{"step": 1, "value": 1, "details": {"top1": [1]}}'),
    ("sensitivity", '{"step": 1, "value": 1, "details": {"ops": {"a": 1}}}'),
    (
      "strength",
      '{"step": 1, "value": 1, "details": {"curves": {"hue":'
      ' {"strength": [0, 1], "mean": [1]}}}}',
    ),
    ("spectrum", '{"step": 1, "value": 1, "details": {"eigenvalues": [true]}}'),
    ("probe", '{"step": 1, "value": 1, "details": {"single": {"flip": {}}}}'),
    ("few_shot", '{"step": 1, "value": 1, "details": [1]}'),
    (
      "retrieval",
      '{"step": 1, "value": 1, "details": {"panel": "../../config.json"}}',
    ),
  ],
)
def test_a_damaged_result_is_named_and_left_out(tmp_path, task, text):
  folder = report_folder.make(tmp_path / "a")
  report_folder.result(folder, "knn", "cars", 5.0, {"top1": {"20": 5.0}})
  report_folder.write(folder, f"eval/{task}/pets.json", text)
  report_folder.write(folder, f"eval/{task}/.lock.json", "{}")  # No result.
  run, warnings = read(folder)
  assert list(run.results) == [("knn", "cars")]
  assert len(warnings) == 1 and f"eval/{task}/pets.json" in warnings[0]


def test_null_is_unknown_and_not_zero(tmp_path):
  folder = report_folder.make(tmp_path / "a")
  report_folder.result(folder, "linear", "cars", None)
  run, warnings = read(folder)
  assert not warnings and np.isnan(run.results["linear", "cars"].value)
  (group,), _ = grouped(folder)
  assert group.values("linear", "cars") == {}


def test_a_log_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
  folder = report_folder.make(tmp_path / "a")
  lines = json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo'
  report_folder.write(folder, "metrics.jsonl", lines)
  run, warnings = read(folder)
  assert run.curves["loss"] == ([1], [2.0])
  assert len(warnings) == 1 and "1 damaged line" in warnings[0]


def test_seeds_are_repetitions_and_other_settings_are_not(tmp_path):
  folders = [
    report_folder.make(tmp_path / f"c{seed}", seed=seed) for seed in (2, 0, 1)
  ]
  wide = {"backbone": "resnet50", "omega": ["color"]}
  other = report_folder.make(tmp_path / "d", seed=0, model=wide)
  long = report_folder.make(tmp_path / "e", epochs=200.0)
  vanilla = report_folder.make(tmp_path / "v", awareness="vanilla")
  groups, warnings = grouped(*folders, other, long, vanilla)
  assert not warnings
  assert [(g.awareness, g.variant, len(g.runs)) for g in groups] == [
    ("vanilla", "", 1),
    ("cassle", "omega color", 1),
    ("cassle", "omega color+crop", 3),
    ("cassle", "", 1),
  ]
  assert [run.seed for run in groups[2].runs] == [0, 1, 2]
  # Twice as long a training is no repetition, and no fair comparison.
  assert groups[0].block == groups[2].block != groups[3].block
  assert grouping.baseline(groups[2], groups) == groups[0]
  assert grouping.baseline(groups[3], groups) is None
  assert grouping.baseline(groups[0], groups) is None


def test_a_seed_counts_once(tmp_path):
  first = report_folder.make(tmp_path / "a", seed=1)
  again = report_folder.make(tmp_path / "b", seed=1)
  (group,), warnings = grouped(first, again)
  assert [run.folder for run in group.runs] == [first]
  assert len(warnings) == 1 and again in warnings[0]


def test_results_of_different_steps_are_named(tmp_path):
  folders = [report_folder.make(tmp_path / f"{s}", seed=s) for s in (0, 1)]
  report_folder.result(folders[0], "linear", "cars", 1.0, step=100)
  report_folder.result(folders[1], "linear", "cars", 1.0, step=200)
  _, warnings = grouped(*folders)
  assert len(warnings) == 1
  assert "step 100" in warnings[0] and "step 200" in warnings[0]
