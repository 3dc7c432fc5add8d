"""The step benchmark: its figures by hand, its table, the grid, refusals."""

import json
import os

import jax
import jax.numpy as jnp
import pytest

from cassle_jax import benchmark
from cassle_jax.awareness.cells import supported
from cassle_jax.benchmark import common, grid, peaks, program, stages
from cassle_jax.errors import UserError
from cassle_jax.hosts.platforms import Platform
from cassle_jax.training import experiment, setup

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QUICKSTART = os.path.join(ROOT, "configs", "quickstart.py")
SIMCLR = os.path.join(ROOT, "configs", "simclr_resnet50.py")
MEBI = 2**20


def test_flops_and_memory_of_a_product_by_hand():
  a, b = jnp.ones((512, 256)), jnp.ones((256, 1024))
  lowered = jax.jit(jnp.matmul).lower(a, b)
  assert program.flops(lowered) == 2 * 512 * 256 * 1024
  # Arguments of 0.5 and 1 MiB, a result of 2 MiB, nothing else.
  assert program.peak_bytes(lowered.compile()) == 3.5 * MEBI


def test_a_donated_argument_is_not_counted_twice():
  x = jnp.ones((512, 512))
  step = jax.jit(lambda x: x + 1)
  assert program.peak_bytes(step.lower(x).compile()) == 2 * MEBI
  step = jax.jit(lambda x: x + 1, donate_argnums=0)
  assert program.peak_bytes(step.lower(x).compile()) == 1 * MEBI


def test_a_backend_that_does_not_tell():
  class Silent:
    def memory_analysis(self):
      raise NotImplementedError

    def cost_analysis(self):
      return None

  assert program.peak_bytes(Silent()) is None
  assert program.flops(Silent()) is None


def fake(compile_seconds, **figures):
  """A program that is never run: the `clock` fixture says what it took."""
  known = dict(peak_bytes=3 * MEBI, flops=2e9, parameters=10**6)
  return program.Program(
    step=lambda: None,
    batch_size=8,
    figures={
      "method": "simclr",
      "awareness": "vanilla",
      "backbone": "resnet18",
      "image_size": 32,
      "batch": 8,
      "views": 2,
      "precision": "float32",
      "model_flops": 1e9,
      "compile_seconds": compile_seconds,
      **known,
      **figures,
    },
  )


@pytest.fixture
def clock(monkeypatch):
  """Program n of a group takes n times 10 ms of CPU and 5 ms of wall time."""

  def timed(calls, rounds, report=None):
    return {
      name: [common.Cost(10.0 * n, 5.0 * n)] * rounds
      for n, name in enumerate(calls, start=1)
    }

  monkeypatch.setattr(common, "clock", timed)


def test_costs_are_relative_to_the_first(clock):
  programs = {
    "a": fake(1.0),
    "b": fake(1.0, peak_bytes=6 * MEBI, flops=None),
  }
  a, b = program.measure(programs, 3).values()
  assert (a["cpu_ms"], a["wall_ms"]) == (10.0, 5.0)
  assert a["images_per_second"] == 8 / 0.005
  same = {"value": 1.0, "margin": 0.0}
  exact = dict(peak_bytes=1.0, flops=1.0, parameters=1.0)
  assert a["ratio"] == dict(cpu_ms=same, wall_ms=same) | exact
  double = {"value": 2.0, "margin": 0.0}
  exact = dict(peak_bytes=2.0, flops=None, parameters=1.0)
  assert b["ratio"] == dict(cpu_ms=double, wall_ms=double) | exact


def test_ratios_are_of_the_same_round(monkeypatch):
  # Twice as much in each round, though rounds differ by a factor of 4.
  times = {"a": [1.0, 4.0, 2.0], "b": [2.0, 8.0, 4.0]}
  monkeypatch.setattr(
    common,
    "clock",
    lambda calls, *_: {
      (label, name): [common.Cost(ms, ms) for ms in times[label]]
      for label, name in calls
    },
  )
  cell = program.measure({"a": fake(1.0), "b": fake(1.0)}, 3)["b"]
  assert cell["ratio"]["cpu_ms"] == {"value": 2.0, "margin": 0.0}
  assert (cell["cpu_ms"], cell["wall_ms"]) == (2.0, 2.0)


