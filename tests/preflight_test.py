"""Preflight without a compiler: names, bounds by hand, tables, mistakes."""

import importlib.util
import json

import numpy as np
import pytest

from cassle_jax import config as config_lib
from cassle_jax import preflight
from cassle_jax.errors import UserError
from cassle_jax.hosts import chips
from cassle_jax.preflight import bounds, chip, compiler, table, topologies

TINY = "configs/mocov3_vit.py:tiny"
# A step of 512 images as compilers tell of it.
FOUND = {
  "method": "mocov3",
  "awareness": "cassle",
  "backbone": "vit_small",
  "attention": "xla",
  "image_size": 224,
  "precision": "bfloat16",
  "batch": 512,
  "accumulate": 1,
  "views": 2,
  "remat": False,
  "bn_groups": 1,
  "fsdp": 1,
  "steps": 3600,
  "parameters": 10**6,
  "flops": 512 * 70e9,
  "versions": {"jax": "0.10.2", "libtpu": "0.0.52"},
  "memory": {
    "arguments": 10**9,
    "temporaries": 60 * 10**9,
    "output": 10**9,
    "aliased": 10**9,
  },
  "traffic": {"attention": 40 * 10**9, "MLP of blocks": 8 * 10**9},
  "workspace": 0,
  "held": {"attention": 50 * 10**9},
  "largest": [
    {"bytes": 10**9, "part": "attention", "array": "f32[2]", "source": ""}
  ],
  "collectives": [
    {
      "kind": "all-reduce",
      "cause": "gradients",
      "bytes": 10**8,
      "sent": 1.75e8,
      "group": 8,
      "count": 1,
    },
    {
      "kind": "all-reduce",
      "cause": "BatchNorm",
      "bytes": 10**3,
      "sent": 1.75e3 * 60,
      "group": 8,
      "count": 60,
    },
  ],
}


@pytest.mark.parametrize(
  "name,chip,devices,hosts",
  [
    ("h100", "h100", 1, 1),
    ("H100x8", "h100", 8, 1),
    ("a100_40x4", "a100_40", 4, 1),
    ("h200x16", "h200", 16, 2),
    ("v5e:16x16", "v5e", 256, 1),
    ("v5p:2x2x4", "v5p", 16, 1),
    ("v6e:1x1", "v6e", 1, 1),
  ],
)
def test_topologies(name, chip, devices, hosts):
  found = topologies.parse(name)
  assert found.chip == chips.CHIPS[chip]
  assert (found.devices, found.hosts) == (devices, hosts)
  assert found.tpu == (":" in name)


@pytest.mark.parametrize(
  "name,message",
  [
    ("h1000", "not known. GPUs: h100, h200, a100_40, a100"),
    ("l4", "not known"),  # Its peak is known, the rest is not.
    ("v4:2x2x1", "not known"),
    ("", "not known"),
    ("h100x0", "0 GPUs; use 1 to 8"),
    ("h100x12", "a multiple of 8"),
    ("v5e", "give the shape of the slice, e.g. --on=v5e:4x4"),
    ("v5px4", "e.g. --on=v5p:2x2x1"),
    ("v5e:4", "has 2 sizes, e.g. --on=v5e:4x4"),
    ("v5e:4x4,", "has 2 sizes"),
    ("v5e:3x3", "v5e has 1x1, 2x2"),
    ("v5p:4x4", "has 3 sizes"),
    ("v5p:1x2x4", "are even"),
  ],
)
def test_topologies_that_there_are_not(name, message):
  with pytest.raises(UserError, match=message):
    topologies.parse(name)


def test_jax_takes_a_share_of_a_gpus_memory():
  h100, v5e = map(topologies.parse, ("h100", "v5e:2x2"))
  assert h100.limit({}) == int(0.75 * h100.chip.memory)
  variables = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}
  assert h100.limit(variables) == int(0.9 * h100.chip.memory)
  assert v5e.limit(variables) == v5e.chip.memory == int(15.75 * 2**30)


