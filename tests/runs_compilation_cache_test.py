"""Compiled programs in the run's folder, which nobody else may write to."""

import os
import stat

import jax
import jax.numpy as jnp
import pytest

from cassle_jax.runs import compilation_cache


@pytest.fixture
def switched_on(monkeypatch):
  """As outside the tests, and so that the smallest program is kept."""
  names = {
    "jax_enable_compilation_cache": True,
    "jax_compilation_cache_dir": None,  # The tests may have one themselves.
    "jax_persistent_cache_min_compile_time_secs": 0.0,
  }
  before = {name: getattr(jax.config, name) for name in names}
  monkeypatch.delenv(compilation_cache.VARIABLE, raising=False)
  for name, value in names.items():
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_programs_are_kept_in_the_run_folder_while_it_is_entered(
  tmp_path, switched_on
):
  before = jax.config.jax_compilation_cache_dir
  with compilation_cache.use(str(tmp_path)) as folder:
    assert folder == str(tmp_path / ".jax_cache")
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(5))
  kept = os.listdir(folder)
  assert kept and stat.S_IMODE(os.stat(folder).st_mode) == 0o700
  assert jax.config.jax_compilation_cache_dir == before
  jax.jit(lambda x: x * 5 - 1)(jnp.ones(5))
  assert os.listdir(folder) == kept


def test_the_environment_names_another_folder(
  tmp_path, switched_on, monkeypatch
):
  other = tmp_path / "other"
  monkeypatch.setenv(compilation_cache.VARIABLE, str(other))
  with compilation_cache.use(str(tmp_path / "run")) as folder:
    assert folder == str(other)
  assert not (tmp_path / "run").exists()


def test_it_can_be_switched_off(tmp_path, switched_on, monkeypatch):
  with compilation_cache.use(str(tmp_path), enabled=False) as folder:
    assert folder is None
  monkeypatch.setenv(compilation_cache.VARIABLE, "")
  with compilation_cache.use(str(tmp_path)) as folder:
    assert folder is None
  monkeypatch.delenv(compilation_cache.VARIABLE)
  jax.config.update("jax_enable_compilation_cache", False)
  with compilation_cache.use(str(tmp_path)) as folder:
    assert folder is None
  assert not list(tmp_path.iterdir())


def test_a_folder_that_everybody_can_write_to_is_not_used(
  tmp_path, switched_on, capsys
):
  folder = tmp_path / ".jax_cache"
  folder.mkdir()
  folder.chmod(0o777)
  with compilation_cache.use(str(tmp_path)) as used:
    assert used is None
  assert "everybody can write to" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_not_used(
  tmp_path, switched_on, capsys, monkeypatch
):
  monkeypatch.setattr(os, "getuid", lambda: 12345)
  with compilation_cache.use(str(tmp_path)) as used:
    assert used is None
  assert "somebody else's" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_line(
  tmp_path, switched_on, capsys
):
  (tmp_path / ".jax_cache").write_text("a file")
  with compilation_cache.use(str(tmp_path)) as used:
    assert used is None
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and "no compilation cache" in lines[0]
