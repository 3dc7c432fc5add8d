"""Training of the grid's cells: tables, choices, and the command."""

import glob
import json
import os
import subprocess

import numpy as np
import pytest

from cassle_jax.awareness import cells as grid
from cassle_jax.benchmark import grid_tables, grid_train
from cassle_jax.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def results(*knn, loss=1.0):
  """What `train_cell` returns, for seeds 0, 1, ..."""
  return [
    {
      "seed": seed,
      "knn": value,
      "knn_random_init": 0.25,
      "loss": loss,
      "seconds": 30.0,
    }
    for seed, value in enumerate(knn)
  ]


def test_tables_by_hand():
  cells = {
    ("simclr", "vanilla"): results(0.5, 0.6),
    ("simclr", "cassle"): results(0.6, 0.8, loss=2.5),
    ("byol", "cassle"): results(0.7),
  }
  assert grid_tables.matrix(cells).splitlines() == [
    "| k-NN % | vanilla | cassle |",
    "|---|---|---|",
    # Two values 0.1 apart: 12.706 times 5 points.
    "| simclr | 55.0 ± 63.5 | 70.0 ± 127.1 |",
    "| byol |  | 70.0 |",
  ]
  lines = grid_tables.table(cells).splitlines()[2:]
  # Differences seed by seed: 10 and 20 points.
  assert lines[1] == (
    "| simclr | cassle | 70.0 ± 127.1 | +15.0 ± 63.5 | 2.500 ± 0.000 | 30 |"
  )
  assert lines[0].split("|")[4].strip() == ""
  assert lines[2] == "| byol | cassle | 70.0 |  | 1.000 | 30 |"
  assert "Random init: 25.0 %" in grid_tables.page(cells)


def test_chosen_cells():
  assert grid_train.chosen_cells("", "") == grid.supported()
  assert grid_train.chosen_cells("byol,simclr", "ifm,ai") == [
    ("simclr", "ifm"),
    ("simclr", "ai"),
    ("byol", "ai"),
  ]
  with pytest.raises(UserError, match="--methods 'byoll'.*'byol'"):
    grid_train.chosen_cells("byoll", "")
  with pytest.raises(UserError, match="has no negatives"):
    grid_train.chosen_cells("byol", "ifm")


def test_shares_are_the_whole_without_overlap():
  cells = grid.supported()
  shares = [grid_train.shared_cells(cells, f"{i}/3") for i in (1, 2, 3)]
  assert sorted(sum(shares, [])) == sorted(cells)
  for wrong in ("0/2", "3/2", "1", "a/b", "-1/2"):
    with pytest.raises(UserError, match="I from 1 to N"):
      grid_train.shared_cells(cells, wrong)


def test_command_trains_what_is_missing_and_tabulates(tmp_path, capsys):
  out = tmp_path / "grid"
  arguments = [
    f"--out={out}",
    f"--config={ROOT}/configs/grid.py",
    "--methods=simclr",
    "--awareness=cassle",
    "--seeds=2",
    "--config.steps=2",
    "--config.batch_size=16",
    "--config.model.width=8",
    "--config.evaluation.max_images=64",
  ]
  assert grid_train.main(arguments) == 0
  record = json.loads((out / "simclr-cassle.json").read_text())
  assert [result["seed"] for result in record["results"]] == [0, 1]
  first, second = record["results"]
  assert first["steps"] == 2 and np.isfinite(first["loss"])
  assert first["loss"] != second["loss"]
  assert 0 <= first["knn"] <= 1 and first["seconds"] > 0
  text = (out / "grid.md").read_text()
  assert text == capsys.readouterr().out
  assert "| simclr | cassle | " in text

  written = (out / "simclr-cassle.json").stat().st_mtime_ns
  assert grid_train.main(arguments) == 0
  assert (out / "simclr-cassle.json").stat().st_mtime_ns == written
  with pytest.raises(
    UserError, match=r"simclr-cassle.json .*config.steps is 3 \(the run's: 2\)"
  ):
    grid_train.main([*arguments, "--config.steps=3"])
  # Also where this call would not train that cell.
  with pytest.raises(UserError, match="seeds is 1"):
    grid_train.main([*arguments, "--seeds=1", "--awareness=vanilla"])
  with pytest.raises(UserError, match="cannot be made"):
    grid_train.main([*arguments, f"--out={out}/grid.md/x"])
  with pytest.raises(UserError, match="no labels for the k-NN"):
    other = [f"--out={tmp_path}/other", "--config.evaluation.max_images=0"]
    grid_train.main([*arguments, *other])


@pytest.mark.parametrize(
  "path", sorted(glob.glob(os.path.join(ROOT, "launch", "*.sh")))
)
def test_launch_scripts_are_valid_shell(path):
  subprocess.run(["bash", "-n", path], check=True)