def test_a_missing_compiler_is_one_line_with_the_command(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  for name, extra in (("h100x8", "gpu"), ("v5e:2x2", "tpu")):
    with pytest.raises(UserError) as error:
      preflight.main([f"--config={TINY}", f"--on={name}"])
    text = str(error.value)
    assert text.endswith(f"pip install 'cassle_jax[preflight-{extra}]'")
    assert "\n" not in text


def test_every_chip_that_is_compiled_for_has_all_its_facts():
  for name in (*topologies.GPUS, *topologies.TPUS):
    chip = chips.CHIPS[name]
    assert min(chip.flops, chip.memory, chip.bandwidth, chip.link) > 0
    assert chip.source and chips.of_kind(chip.kind) == chip
    assert (
      (chip.gpu is None) == (chip.network is None) == (name in topologies.TPUS)
    )
  config = topologies.target_config(chips.CHIPS["a100"])
  assert "core_count: 108" in config and "{ major: 8 }" in config


def test_bounds_by_hand():
  on = topologies.parse("h100x8")
  result = bounds.figures(FOUND, on, efficiency=0.5)
  seconds = result["seconds"]
  np.testing.assert_allclose(seconds["arithmetic"], 512 * 70e9 / 8 / 989e12)
  np.testing.assert_allclose(seconds["memory"], 48e9 / 3.352e12)
  np.testing.assert_allclose(seconds["links"], (1.75e8 + 1.05e5) / 450e9)
  assert result["bound_by"] == "memory"
  rate = 512 / (48e9 / 3.352e12)
  np.testing.assert_allclose(result["images_per_second_bound"], rate)
  np.testing.assert_allclose(result["hours_bound"], 3600 * 512 / rate / 3600)
  np.testing.assert_allclose(
    result["chip_hours"], 2 * 8 * result["hours_bound"]
  )
  assert result["traffic_bytes_per_image"] == 48e9 * 8 / 512
  assert result["collective_bytes"] == {"all-reduce": 10**8 + 60 * 10**3}
  # 61 of 63.7 GB: it fits, and not by much; 57.6 GB of temporaries are 491
  # images, of which 488 divide over 8.
  assert result["memory_bytes"] == 61 * 10**9
  assert result["fits"] and result["tight"]
  assert result["largest_batch"] == 488


def test_gradients_between_hosts_go_by_the_network():
  on = topologies.parse("h100x16")
  within = bounds.figures(FOUND, on)["seconds"]["links"]
  whole = dict(FOUND["collectives"][0], group=16)
  found = FOUND | {"collectives": [whole]}
  between = bounds.figures(found, on)["seconds"]["links"]
  np.testing.assert_allclose(within, 1.75105e8 / 450e9)
  np.testing.assert_allclose(between, 1.75e8 / 50e9)


def test_float32_is_slower_on_gpus():
  found = FOUND | {"precision": "float32"}
  for name, share in (("h100", 2), ("v5e:1x1", 1)):
    on = topologies.parse(name)
    fast, slow = (bounds.figures(each, on) for each in (FOUND, found))
    ratio = slow["seconds"]["arithmetic"] / fast["seconds"]["arithmetic"]
    assert ratio == share


def test_a_program_that_the_compiler_refused():
  nothing = dict.fromkeys(("traffic", "held", "largest", "collectives"))
  found = FOUND | nothing | {"memory": {"needed": 20 * 2**30}}
  on = topologies.parse("v5e:4x4")
  result = bounds.figures(found, on)
  assert not result["fits"] and result["bound_by"] == "arithmetic"
  assert result["traffic_bytes_per_image"] is None
  assert result["collective_bytes"] is None
  # 0.92 of 15.75 of 20 GiB, of 512 images: 370, of which 368 divide by 16.
  assert result["largest_batch"] == 368
  text = table.report(found, result)
  assert "DOES NOT FIT; about 368 images would (an estimate)" in text
  assert "traffic, links: not known" in text
  assert "memory: set model.remat=true" in text


def test_the_report_tells_what_limits_and_which_keys_change_it():
  text = table.report(FOUND, bounds.figures(FOUND, topologies.parse("h100x8")))
  assert "61.0 GB of 63.7 GB (JAX's share of it" in text
  row = next(x for x in text.splitlines() if x.startswith("  attention "))
  assert row.split() == ["attention", "40", "83%", "50"]
  assert "(gradients 175.0 MB, BatchNorm 0.1 MB) in 61 collectives" in text
  assert "bound by memory" in text and "model.attention=auto" in text
  assert "model.bn_groups=8 keeps statistics" in text
  assert "at 60% of it (an estimate)" in text
  links = FOUND | {"fsdp": 4, "flops": 1.0, "traffic": {"heads": 1}}
  result = bounds.figures(links, topologies.parse("h100x8"))
  assert result["bound_by"] == "links"
  assert "a step so short" in table.report(links, result)
  assert "a step so short" not in text
  assert "mesh.fsdp=1" in table.report(links, result)


def test_the_page_says_when_by_what_and_what_is_an_estimate():
  cells = []
  for name in ("h100x1", "v5e:4x4"):
    result = bounds.figures(FOUND, topologies.parse(name))
    cells.append(("mocov3_vit", FOUND, result))
  text = table.page(cells, "python -m it")
  assert "libtpu 0.0.52" in text and "python -m it" in text
  assert text.count("| mocov3_vit |") == 2 and "chip-hours, estimate" in text
  assert text.count("## mocov3_vit on") == 2
  row = next(line for line in text.splitlines() if "| v5e:4x4 |" in line)
  assert row.count("|") == 13 and "| 61 of 16.9 | no |" in row


def test_json_has_the_keys_and_is_not_made_twice(monkeypatch, tmp_path, capsys):
  asked = []

  def compiled(**job):
    asked.append(job)
    return FOUND

  monkeypatch.setattr(topologies, "check_installed", lambda topology: None)
  monkeypatch.setattr(compiler, "compiled", compiled)
  path, page = tmp_path / "one.json", tmp_path / "page.md"
  line = [f"--config={TINY}", f"--json={path}", "--config.seed=3"]
  assert preflight.main([*line, "--on=h100x8"]) == 0
  written = json.loads(path.read_text())
  assert written["topology"] == "h100x8" and written["devices"] == 8
  for key in (
    "fits",
    "memory_bytes",
    "memory_limit_bytes",
    "flops_per_image",
    "traffic_bytes_per_image",
    "collective_bytes",
    "images_per_second_bound",
    "bound_by",
  ):
    assert written[key] is not None, key
  # The bundled tiles that a :tiny config trains on.
  assert asked[0]["images"] == 4202 and asked[0]["overrides"] == ["seed=3"]
  again = [*line, "--on=h100x8,v5e:2x2", f"--markdown={page}"]
  assert preflight.main(again) == 0
  assert [job["on"] for job in asked] == ["h100x8", "v5e:2x2"]
  assert len(json.loads(path.read_text())["cells"]) == 2
  assert "--config.seed=3" in page.read_text()
  assert "at most" in capsys.readouterr().out


@pytest.mark.parametrize(
  "path,name",
  [
    ("configs/mocov3_vit.py", "mocov3_vit"),
    ("configs/grid.py:simclr/ai", "grid:simclr/ai"),
    ("runs/a/config.json", "config.json"),
  ],
)
def test_names_of_configs(path, name):
  assert preflight.label(path) == name


def test_images_in_an_epoch():
  config = config_lib.load("configs/mocov3_vit.py", [])
  assert preflight.images_of(config, 7) == (7, "")
  assert preflight.images_of(config, None)[0] == 1281167
  config.data.source = "folder:/data/mine"
  with pytest.raises(UserError, match="give --images=N"):
    preflight.images_of(config, None)
  config.steps = 10
  assert preflight.images_of(config, None) == (1024, "")


@pytest.mark.parametrize(
  "arguments,message",
  [
    (["--on=h100"], "--config"),
    ([f"--config={TINY}"], "--on"),
    ([f"--config={TINY}", "--on=h100,x"], "--on=x is not known"),
    ([f"--config={TINY}", "--on=h100", "--efficiency=2"], "at most 1"),
    ([f"--config={TINY}", "--on=h100", "--images=0"], "at least 1"),
    ([f"--config={TINY}", "--on=h100", "--json=/nope/x"], "no folder"),
    ([f"--config={TINY}", "--on=h100", "--markdown=/nope/x"], "no folder"),
    ([f"--config={TINY}", "--on=h100", "--config.sed=1"], "sed"),
  ],
)
def test_bad_values_are_refused(arguments, message, monkeypatch):
  monkeypatch.setattr(topologies, "check_installed", lambda topology: None)
  with pytest.raises(UserError, match=message):
    preflight.main(arguments)


def test_a_file_of_something_else_is_not_overwritten(tmp_path, monkeypatch):
  monkeypatch.setattr(topologies, "check_installed", lambda topology: None)
  path = tmp_path / "x.json"
  path.write_text("[1]")
  with pytest.raises(UserError, match="not of preflight"):
    preflight.main([f"--config={TINY}", "--on=h100", f"--json={path}"])
  assert path.read_text() == "[1]"


def step_file(**peers):
  """What `benchmark step --json` writes, in part."""
  ours = {
    "label": "mocov3_vit",
    "batch": 256,
    "precision": "bfloat16",
    "images_per_second": 1500.0,
    "mfu": 0.4,
    "peak_bytes": 30 * 10**9,
    "stages": {"augmentation": {"share": 0.04}},
  }
  others = [{"label": n, "images_per_second": r} for n, r in peers.items()]
  return {
    "command": "step",
    "device": "NVIDIA H100 80GB HBM3",
    "devices": 1,
    "versions": {"jax": "0.10.2"},
    "cells": [ours, *others],
  }


def test_what_was_measured_stands_beside_its_bound(tmp_path):
  bound = {"images_per_second_bound": 3000.0, "bound_by": "memory"}
  for name, content in (
    ("mocov3_vit", step_file(torch=1000.0)),
    ("mocov3_vit-bound", bound),
    ("simclr_resnet50", step_file()),
    ("other", {"command": "linear"}),
  ):
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
  paths = [tmp_path / "out.json", tmp_path / "out.md"]
  line = [str(tmp_path), f"--json={paths[0]}", f"--markdown={paths[1]}"]
  assert chip.main(line) == 0
  first, second = json.loads(paths[0].read_text())["rows"]
  assert first["of_bound"] == 0.5 and first["over_torch"] == 1.5
  assert second["bound"] is None and second["over_torch"] is None
  lines = paths[1].read_text().splitlines()
  assert lines[0].startswith("| 1 x NVIDIA H100 80GB HBM3 | batch |")
  assert lines[2] == (
    "| mocov3_vit, bfloat16 | 256 | 1,500 | 3,000 (memory) | 50% | 40% | 30.0 |"
    " 4% | 1.50 x |"
  )
  assert lines[3].endswith("| - | - | 40% | 30.0 | 4% | - |")


def test_a_folder_without_measurements(tmp_path):
  with pytest.raises(UserError, match="bash launch/chip.sh"):
    chip.main([str(tmp_path)])


@pytest.mark.parametrize(
  "platform,kind,count,name",
  [
    ("gpu", "NVIDIA H100 80GB HBM3", 8, "h100x8"),
    ("gpu", "NVIDIA A100-SXM4-40GB", 1, "a100_40x1"),
    ("gpu", "NVIDIA L4", 1, "cpu"),  # No bound for it.
    ("tpu", "TPU v5 lite", 8, "v5e:2x4"),
    ("tpu", "TPU v5", 4, "v5p:2x2x1"),
    ("tpu", "TPU v4", 4, "cpu"),
    ("cpu", "cpu", 8, "cpu"),
  ],
)
def test_the_name_of_a_machine(platform, kind, count, name):
  assert chip.name_of(platform, kind, count) == name
  if name != "cpu":
    assert topologies.parse(name).devices == count
