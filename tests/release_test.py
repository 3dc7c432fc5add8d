"""What a user gets who has no clone: the wheel, and the command `cassle`."""

import glob
import importlib.util
import os
import subprocess
import sys

import pytest

from cassle_jax import __main__ as console
from cassle_jax import __version__
from cassle_jax import config as config_lib
from cassle_jax.config import files
from cassle_jax.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_a_config_is_found_by_name_wherever_one_is(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  by_name = config_lib.load("quickstart:vanilla")
  by_path = config_lib.load(os.path.join(ROOT, "configs/quickstart.py:vanilla"))
  assert by_name == by_path
  assert config_lib.load("configs/quickstart.py:vanilla") == by_path
  assert "mocov3_vit" in files.names()
  with pytest.raises(UserError, match="did you mean 'quickstart'"):
    config_lib.load("quikstart")
  # A file of one's own goes first.
  (tmp_path / "quickstart").write_text("")
  with pytest.raises(UserError, match=r"neither \.py nor \.json"):
    config_lib.load("quickstart")


def test_cassle_lists_its_commands_and_names_the_nearest(capsys):
  assert console.main([]) == 0
  said = capsys.readouterr().out
  for name, (module, _) in console.COMMANDS.items():
    assert f"  {name}" in said
    assert importlib.util.find_spec(module), module
  assert console.main(["--version"]) == 0
  assert capsys.readouterr().out.split() == ["cassle_jax", __version__]
  with pytest.raises(UserError, match="Did you mean 'train'"):
    console.main(["trian"])


def test_every_command_is_one_of_cassle():
  package = os.path.join(ROOT, "cassle_jax")
  modules = set()
  scripts = glob.glob(f"{package}/*.py") + glob.glob(f"{package}/*/__main__.py")
  for path in scripts:
    with open(path) as file:
      if "\n  cli.run(" in file.read():
        name = os.path.relpath(path, ROOT).removesuffix(".py")
        modules.add(name.removesuffix("/__main__").replace("/", "."))
  listed = {module for module, _ in console.COMMANDS.values()}
  assert modules - {"cassle_jax"} == listed


def test_cassle_runs_a_command_under_its_own_name(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["cassle"])
  for module, _ in console.COMMANDS.values():
    # `runpy` warns of modules that it runs a second time.
    monkeypatch.delitem(sys.modules, module, raising=False)
  with pytest.raises(SystemExit) as ended:
    console.main(["train"])
  assert ended.value.code == 2
  assert "see cassle train --help" in capsys.readouterr().err


def test_a_clone_may_lie_beside_where_one_works(tmp_path):
  """An empty namespace package of that name does not hide the real one."""
  (tmp_path / "cassle_jax" / "runs").mkdir(parents=True)
  done = subprocess.run(
    [sys.executable, "-c", "import cassle_jax; print(cassle_jax.__file__)"],
    cwd=tmp_path,
    env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    capture_output=True,
    text=True,
  )
  assert done.stdout.strip().endswith("__init__.py"), done.stderr


@pytest.mark.slow
def test_the_wheel_trains_evaluates_and_reports_in_an_empty_folder(tmp_path):
  environment, empty = tmp_path / "environment", tmp_path / "empty"
  empty.mkdir()
  subprocess.run([sys.executable, "-m", "venv", environment], check=True)
  python = environment / "bin" / "python"
  clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

  def do(*words):
    return subprocess.run(
      words,
      cwd=empty,
      env=clean,
      check=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    ).stdout

  # A copy, for a build leaves folders beside the sources.
  source = tmp_path / "source"
  subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
  do(python, "-m", "pip", "install", "-q", "build", "twine")
  do(python, "-m", "build", "--outdir", tmp_path / "dist", source)
  built = sorted(tmp_path.glob("dist/*"))
  assert [path.suffix for path in built] == [".whl", ".gz"]
  do(python, "-m", "twine", "check", "--strict", *built)
  do(python, "-m", "pip", "install", "-q", built[0])
  where = do(python, "-c", "import cassle_jax; print(cassle_jax.__file__)")
  assert where.startswith(str(environment))

  cassle = environment / "bin" / "cassle"
  assert "train" in do(cassle, "--help")
  do(cassle, "train", "--config=quickstart:tiny", "--workdir=runs/a")
  do(
    *(cassle, "evaluate", "--config=eval/all", "--workdir=runs/a"),
    *("--config.tasks=knn,spectrum", "--config.datasets=earth"),
  )
  do(cassle, "report", "runs/a", "--out=report")
  assert (empty / "report" / "report.html").stat().st_size > 10_000
