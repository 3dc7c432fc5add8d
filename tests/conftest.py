"""Strict settings for every test: 8 fake devices, no silent broadcasting."""

import importlib.metadata
import os
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Runs keep compiled programs in their folders, which tests do not come back to.
# With JAX_ENABLE_COMPILATION_CACHE=true JAX_COMPILATION_CACHE_DIR=DIR the suite
# keeps its own: the next run takes a third less time.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
os.environ["XLA_FLAGS"] = " ".join(
  (
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    # Compiling is most of the suite; LLVM need not try hard for tiny shapes.
    "--xla_backend_optimization_level=0",
    # The older way to make code of fusions takes half the time to compile.
    # Flags come and go, and an unknown one ends the process.
    "--xla_cpu_use_fusion_emitters=false"
    if importlib.metadata.version("jaxlib").startswith("0.10.")
    else "",
  )
)

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# A suite that is started in the background inherits signals that are ignored.
for _number, _handler in (
  (signal.SIGINT, signal.default_int_handler),
  (signal.SIGHUP, signal.SIG_DFL),
):
  if signal.getsignal(_number) == signal.SIG_IGN:
    signal.signal(_number, _handler)


@pytest.fixture
def golden():
  """Reads one reference file of tests/golden as a dict of arrays."""
  folder = os.path.join(os.path.dirname(__file__), "golden")

  def read(name: str) -> dict[str, np.ndarray]:
    with np.load(os.path.join(folder, name + ".npz")) as arrays:
      return {key: arrays[key] for key in arrays.files}

  return read
