"""The evaluation command over a run's folder."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import small_run

from cassle_jax import evaluate
from cassle_jax.augment.omega import DEFAULT
from cassle_jax.data import content
from cassle_jax.data.source import ArraySource
from cassle_jax.errors import UserError
from cassle_jax.evaluate import results
from cassle_jax.evaluate.context import Context
from cassle_jax.evaluate.results import Result
from cassle_jax.evaluate.subject import Subject
from cassle_jax.evaluate.tasks import TASKS
from cassle_jax.runs import lock

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ALL = f"--config={ROOT}/configs/eval/all.py"
# Little work for each task.
QUICK = [
  "--config.linear.weights=0.1,10",
  "--config.linear.max_steps=20",
  "--config.few_shot.episodes=20",
  "--config.sensitivity.pictures=64",
  "--config.sensitivity.batch=32",
  "--config.sensitivity.operations=crop,jitter",
  "--config.wrong_omega.pictures=48",
  "--config.wrong_omega.operations=crop,jitter",
  "--config.wrong_omega.bins=5",
  "--config.probe.pictures=64",
  "--config.probe.hidden=8,8",
  "--config.probe.steps=5",
  "--config.strength.pictures=16",
  "--config.strength.parameters=hue,crop",
  "--config.retrieval.queries=3",
  "--config.retrieval.k=2",
]


def read(folder, task, name="earth"):
  with open(os.path.join(folder, "eval", task, f"{name}.json")) as file:
    return json.load(file)


def stamps(folder):
  return {
    os.path.join(path, name): os.stat(os.path.join(path, name)).st_mtime_ns
    for path, _, names in os.walk(folder)
    for name in names
    if not name.startswith(".")  # Locks.
  }


@pytest.fixture
def flags(tmp_path):
  """The command's, for a run that was not evaluated yet."""
  small_run.make(tmp_path / "run")
  os.makedirs(tmp_path / "data")
  where = [f"--workdir={tmp_path}/run", f"--config.data_dir={tmp_path}/data"]
  return [ALL, *where, *QUICK]


def test_every_task_leaves_a_result_and_the_run_as_it_was(flags, tmp_path):
  folder = str(tmp_path / "run")
  before = stamps(folder)
  assert evaluate.main(flags) == 0
  after = stamps(folder)
  assert {path: after[path] for path in before} == before
  for name in TASKS:
    file = "earth-5shot" if name == "few_shot" else "earth"
    record = read(folder, name, file)
    assert record["task"] == name and record["dataset"] == "earth"
    assert record["step"] == 3 and record["seed"] == 0
    assert np.isfinite(record["value"]) and record["metric"]
    assert {"unit", "interval", "protocol", "details"} <= set(record)
  check_accuracies(folder)
  check_measurements(folder)
  check_pictures(folder)


def check_accuracies(folder):
  record = read(folder, "knn")
  assert record["value"] == record["details"]["top1"]["20"]
  assert set(record["details"]["top1"]) == {"1", "20", "200"}
  assert 20 < record["value"] < 100 and record["unit"] == "%"
  record = read(folder, "linear")
  assert record["details"]["weights"] == [0.1, 10.0]
  assert record["details"]["weight"] in (0.1, 10.0)
  assert len(record["details"]["validation"]) == 2
  assert len(record["details"]["converged"]) == 2
  assert record["details"]["refit"]["gradient_norm"] > 0
  assert record["settings"]["dtype"] == "float32"
  assert 20 < record["value"] < 100
  assert "drawn in proportion" in record["protocol"]["split"]
  counts = [record["protocol"][part] for part in ("train", "val", "test")]
  assert sum(counts) == 4202 + 668 and counts[2] == 668
  one, five = (read(folder, "few_shot", f"earth-{k}shot") for k in (1, 5))
  assert 20 < one["value"] < five["value"] < 100
  assert one["metric"] == "top1" and 0 < one["interval"] < 20
  assert one["details"]["shot"] == 1 and five["details"]["shot"] == 5
  # Of the test tiles alone, which no run learns from.
  expected = {"episodes": 20, "part": "test", "pictures": 668, "classes": 9}
  assert one["protocol"] == expected


def check_measurements(folder):
  details = read(folder, "sensitivity")["details"]["ops"]
  assert list(details) == ["crop", "jitter"]
  assert list(details["crop"])[-2:] == ["features", "projection"]
  values = [blocks["features"]["infonce"] for blocks in details.values()]
  np.testing.assert_allclose(
    read(folder, "sensitivity")["value"], np.mean(values), rtol=1e-6
  )
  record = read(folder, "wrong_omega")
  assert len(record["details"]["edges"]) == 6
  for told in record["details"]["ops"].values():
    assert set(told) == {"true", "other", "neutral", "noise"}
    assert all(sum(one["histogram"]) == 48 for one in told.values())
  details = read(folder, "probe")["details"]
  assert set(details["single"]) == set(details["pairs"]) == set(DEFAULT)
  assert details["single"]["flip"]["score"] == "auc"
  curves = read(folder, "strength")["details"]["curves"]
  assert set(curves) == {"hue", "crop"}
  # At the neutral strength nothing was done.
  hue = curves["hue"]
  place = hue["strength"].index(hue["neutral"])
  np.testing.assert_allclose(hue["mean"][place], 1, atol=1e-5)


