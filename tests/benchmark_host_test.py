"""The benchmarks of the host's work: decoding, checkpoints, a torch peer."""

import json
import os

import numpy as np
import pytest

from cassle_jax import benchmark, data
from cassle_jax.benchmark import checkpoint, input_stages, program
from cassle_jax.benchmark import input as input_lib
from cassle_jax.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QUICKSTART = os.path.join(ROOT, "configs", "quickstart.py")
SIMCLR = os.path.join(ROOT, "configs", "simclr_resnet50.py")


def test_pictures_are_like_a_photograph_in_size(tmp_path):
  input_lib.write_pictures(tmp_path, 3)
  source = data.open_source(f"folder:{tmp_path}")
  assert len(source) == 3 and source.shape == (375, 500)
  sizes = [os.path.getsize(path) for path in tmp_path.iterdir()]
  assert 90e3 < sum(sizes) / 3 < 130e3
  assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 3


@pytest.mark.slow
def test_input_counts_what_is_read(tmp_path, capsys):
  path = tmp_path / "input.json"
  arguments = ["--pictures=4", "--batch=4", "--image_size=32", "--threads=2"]
  arguments += ["--seconds=0.2", "--step_rate=0.5", f"--json={path}"]
  assert benchmark.main(["input", *arguments]) == 0
  result = json.loads(path.read_text())
  (row,) = result["settings"]
  assert row["threads"] == 2
  assert row["images_per_second"] > 1 and row["cpu_ms_per_image"] > 0
  # Canvases of 96 x 96 x 3 bytes.
  assert row["canvas_size"] == 96
  rate = row["megabytes_per_second"] / row["images_per_second"]
  assert abs(rate - 96 * 96 * 3 / 1e6) < 1e-9
  files = row["file_megabytes_per_second"] / row["images_per_second"]
  assert 0.09 < files < 0.13
  stages = result["stages_us"]
  assert stages["place"] > stages["decode"] > 0 < stages["fill"]
  assert stages["pillow"] > 0 < stages["read"] and stages["lock"] > 0
  assert result["copy"]["images_per_second"] > 0
  # All are larger than 96 px.
  assert result["larger"] == 1 and 0 <= result["waited"] <= 1
  printed = capsys.readouterr().out
  assert "Python's lock limits a process to" in printed
  assert "100% of the pictures are larger" in printed
  assert "the host keeps up" in printed and "500 x 375 px -> 96 px" in printed


def test_a_host_that_is_too_slow_is_told():
  text = input_lib.against_step(50.0, 200.0)
  assert "0.25 times" in text and "the device waits" in text


def test_cores_that_a_step_needs():
  """By hand: 1000 x (0.9 + 0.1) ms of cores, 1000 x 20 us of the lock."""
  stages = {"place": 900.0, "lock": 20.0}
  text = input_lib.cores_line(stages, {"cpu_ms_per_image": 0.1}, 1000.0)
  assert "1,000 images/s need 1.0 busy cores" in text
  assert "at most 2% of the time" in text
  assert input_lib.up_to(1) == [1]
  assert input_lib.up_to(12) == [1, 2, 4, 8, 12]


def test_stages_of_arrays_have_no_files():
  source = data.ArraySource(np.zeros((3, 8, 8, 3), np.uint8))
  stages = input_stages.measure(source, 16)
  assert stages["read"] is stages["decode"] is None and stages["place"] > 0
  assert input_lib.stage_table(stages).count(" -") == 4
  assert input_stages.larger(source, 16) == 0
  assert input_stages.larger(source, 7) == 1


def test_a_table_of_settings():
  row = {"threads": 4, "images_per_second": 1234.56}
  row |= {"megabytes_per_second": 2.0, "file_megabytes_per_second": None}
  lines = input_lib.table([row | {"cpu_ms_per_image": None}]).splitlines()
  assert lines[1].split() == ["4", "1,234.6", "2.0", "-", "-"]


def fake_costs(**wall):
  costs = {name: {"cpu_ms": ms, "wall_ms": ms} for name, ms in wall.items()}
  costs |= {"state_bytes": 2**20, "disk_bytes": 2**20, "every": 100}
  return costs


def test_overheads_are_shares_of_a_step():
  result = fake_costs(
    step=200.0,
    save_blocks=100.0,
    save_total=900.0,
    restore=50.0,
    fingerprint=20.0,
    guard=1.0,
    host=0.0002,
  )
  result["shares"] = shares = checkpoint.shares(result)
  assert shares["blocked_steps"] == 0.5 and shares["save"] == 0.005
  assert shares["fingerprint"] == 0.001 and shares["guard"] == 0.005
  assert abs(shares["host"] - 1e-6) < 1e-15
  text = checkpoint.table(result)
  assert "every 100 steps blocks for 0.50 steps" in text
  assert "notes together: 0.600% of a step" in text


@pytest.mark.slow
def test_checkpoint_measures_a_config(tmp_path):
  path = tmp_path / "checkpoint.json"
  arguments = [f"--config={QUICKSTART}:tiny", "--rounds=1", "--batch=8"]
  assert benchmark.main(["checkpoint", *arguments, f"--json={path}"]) == 0
  result = json.loads(path.read_text())
  assert 0 < result["disk_bytes"] and 0 < result["state_bytes"]
  blocks, total = result["save_blocks"], result["save_total"]
  assert 0 < blocks["wall_ms"] <= total["wall_ms"]
  for name in ("restore", "fingerprint", "host", "step"):
    assert result[name]["wall_ms"] > 0, name
  assert result["guard"]["wall_ms"] >= 0


def test_a_second_compilation_comes_out_of_the_cache():
  import jax
  import jax.numpy as jnp

  before = jax.config.jax_compilation_cache_dir
  calls = []

  def lower():
    calls.append(1)
    return jax.jit(lambda x: jnp.sin(x @ x)).lower(jnp.ones((8, 8)))

  _, compiled, seconds = program.clocked(lower, cached=True)
  assert len(calls) == len(seconds) == 2 and min(seconds) > 0
  assert compiled(jnp.ones((8, 8))).shape == (8, 8)
  assert jax.config.jax_compilation_cache_dir == before
  assert len(program.clocked(lower, cached=False)[2]) == 1


@pytest.mark.parametrize(
  "arguments,message",
  [
    (["input", "--threads=a"], "--threads=a: give whole numbers"),
    (["input", "--threads=,"], "--threads=,: give whole numbers"),
    (["input", "--seconds=0"], "--seconds=0 must be above 0"),
    (["input", "--step_rate=-1"], "--step_rate=-1 must be above 0"),
    (["input", "--pictures=0"], "--pictures=0 must be at least 1"),
    (["input", "--config.seed=1"], "goes with --config"),
    (
      ["input", f"--config={SIMCLR}", "--config.data.source=folder:/nope"],
      "folder:/nope",
    ),
    (["checkpoint"], "--config"),
    (["checkpoint", f"--config={SIMCLR}", "--rounds=0"], "at least 1"),
    (
      ["checkpoint", f"--config={SIMCLR}", "--folder=/nope"],
      "--folder=/nope/x: .*no folder",
    ),
  ],
)
def test_bad_values_are_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    benchmark.main(arguments)
