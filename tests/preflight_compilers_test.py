"""With XLA's real compilers; each needs a package, and a minute or so."""

import importlib.util
import json
import os

import pytest

from cassle_jax import preflight
from cassle_jax.awareness.cells import supported
from cassle_jax.preflight import compiler

TINY = "configs/mocov3_vit.py:tiny"


def needs(module):
  missing = importlib.util.find_spec(module) is None
  return pytest.mark.skipif(missing, reason=f"{module} is not installed")


@pytest.fixture(autouse=True)
def without_flags_of_tests(monkeypatch):
  monkeypatch.delenv("XLA_FLAGS", raising=False)


gpu, tpu = needs("jax_cuda12_plugin"), needs("libtpu")


@pytest.mark.slow
@pytest.mark.parametrize(
  "on,devices",
  [
    pytest.param("h100x2", 2, marks=gpu),
    pytest.param("a100", 1, marks=gpu),
    pytest.param("v5e:2x2", 4, marks=tpu),
    pytest.param("v6e:2x2", 4, marks=tpu),
  ],
)
def test_a_tiny_step_for_chips_that_are_not_there(on, devices, tmp_path):
  path = tmp_path / "one.json"
  line = [f"--config={TINY}", f"--on={on}", f"--json={path}"]
  assert preflight.main([*line, "--config.precision=bfloat16"]) == 0
  result = json.loads(path.read_text())
  assert result["devices"] == devices and result["fits"]
  assert 1e6 < result["memory_bytes"] < 1e9
  assert 1e6 < result["traffic_bytes_per_image"] < 1e9
  sent = result["collective_bytes"]
  # Every gradient, at least once, in 16 or 32 bits.
  assert not sent if devices == 1 else sent["all-reduce"] > 2e5
  found = result["found"]
  assert found["attention"] == ("xla" if ":" in on else "cudnn")
  # What runs when says as much memory as XLA itself, within its packing.
  if ":" not in on:
    held, temporaries = sum(found["held"].values()), found["memory"]
    assert 0.8 < held / temporaries["temporaries"] < 1.2


@pytest.mark.slow
@gpu
def test_the_step_of_a_vit_keeps_to_its_traffic():
  """MoCo-v3, ViT-S/16, batch 64: what every step of the way has won stays."""
  found = compiler.compiled(
    "configs/mocov3_vit.py", ["batch_size=64"], "h100", 1281167
  )
  each = sum(found["traffic"].values()) / 64
  # Before these steps it was 1.60e9 (batch 256).
  assert each < 0.75e9, found["traffic"]


CELLS = [f"configs/grid.py:{'/'.join(cell)}" for cell in supported()]
CONFIGS = [
  "configs/mocov2_resnet50.py:ai",
  *(
    os.path.join("configs", name)
    for name in sorted(os.listdir("configs"))
    if name.endswith(".py") and name != "grid.py"
  ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
  "on", [pytest.param("h100x2", marks=gpu), pytest.param("v5e:2x2", marks=tpu)]
)
@pytest.mark.parametrize("config", [*CELLS, *CONFIGS])
def test_every_cell_and_every_config_compiles(config, on):
  """Hours of CPU time for all of them; -k picks some."""
  overrides = ["precision=bfloat16", "batch_size=16"]
  if "mocov2" in config:
    overrides += ["method.queue_size=256"]
  found = compiler.compiled(config, overrides, on, 16 * 100)
  assert found["flops"] > 0 and sum(found["traffic"].values()) > 0
