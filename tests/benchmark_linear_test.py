"""The benchmark of linear evaluation: its table, its objective, its peer."""

import json
import sys

import numpy as np
import pytest

from cassle_jax import benchmark, errors
from cassle_jax.benchmark import linear

SMALL = ["linear", "--rows=40", "--width=3", "--classes=3", "--weights=2"]


def test_table_and_json(tmp_path, capsys):
  path = tmp_path / "linear.json"
  assert benchmark.main([*SMALL, "--rounds=1", f"--json={path}"]) == 0
  printed = capsys.readouterr().out
  assert "2 weights on 40 x 3 features, 3 classes, float32" in printed
  assert "cold" in printed and "torch" not in printed
  record = json.loads(path.read_text())
  np.testing.assert_allclose(record["weights"], [1e-6, 1e5])
  (problem,) = record["problems"]
  assert problem["cassle_jax"]["gap"] == [0, 0]
  assert problem["cassle_jax"]["limited"] == [False, False]
  assert 0 < problem["cassle_jax"]["cpu_s"] < record["cold"]["cpu_s"]


@pytest.mark.slow
def test_torch_beside(tmp_path, capsys):
  path = tmp_path / "linear.json"
  arguments = [*SMALL, "--rounds=2", "--compare=torch", f"--json={path}"]
  assert benchmark.main(arguments) == 0
  assert "times less CPU time than torch" in capsys.readouterr().out
  record = json.loads(path.read_text())
  assert len(record["problems"]) == 2 and record["ratio"]["cpu_s"] > 0
  for problem in record["problems"]:
    ours, torch = problem["cassle_jax"], problem["torch"]
    assert max(ours["gap"]) < 1e-5
    np.testing.assert_allclose(
      torch["objective"][1], ours["objective"][1], rtol=1e-5
    )


def test_objective_by_hand():
  """Two classes apart by 1 and by -40: log(1 + e^-1), log(1 + e^40)."""
  features = np.array([[1.0], [-40.0]], np.float32)
  problem = linear.Problem(features, np.array([0, 0]), None, None)
  kernel = np.array([[[1.0, 0.0]]], np.float32)
  sweep = linear.Sweep(kernel, np.zeros((1, 2), np.float32), None)
  found = linear.objective(problem, sweep, 0, 0.5)
  np.testing.assert_allclose(found, np.log1p(np.exp(-1)) + 40 + 0.5, rtol=1e-12)


@pytest.mark.parametrize(
  "argument,words",
  [
    ("--rows=0", "--rows=0 must be at least 1"),
    ("--dtype=float16", "dtype 'float16'"),
    ("--json=/nope/x.json", "--json=/nope/x.json"),
    ("--compare=jax", "invalid choice"),
  ],
)
def test_bad_values_are_refused(argument, words):
  with pytest.raises(errors.UserError, match=words):
    benchmark.main([*SMALL, argument])


def test_torch_missing_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(errors.UserError, match=r"cassle_jax\[peers\]"):
    benchmark.main([*SMALL, "--compare=torch"])
