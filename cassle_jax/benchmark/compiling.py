"""How long a program takes to compile: anew, and out of a cache."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

# What decides where compiled programs are kept, and which.
_OPTIONS = {
  "jax_enable_compilation_cache": True,
  "jax_persistent_cache_min_compile_time_secs": 0.0,
  "jax_persistent_cache_min_entry_size_bytes": -1,
}


@contextlib.contextmanager
def fresh_cache() -> Iterator[None]:
  """A compilation cache that is empty, and gone afterwards."""
  names = ("jax_compilation_cache_dir", *_OPTIONS)
  before = {name: getattr(jax.config, name) for name in names}
  with tempfile.TemporaryDirectory() as folder:
    for name, value in _OPTIONS.items():
      jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()
    try:
      yield
    finally:
      for name, value in before.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()


def clocked(
  lower: Callable[[], jax.stages.Lowered], *, cached: bool
) -> tuple[jax.stages.Lowered, jax.stages.Compiled, list[float]]:
  """Traces, lowers and compiles a program, on the clock.

  Args:
    lower: traces and lowers it anew each time.
    cached: whether to do all of it again, with the program in a cache.

  Returns:
    What was lowered and compiled first, and the seconds of each time.
  """
  with fresh_cache() if cached else contextlib.nullcontext():
    began = time.perf_counter()
    lowered = lower()
    compiled = lowered.compile()
    seconds = [time.perf_counter() - began]
    if cached:
      began = time.perf_counter()
      lower().compile()
      seconds.append(time.perf_counter() - began)
  return lowered, compiled, seconds
