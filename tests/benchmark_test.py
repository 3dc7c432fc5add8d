"""The benchmark command: its clock, its table, its refusals."""

import json
import os
import sys
import time

import pytest

from cassle_jax import benchmark, errors
from cassle_jax.benchmark import common

CONFIG = os.path.join(os.path.dirname(__file__), "../configs/quickstart.py")


def test_best_times_each_call_once_a_round_after_a_first_one():
  order = []

  def sleep(name, seconds):
    order.append(name)
    time.sleep(seconds)

  costs = common.best(
    {"a": lambda: sleep("a", 0.02), "b": lambda: sleep("b", 0.0)},
    items=2,
    rounds=3,
  )
  assert order == ["a", "b"] * 4
  assert 10 <= costs["a"].wall < 100
  assert costs["b"].wall < costs["a"].wall
  assert costs["a"].cpu < 10


@pytest.mark.slow
def test_augment_prints_stages_and_writes_json(tmp_path, capsys):
  path = tmp_path / "augment.json"
  arguments = ["--batch=2", "--rounds=1", f"--config={CONFIG}"]
  # Fewer operations, fewer programs to compile.
  arguments += ["--config.augment.jitter=0.0", "--config.augment.blur=0.0"]
  assert benchmark.main(["augment", *arguments, f"--json={path}"]) == 0
  printed = capsys.readouterr().out
  result = json.loads(path.read_text())
  stages = ["draws", "crop+flip", "grayscale", "normalize"]
  assert list(result["stages"]) == stages
  for stage in result["stages"]:
    assert f"  {stage} " in printed
  assert result["cpu_ms_per_view"] > 0 and result["views"] == 2
  assert result["backend"] == "cpu" and result["form"] == "banded"
  assert "jax" in result["versions"]


@pytest.mark.parametrize(
  "arguments,message",
  [
    (["augmnt"], "benchmark 'augmnt'. Did you mean 'augment'"),
    (["data"], "Valid: augment, checkpoint, .* What they do: .*--help"),
    (["augment", "--json=/nope/x.json"], "--json=/nope/x.json: .*'/nope'"),
    (["augment", "--json=/"], "--json=/: .*not a file"),
    (["augment", "--json="], "--json=: .*not a file"),
    (["augment", "--batch=0"], "at least 1"),
    (["augment", "--preset=casle"], "Did you mean 'cassle'"),
    (["augment", "--config.seed=1"], "goes with --config"),
    (["augment", "--form=sparse"], "form 'sparse'"),
    (["augment", "--compare=albumentations"], "invalid choice"),
  ],
)
def test_bad_values_are_refused(arguments, message):
  with pytest.raises(errors.UserError, match=message):
    benchmark.main(arguments)


def test_a_file_that_fails_at_the_end_is_one_line(monkeypatch):
  monkeypatch.setattr(
    common,
    "best",
    lambda calls, *_: dict.fromkeys(calls, common.Cost(1.0, 1.0)),
  )
  arguments = ["augment", "--batch=1", "--image_size=32", "--json=/dev/full"]
  with pytest.raises(errors.UserError, match="--json=/dev/full: .*No space"):
    benchmark.main(arguments)


def test_kornia_missing_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(errors.UserError, match=r"cassle_jax\[peers\]"):
    benchmark.main(["augment", "--batch=1", "--compare=kornia"])


def test_help(capsys):
  assert benchmark.main([]) == 0
  assert "augment" in capsys.readouterr().out