def test_a_median_has_a_margin_by_hand():
  # 1, 2, 3, 4, 9 have the quartiles 2 and 4.
  value, margin = common.median([9.0, 1.0, 3.0, 2.0, 4.0])
  assert value == 3.0 and abs(margin - 1.58 * 2 / 5**0.5) < 1e-12
  assert common.median([1.5]) == (1.5, None)


def test_rates_and_the_share_of_the_peak_by_hand(clock):
  peak = peaks.Peak(1e12, "a test")
  (cell,) = program.measure({"a": fake(1.0)}, 2, peak=peak).values()
  # 8 images of 2 views in 5 ms; 1e9 operations in 5 ms are 0.2 TFLOP/s.
  assert cell["images_per_second"] == 1600 and cell["views_per_second"] == 3200
  assert abs(cell["mfu"] - 0.2) < 1e-12 and cell["stages"] == {}
  # By CPU time it is half as much, however many devices share the cores.
  peak = peak._replace(clock="cpu")
  (cell,) = program.measure({"a": fake(1.0)}, 2, peak=peak).values()
  assert abs(cell["mfu"] - 0.1) < 1e-12
  assert program.measure({"a": fake(1.0)}, 2)["a"]["mfu"] is None


def test_stages_by_hand():
  times = {
    "augmentation": [1.0, 3.0],
    "forward": [4.0, 8.0],
    "backward": [9.0, 17.0],
    "step": [10.0, 20.0],
  }
  split = stages.split(times)
  assert [s["ms"] for s in split.values()] == [2.0, 4.0, 7.0, 2.0]
  # Quartiles of 1 and 3 are 1.5 and 2.5.
  margin = split["augmentation"]["margin_ms"]
  assert abs(margin - 1.58 * 1.0 / 2**0.5) < 1e-12
  assert abs(sum(s["share"] for s in split.values()) - 1.0) < 1e-12
  # A target that moves before the key pass is the optimiser's, not the pass's.
  split = stages.split(times | {"target": [0.5, 0.5]})
  assert [s["ms"] for s in split.values()] == [2.0, 3.5, 7.0, 2.5]
  assert stages.split({k: v[:1] for k, v in times.items()})["forward"] == {
    "ms": 3.0,
    "margin_ms": None,
    "share": 0.3,
  }


@pytest.mark.parametrize(
  "kind,tera",
  [
    ("NVIDIA H100 80GB HBM3", 989),
    ("NVIDIA H100 PCIe", 756),
    ("NVIDIA H200", 989),
    ("NVIDIA A100-SXM4-40GB", 312),
    ("Tesla V100-SXM2-16GB", 125),
    ("NVIDIA L4", 121),
    ("NVIDIA L40S", None),
    ("TPU v4", 275),
    ("TPU v5 lite", 197),
    ("TPU v5", 459),
    ("TPU v5p", 459),
    ("TPU v6 lite", 918),
    ("cpu", None),
  ],
)
def test_published_peaks(kind, tera):
  peak = peaks.published(kind)
  assert (peak and peak.flops_per_second / 1e12) == tera


def test_a_peak_says_its_type_once():
  for kind in ("Tesla V100-SXM2-16GB", "TPU v4", "NVIDIA H100 PCIe"):
    assert peaks.published(kind).source.count("float16") == 1


def test_the_peak_of_a_cpu_is_measured():
  peak = peaks.measured(size=128, rounds=1)
  assert peak.clock == "cpu" and peak.flops_per_second > 1e6
  assert "128 x 128" in peak.source


