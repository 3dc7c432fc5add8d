"""Weak scaling on paper: tables by hand, and a tiny step compiled twice."""

import json

import pytest

from cassle_jax import benchmark
from cassle_jax.benchmark import collectives, scaling
from cassle_jax.errors import UserError


def program(method, devices, fsdp=1, **megabytes):
  """A program's figures; a device sends what its payload is."""
  totals = {
    cause: {"collectives": 0, "bytes": 0, "sent": 0.0, "kinds": {}}
    for cause in collectives.CAUSES
  }
  for cause, size in megabytes.items():
    totals[cause] |= {"collectives": 10, "bytes": size * 10**6}
    totals[cause]["sent"] = size * 1e6
  return {
    "method": method,
    "awareness": "cassle",
    "backbone": "resnet50",
    "image_size": 224,
    "batch": 32,
    "devices": devices,
    "fsdp": fsdp,
    "parameters": 25 * 10**6,
    "totals": totals,
  }


PROGRAMS = [
  program("simclr", 1),
  program("simclr", 8, gradients=200, loss=1),
  program("simclr", 64, gradients=201, loss=8),
  program("simclr", 64, fsdp=8, gradients=200, parameters=300),
]


def test_the_table_shows_what_grows():
  lines = scaling.table(PROGRAMS).splitlines()
  assert "MB of a device and step on 8 / 64 devices" in lines[0]
  # Within 2 %: one number; 100 MB is 25 M parameters of 4 bytes, once.
  assert lines[4] == "| simclr | 1 | 201 (100) | 0 | 0 | 1 / 8 | 0 | 0 | 20 |"
  assert lines[5].startswith("| simclr | 8 | ? / 200 (100) | ? / 300 |")


def test_bounds_are_bytes_over_bandwidth():
  lines = scaling.bounds_table(PROGRAMS).splitlines()
  # By hand: 209 MB at 450, 50, 300, 200 and 600 GB/s; 20 collectives of 10 us.
  assert lines[3] == (
    "| simclr | 1 | 64 | 0.46 | 4.18 | 0.70 | 1.04 | 0.35 | 0.2 |"
  )
  # 64 views of 24.6 GFLOP at 45 % of 989, 275, 197 and 459 TFLOP/s.
  assert lines[-1] == (
    "| *compute, two views* | | | 3.5 | 3.5 | 12.7 | 17.8 | 7.6 | |"
  )


def test_the_time_of_computation_is_that_of_a_resnet50_on_224_px():
  assert "compute, two views" in scaling.bounds_table(PROGRAMS)
  for other in ({"backbone": "resnet18"}, {"image_size": 64}):
    shown = scaling.bounds_table([one | other for one in PROGRAMS])
    assert "compute" not in shown and "| simclr | 8 | 64 |" in shown


def test_bytes_are_shown_with_three_digits():
  shown = [scaling.megabytes(n * 1e6) for n in (0, 0.0049, 0.524, 25.17, 4933)]
  assert shown == ["0", "0", "0.524", "25.2", "4,933"]


@pytest.mark.parametrize(
  "arguments,message",
  [
    (["--methods=boyl"], "'boyl'. Did you mean 'byol'"),
    (["--methods=byol", "--awareness=ifm"], "no negatives"),
    (["--devices=8,x"], "--devices=8,x: give whole numbers"),
    (["--fsdp=0"], "--fsdp=0: give whole numbers"),
    (["--devices=4,12", "--fsdp=8"], "--fsdp=8 divides none of --devices=4,12"),
    (["--batch=0"], "--batch=0 must be at least 1"),
    (["--config.seed=1"], "has no effect here"),
    (["--json=/nope/x"], "no folder"),
  ],
)
def test_bad_values_are_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    benchmark.main(["scaling", *arguments])


def test_a_file_of_something_else_is_not_overwritten(tmp_path):
  path = tmp_path / "x.json"
  path.write_text("[1]")
  with pytest.raises(UserError, match="not of this benchmark"):
    benchmark.main(["scaling", f"--json={path}"])
  assert path.read_text() == "[1]"


def test_what_the_file_has_is_not_compiled_again(tmp_path, monkeypatch, capsys):
  made = []

  def compile_job(job):
    made.append((job["devices"], job["fsdp"]))
    return program("simclr", job["devices"], job["fsdp"], gradients=1) | job

  monkeypatch.setattr(scaling, "compile_job", compile_job)
  path = tmp_path / "scaling.json"
  arguments = ["scaling", "--methods=simclr", f"--json={path}"]
  assert benchmark.main([*arguments, "--devices=1,8"]) == 0
  assert made == [(1, 1), (8, 1), (8, 8)]
  assert benchmark.main([*arguments, "--devices=8,64"]) == 0
  assert made[3:] == [(64, 1), (64, 8)]
  assert len(json.loads(path.read_text())["programs"]) == 5
  assert "| simclr | 8 | 1 (100) |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_tiny_step_on_4_and_8_devices(tmp_path):
  path = tmp_path / "scaling.json"
  arguments = ["--methods=mocov2", "--devices=4,8", "--fsdp=1"]
  arguments += ["--backbone=conv3", "--image_size=32", "--batch=4"]
  assert benchmark.main(["scaling", *arguments, f"--json={path}"]) == 0
  four, eight = json.loads(path.read_text())["programs"]
  for one in (four, eight):
    # Every kernel's gradient once: MoCo's queries are one view.
    share = one["totals"]["gradients"]["bytes"] / (4 * one["parameters"])
    assert 0.9 < share < 1.01
    assert one["totals"]["parameters"]["bytes"] == 0
    assert one["totals"]["other"]["bytes"] < 4096
  # The queue takes the keys of the global batch, which doubles.
  keys = [one["totals"]["loss"]["kinds"]["all-gather"] for one in (four, eight)]
  assert keys == [4 * 4 * 128 * 4, 8 * 4 * 128 * 4]