def check_pictures(folder):
  record = read(folder, "retrieval")
  assert np.shape(record["details"]["neighbours"]) == (3, 2)
  assert os.path.isfile(os.path.join(folder, "eval/retrieval/earth.png"))
  record = read(folder, "spectrum")
  assert record["value"] == record["details"]["rankme"] >= 1


def test_what_is_there_is_not_computed_again(flags, tmp_path, capsys):
  folder = str(tmp_path / "run")
  chosen = [*flags, "--config.tasks=knn,few_shot"]
  assert evaluate.main(chosen) == 0
  line = capsys.readouterr().err.splitlines()[0]
  assert line.startswith("not in ") and "cifar10, cifar100" in line
  assert "earth" not in line
  before = stamps(folder)
  assert evaluate.main(chosen) == 0
  assert capsys.readouterr().err.count("is there") == 2
  assert stamps(folder) == before
  # Other settings, and being asked.
  assert evaluate.main([*chosen, "--config.knn.headline=1"]) == 0
  record = read(folder, "knn")
  assert record["value"] == record["details"]["top1"]["1"]
  assert evaluate.main([*chosen, "--again"]) == 0
  after = stamps(folder)
  kept = {p for p in before if "/features/" in p or "checkpoints" in p}
  assert kept and all(after[path] == before[path] for path in kept)
  path = os.path.join(folder, "eval/few_shot/earth-5shot.json")
  assert after[path] > before[path]
  # One of a task's results that is gone makes it run.
  os.remove(path)
  capsys.readouterr()
  assert evaluate.main(chosen) == 0
  shown = capsys.readouterr().err
  assert shown.count("is there") == 1 and os.path.exists(path)


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["--config.tasks=knnn"], "task 'knnn'.*Did you mean 'knn'"),
    (["--config.datasets=cifar11"], "data set 'cifar11'.*cifar10"),
    (["--config.datasets=cars"], "cars is not in .*Download"),
    (["--config.knn.kk=3"], "unknown key config.knn.kk"),
    (["--config.features=float16"], "features 'float16'.*bfloat16"),
    (["--config.precision=float8"], "precision 'float8'.*bfloat16"),
    (["--config.tasks=linear", "--config.datasets=fc100"], "fc100 is not in"),
    (["--workdir=/nowhere"], "/nowhere is no run's folder"),
  ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, words):
  flags = [ALL, "--config.tasks=knn", f"--config.data_dir={tmp_path}"]
  with pytest.raises(UserError, match=words) as error:
    evaluate.main([*flags, f"--workdir={tmp_path}", *arguments])
  assert "\n" not in str(error.value)
  assert not capsys.readouterr().err  # The error is all that is printed.


def test_results_of_other_weights_are_not_shown_for_these(
  flags, tmp_path, capsys
):
  """The same step trained again from another seed."""
  folder = str(tmp_path / "run")
  knn = [*flags, "--config.tasks=knn", "--config.image_size=8"]
  assert evaluate.main(knn) == 0
  first = read(folder, "knn")
  shutil.rmtree(f"{folder}/checkpoints")
  small_run.make(folder, key=6)
  assert evaluate.main(knn) == 0
  second = read(folder, "knn")
  told = capsys.readouterr().err
  assert "is there" not in told and "other weights or pictures" in told
  assert first["source"]["checkpoint"] != second["source"]["checkpoint"]
  assert first["source"]["data"] == second["source"]["data"]
  assert first["details"] != second["details"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_results_are_shown_where_they_cannot_be_written(
  flags, capsys, monkeypatch, number
):
  def fail(path, value):
    raise OSError(number, os.strerror(number), path)

  monkeypatch.setattr(results.files, "write_json", fail)
  with pytest.raises(UserError, match="1 results are above and in no file"):
    evaluate.main([*flags, "--config.tasks=knn", "--config.image_size=8"])
  told = capsys.readouterr().err
  assert "knn on earth: top1" in told and os.strerror(number) in told


def test_two_evaluations_of_one_task_do_not_mix(flags, tmp_path):
  folder = tmp_path / "run" / "eval" / "knn"
  os.makedirs(folder)
  with lock.held(str(folder), "written", holder=".lock.json"):
    with pytest.raises(UserError, match=r"knn is being written by process \d"):
      evaluate.main([*flags, "--config.tasks=knn"])


def test_labels_and_order_are_part_of_what_a_result_is_made_from():
  images = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
  labels = np.array([0, 0, 1, 1])

  def source(images, labels):
    context = Context.__new__(Context)
    opened = ArraySource(images, labels)
    context.subject = Subject(*[None] * len(Subject._fields))
    context.opened = lambda name: opened
    context.pixels = lambda name: content.digest(opened, times=True)
    return context.source("mine")["data"]

  before = source(images, labels)
  assert source(images, labels) == before
  assert source(images[::-1].copy(), labels[::-1]) != before
  assert source(images, 1 - labels) != before


def test_a_result_says_itself_in_words():
  found = Result("cars-1shot", "top1", 12.34, "%", interval=0.56)
  assert found.shown() == "top1 12.3 ± 0.6 %"
  assert Result("cars", "rankme", 2.0).shown() == "rankme 2.000"


def test_config_is_listed(capsys):
  assert evaluate.main([ALL, "--print_config"]) == 0
  assert "--config.knn.headline=20" in capsys.readouterr().out
  with pytest.raises(UserError, match="--workdir"):
    evaluate.main([ALL])