@pytest.mark.slow
def test_step_of_a_config_beside_another_awareness(tmp_path, capsys):
  path = tmp_path / "step.json"
  # One device and few operations: this is about figures, not about speed.
  overrides = dict(
    mesh__data=1,
    augment__jitter=0.0,
    augment__grayscale=0.0,
    augment__blur=0.0,
    model__omega="crop,flip",
    model__width=4,
    model__norm="batch",
    model__projector="16,8",
    model__gamma_depth=1,
    model__gamma_width=4,
    optim__name="sgd",
  )
  arguments = ["step", f"--config={QUICKSTART}:vanilla", "--compare", "cassle"]
  arguments += ["--batch=4", "--rounds=1", f"--json={path}"]
  arguments += [
    f"--config.{key.replace('__', '.')}={value}"
    for key, value in overrides.items()
  ]
  events = []
  jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
  assert benchmark.main(arguments) == 0
  # Compiling out of a cache is an event; what it saves depends on the machine.
  assert events.count("/jax/compilation_cache/cache_hits") >= 2
  printed = capsys.readouterr()
  assert "relative to quickstart:vanilla:" in printed.out
  assert "compiling cassle ..." in printed.err
  assert "round 1 of 1" in printed.err
  result = json.loads(path.read_text())
  vanilla, cassle = result["cells"]
  assert vanilla["label"] == "quickstart:vanilla"
  assert cassle["label"] == "cassle" and cassle["awareness"] == "cassle"
  assert vanilla["backbone"] == "conv3" and vanilla["batch"] == 4
  # By hand: gamma is one Linear 5 -> 4 with a norm's scale and bias, and the
  # projector's first Linear, to 16, sees those 4 numbers more.
  added = 5 * 4 + 2 * 4 + 4 * 16
  assert cassle["parameters"] - vanilla["parameters"] == added
  assert 1 < cassle["ratio"]["flops"] < 1.1
  for cell in result["cells"]:
    assert cell["cpu_ms"] > 0 and cell["compile_seconds"] > 0
    assert cell["compile_cached_seconds"] > 0
    assert 0 < cell["model_flops"] < cell["flops"] and cell["mfu"] > 0
    assert cell["views_per_second"] == 2 * cell["images_per_second"]
  assert list(vanilla["stages"]) == list(stages.STAGES)
  assert cassle["stages"] == {}
  assert "quickstart:vanilla, CPU ms of a stage" in printed.out
  for cell in result["cells"]:
    assert cell["peak_bytes"] > 4 * 4 * cell["parameters"]  # SGD's state too.


@pytest.fixture
def uncompiled(monkeypatch, clock):
  """Cells are checked as far as is possible without tracing them."""

  def prepare(config, **_):
    config = setup.resolve(config)
    if config.model.backbone == "resnet34" and config.awareness.name == "ai":
      raise UserError("ai needs another backbone.")
    return fake(1.0, method=config.method.name, awareness=config.awareness.name)

  monkeypatch.setattr(program, "prepare", prepare)


def test_the_grid_holds_each_cell_against_its_methods_vanilla(
  uncompiled, tmp_path, capsys
):
  path = tmp_path / "grid.json"
  assert benchmark.main(["step", "--grid", f"--json={path}"]) == 0
  measured = json.loads(path.read_text())["cells"]
  order = [(cell["method"], cell["awareness"]) for cell in measured]
  assert order == supported() and len(order) > 40
  position = 0
  for cell in measured:
    position = 1 if cell["awareness"] == "vanilla" else position + 1
    assert cell["ratio"]["cpu_ms"]["value"] == position
  printed = capsys.readouterr()
  assert "relative to byol vanilla:" in printed.out
  assert "CPU 2.000 +- 0.000  wall 2.000 +- 0.000  memory 1.0" in printed.out
  total = len(order)
  assert f"cell 2 of {total}: compiling simclr cassle ..." in printed.err


def test_the_grid_can_be_restricted_and_names_what_a_backbone_refuses(
  uncompiled, tmp_path, capsys
):
  path = tmp_path / "grid.json"
  arguments = ["--methods=mocov2,byol", "--awareness=ai,looc,cassle"]
  arguments += ["--backbone=resnet34", f"--json={path}"]
  assert benchmark.main(["step", "--grid", *arguments]) == 0
  result = json.loads(path.read_text())
  assert [(c["method"], c["awareness"]) for c in result["cells"]] == [
    ("mocov2", "vanilla"),
    ("mocov2", "looc"),
    ("mocov2", "cassle"),
    ("byol", "vanilla"),
    ("byol", "cassle"),
  ]
  assert [(c["method"], c["awareness"]) for c in result["refused"]] == [
    ("mocov2", "ai"),
    ("byol", "ai"),
  ]
  assert "byol ai: ai needs another backbone." in capsys.readouterr().err


