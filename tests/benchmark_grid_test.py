"""The grid's cells, the tables of trained ones, and what trains them."""

import json
import os
import subprocess
import sys

import pytest

from cassle_jax import benchmark
from cassle_jax.awareness import cells
from cassle_jax.benchmark import grid
from cassle_jax.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def trained(tmp_path):
  """Writes the folder of a run that is done."""

  def write(method, awareness, seed, knn, *, loss=1.0, width=16, **config):
    path = tmp_path / f"{method}-{awareness}-{seed}"
    path.mkdir()
    config = {
      "seed": seed,
      "method": {"name": method},
      "awareness": {"name": awareness},
      "model": {"backbone": "conv3", "width": width},
      "steps": 160,
    } | config
    summary = {"knn_top1_random_init": 0.25, "knn_top1": knn, "loss": loss}
    seconds = {"init": 9.0, "compile": 9.0, "step": 25.0, "data": 4.0}
    spent = {"start": 1.0, "from_step": 0, "lost_steps": 0}
    line = {"step": 160, "goodput": spent | {"seconds": seconds}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return path

  write.folder = str(tmp_path)
  return write


def test_tables_by_hand(trained, capsys):
  for seed, knn in enumerate((0.5, 0.6)):
    trained("simclr", "vanilla", seed, knn)
  for seed, knn in enumerate((0.6, 0.8)):
    trained("simclr", "cassle", seed, knn, loss=2.5)
  trained("byol", "cassle", 0, 0.7, width=8)
  assert benchmark.main(["grid", trained.folder]) == 0
  assert capsys.readouterr().out.splitlines() == [
    "| k-NN % | vanilla | cassle |",
    "|---|---|---|",
    # Two values 0.1 apart: 12.706 times 5 points.
    "| simclr | 55.0 ± 63.5 | 70.0 ± 127.1 |",
    "| byol |  | 70.0 |",
    "",
    "Random init: 25.0 %, the mean over all runs.",
    "",
    "| method | awareness | k-NN % | over vanilla | loss | seconds |",
    "|---|---|---|---|---|---|",
    "| simclr | vanilla | 55.0 ± 63.5 |  | 1.000 ± 0.000 | 29 |",
    # Differences seed by seed: 10 and 20 points.
    "| simclr | cassle | 70.0 ± 127.1 | +15.0 ± 63.5 | 2.500 ± 0.000 | 29 |",
    "| byol | cassle | 70.0 |  | 1.000 | 29 |",
  ]
  assert benchmark.main(["grid", trained.folder, "--methods=byol"]) == 0
  assert "simclr" not in capsys.readouterr().out


def test_what_is_not_done_is_left_out(trained, capsys):
  trained("simclr", "vanilla", 0, 0.5)
  (trained("simclr", "vanilla", 1, 0.9) / "summary.json").unlink()
  found = grid.read(trained.folder, cells.supported())
  assert list(found["simclr", "vanilla"]) == [0]
  assert "simclr-vanilla-1 is left out" in capsys.readouterr().err
  with pytest.raises(UserError, match="no finished run .*grid.sh"):
    grid.read(trained.folder, [("byol", "cassle")])


@pytest.mark.parametrize(
  "other,message",
  [
    (("simclr", "cassle", 0, {"steps": 5}), "steps is 160 .*the run's: 5"),
    (("simclr", "vanilla", 0, {"width": 8}), "model.width is 16"),
  ],
)
def test_one_table_has_one_set_of_settings(trained, other, message):
  method, awareness, seed, changed = other
  trained(method, awareness, seed, 0.5, **changed)
  trained("simclr", "vanilla", 1, 0.5)
  with pytest.raises(UserError, match=message):
    grid.read(trained.folder, cells.supported())


def test_a_cell_has_one_run_of_a_seed(trained):
  trained("simclr", "vanilla", 0, 0.5).rename(f"{trained.folder}/copy")
  trained("simclr", "vanilla", 0, 0.5)
  with pytest.raises(UserError, match="are one cell and seed"):
    grid.read(trained.folder, cells.supported())


def test_cells_are_listed_with_vanilla_beside(capsys):
  assert benchmark.main(["grid"]) == 0
  listed = [tuple(x.split("/")) for x in capsys.readouterr().out.split()]
  assert listed == cells.supported()
  flags = ["--methods=byol,simclr", "--awareness=ifm,ai"]
  assert benchmark.main(["grid", *flags]) == 0
  assert capsys.readouterr().out.split() == [
    "byol/vanilla",
    "byol/ai",
    "simclr/vanilla",
    "simclr/ifm",
    "simclr/ai",
  ]
  with pytest.raises(UserError, match="--methods 'byoll'.*'byol'"):
    benchmark.main(["grid", "--methods=byoll"])


# In place of Python: a run is its log and its summary.
STUB = f"""#!{sys.executable} -SE
import os, sys

words = sys.argv[1:]
if words[1] == "cassle_jax.benchmark":
  os.execv("{sys.executable}", ["python", *words])
print("cache", os.environ["JAX_COMPILATION_CACHE_DIR"], *words)
folder = [w.split("=")[1] for w in words if w.startswith("--workdir=")][0]
os.mkdir(folder)
if "--config.steps=0" in words:
  print("error: no steps", file=sys.stderr)
  sys.exit(2)
open(folder + "/summary.json", "w").write("{{}}")
open(folder + "/config.json", "w").write("{{}}")
"""


def test_the_launcher_trains_what_is_missing_each_in_its_folder(tmp_path):
  stub, out = tmp_path / "stub", tmp_path / "grid"
  stub.write_text(STUB)
  stub.chmod(0o755)
  environment = os.environ | {
    "PYTHON": str(stub),
    "METHODS": "byol",
    "AWARENESS": "cassle+augself",
    "SEEDS": "2",
  }
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)

  def launch(*overrides):
    return subprocess.run(
      ["bash", os.path.join(ROOT, "launch/grid.sh"), str(out), *overrides],
      env=environment,
      capture_output=True,
      text=True,
    )

  done = launch("--config.batch_size=64")
  # The stub's runs hold no numbers: there is no table of them.
  assert done.returncode == 2 and "no finished run" in done.stderr
  names = [
    f"byol-{name}-{seed}"
    for name in ("cassle+augself", "vanilla")
    for seed in (0, 1)
  ]
  assert sorted(p.name for p in out.iterdir() if p.is_dir()) == names
  assert done.stdout.count("trained ") == 4
  called = (out / "byol-vanilla-1.log").read_text().split()
  assert called[:2] == ["cache", f"{out}/.jax_cache"]
  assert "--config=configs/grid.py:byol/vanilla" in called
  assert {"--config.seed=1", "--config.batch_size=64"} <= set(called)
  assert launch().stdout.count("trained ") == 0
  environment["SEEDS"] = "3"
  failed = launch("--config.steps=0")
  assert failed.returncode == 1 and "error: no steps" in failed.stderr
