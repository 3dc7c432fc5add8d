"""Compiled programs kept on disk, so that a run's next start is quick.

They are machine code that is loaded and run: a cache must not be writable by
others, and a run's folder that comes from somebody else should lose its
`.jax_cache` before it is continued.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

from cassle_jax.runs.logs import say

FOLDER = ".jax_cache"
VARIABLE = "JAX_COMPILATION_CACHE_DIR"


@contextlib.contextmanager
def use(run_folder: str, *, enabled: bool = True) -> Iterator[str | None]:
  """Keeps compiled programs while it is entered.

  Args:
    run_folder: the run's; the cache is its `.jax_cache`, unless the environment
      variable JAX_COMPILATION_CACHE_DIR names another folder.
    enabled: False keeps nothing. So do JAX_COMPILATION_CACHE_DIR= and
      JAX_ENABLE_COMPILATION_CACHE=false.

  Yields:
    The cache's folder, or None where there is none.
  """
  before = jax.config.jax_compilation_cache_dir
  folder = _choose(run_folder, enabled)
  if folder == before:
    yield folder
    return
  _set(folder)
  try:
    yield folder
  finally:
    _set(before)


def _choose(run_folder: str, enabled: bool) -> str | None:
  if not enabled or not jax.config.jax_enable_compilation_cache:
    return None
  named = os.environ.get(VARIABLE, jax.config.jax_compilation_cache_dir)
  if named == "":
    return None
  folder = named or os.path.join(os.path.abspath(run_folder), FOLDER)
  if "://" in folder:
    return folder
  try:
    # Others may read a run; whoever can write here can run code.
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.stat(folder)
  except OSError as error:
    say(f"no compilation cache: {folder} cannot be used ({error.strerror})")
    return None
  if found.st_mode & stat.S_IWOTH:
    say(
      f"no compilation cache: everybody can write to {folder}, and its programs"
      f" are run; chmod o-w it, or name another folder in {VARIABLE}"
    )
    return None
  if not named and found.st_uid != os.getuid():
    say(
      f"no compilation cache: {folder} is somebody else's, and its programs are"
      f" run; name a folder that you trust in {VARIABLE}"
    )
    return None
  return folder


def _set(folder: str | None) -> None:
  jax.config.update("jax_compilation_cache_dir", folder)
  # JAX opens the folder that is set when it first compiles, once.
  compilation_cache.reset_cache()