@pytest.mark.parametrize("method,awareness", supported())
def test_every_cell_has_a_config_that_goes_through_the_checks(
  method, awareness
):
  for backbone in (None, "resnet50"):
    config = grid.config(method, awareness, backbone=backbone)
    config = setup.resolve(config)
    assert setup.build(config, Platform("cpu")).awareness.name == awareness
    small = config.model.projector is not None
    assert small <= (backbone is None)


def test_parts_are_built_without_the_configs_data():
  config = grid.config("mocov2", "looc", image_size=16, batch=8)
  config.data.source = "folder:/nowhere"
  config.data.class_list = "/nowhere/list.txt"
  built = program.build(config)
  assert built.config.data.canvas_size == experiment.canvas_of(config) == 64
  assert built.abstract.memory["queue"].shape == (3, 256, 128)
  assert config.data.source == "folder:/nowhere"


@pytest.mark.parametrize(
  "arguments,message",
  [
    ([], "give either --config=.* or --grid"),
    (["--grid", f"--config={SIMCLR}"], "give either"),
    (["--grid", "--profile=x"], "--profile goes with --config"),
    (
      [f"--config={QUICKSTART}", "--compare", "torch"],
      "backbone for --compare torch 'conv3'",
    ),
    (
      [f"--config={SIMCLR}:ai", "--compare", "torch"],
      "one device and the mesh has 8; set --config.mesh.data=1",
    ),
    (["--grid", "--compare", "vanilla"], "--compare goes with --config"),
    (["--grid", "--config.seed=1"], "goes with --config"),
    ([f"--config={SIMCLR}", "--methods=byol"], "--methods goes with --grid"),
    ([f"--config={SIMCLR}", "--rounds=0"], "--rounds=0 must be at least 1"),
    (["--grid", "--json=/nope/x.json"], "--json=/nope/x.json: .*'/nope'"),
    (["--grid", "--methods=boyl"], "'boyl'. Did you mean 'byol'"),
    (["--grid", "--awareness=casle"], "'casle'. Did you mean 'cassle'"),
    (["--grid", "--methods=byol", "--awareness=ifm"], "no negatives"),
    (["--grid", "--methods=simclr", "--backbone=resnet5"], "'resnet5'"),
    ([f"--config={SIMCLR}", "--compare", "nope.py"], "no config file 'nope"),
    ([f"--config={SIMCLR}:ai", "--compare", "looc"], "'looc' does not go"),
    ([f"--config={SIMCLR}", "--batch=12"], "batch_size=12 does not divide"),
    (
      [f"--config={QUICKSTART}", f"--profile={QUICKSTART}/x"],
      "--profile=.*quickstart.py/x: cannot write it .*; name a file",
    ),
  ],
)
def test_bad_values_are_refused_before_anything_is_compiled(
  arguments, message, monkeypatch
):
  monkeypatch.setattr(experiment, "compile_step", None)
  with pytest.raises(UserError, match=message) as error:
    benchmark.main(["step", *arguments])
  assert "\n" not in str(error.value)


def test_a_config_beside_itself(clock, monkeypatch, capsys):
  seen = []
  monkeypatch.setattr(program, "build", lambda config: None)

  def prepare(config, **_):
    seen.append(config)
    return fake(1.0, image_size=[32, 64][config.awareness.name == "vanilla"])

  monkeypatch.setattr(program, "prepare", prepare)
  path = f"{SIMCLR}:augself"
  arguments = [f"--config={path}", "--compare", path, "vanilla"]
  assert benchmark.main(["step", *arguments, "--compare", path]) == 0
  labels = ["simclr_resnet50:augself", "vanilla"]
  printed = capsys.readouterr().out
  assert printed.startswith("resnet18, 32/64 px, float32, 8 images a step, 5 ")
  for label in (*labels, f"{labels[0]} #2", f"{labels[0]} #3"):
    assert f"\n{label} " in printed
  # Another awareness has its own defaults, not the first one's options.
  assert [c.awareness.name for c in seen] == ["augself"] * 2 + [
    "vanilla",
    "augself",
  ]
  assert seen[0].awareness.crop_weight == 0.5
  assert seen[2].awareness.crop_weight is None
