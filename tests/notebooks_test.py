"""The notebooks of launch/colab: clean, importable, and run top to bottom.

`CASSLE_JAX_NOTEBOOK=small python -m pytest --nbmake launch/colab` runs them by
hand.
"""

import ast
import base64
import importlib
import inspect
import os
import signal
import subprocess
import sys

import nbformat
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "launch", "colab")
NAMES = sorted(n for n in os.listdir(FOLDER) if n.endswith(".ipynb"))
INSTALLS = "skip-execution"
PICTURE_BYTES = 60_000


def cells(name, kind):
  with open(os.path.join(FOLDER, name)) as file:
    notebook = nbformat.read(file, as_version=4)
  return [cell for cell in notebook.cells if cell.cell_type == kind]


def test_all_three_are_there():
  assert NAMES == [
    "evaluate_report.ipynb",
    "own_loop.ipynb",
    "quickstart.ipynb",
  ]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_valid_and_holds_no_results(name):
  with open(os.path.join(FOLDER, name)) as file:
    nbformat.validate(nbformat.read(file, as_version=nbformat.NO_CONVERT))
  for cell in cells(name, "code"):
    assert cell.execution_count is None
    for output in cell.outputs:
      assert set(output.get("data", {})) == {"image/png"}, cell.source
  for cell in cells(name, "markdown"):
    for file, data in cell.get("attachments", {}).items():
      assert f"](attachment:{file})" in cell.source
      picture = base64.b64decode(data["image/png"])
      assert picture.startswith(b"\x89PNG") and len(picture) < PICTURE_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_installing_is_left_out_of_tests_and_asks_for_a_url(name):
  (install,) = [
    cell
    for cell in cells(name, "code")
    if INSTALLS in cell.metadata.get("tags", [])
  ]
  assert install.source == cells(name, "code")[0].source
  assert "CLONE_URL = " in install.source and "YOU" in install.source
  for cell in cells(name, "code"):
    shell = [x for x in cell.source.split("\n") if x.startswith(("!", "%"))]
    assert not shell or cell.source == install.source, shell


@pytest.mark.parametrize("name", NAMES)
def test_every_import_of_the_package_resolves(name):
  """And so does what is asked of the modules by name."""
  imported = {}
  for cell in cells(name, "code"):
    if INSTALLS in cell.metadata.get("tags", []):
      continue
    for node in ast.walk(ast.parse(cell.source)):
      if isinstance(node, ast.ImportFrom):
        if node.module.split(".")[0] == "cassle_jax":
          module = importlib.import_module(node.module)
          for alias in node.names:
            if not hasattr(module, alias.name):
              importlib.import_module(f"{node.module}.{alias.name}")
            imported[alias.name] = getattr(module, alias.name)
      if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if inspect.ismodule(imported.get(node.value.id)):
          assert hasattr(imported[node.value.id], node.attr), node.attr
  assert len(imported) >= 3


def run(name, folder):
  """Runs a notebook at its small size; returns pytest's words on it."""
  # A file and not a pipe: a kernel that outlived its time would hold it open.
  log = os.path.join(folder, "log")
  with open(log, "w") as file:
    process = subprocess.Popen(
      [sys.executable, "-m", "pytest", "-p", "no:xdist", "--nbmake"]
      + ["--nbmake-timeout=600", os.path.join(FOLDER, name)],
      cwd=ROOT,
      env=os.environ
      | {
        "CASSLE_JAX_NOTEBOOK": "small",
        "JAX_PLATFORMS": "cpu",
        # One device: compiling for eight takes longer and shows nothing more.
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + " --xla_force_host_platform_device_count=1",
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYTHONPATH": ROOT,
        "TMPDIR": str(folder),
      },
      stdout=file,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )
    try:
      status = process.wait(timeout=900)
    finally:
      try:
        os.killpg(process.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
  with open(log) as file:
    return status, file.read()


def test_one_that_fails_is_noticed(tmp_path):
  name = tmp_path / "bad.ipynb"
  bad = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
  nbformat.write(bad, name)
  status, text = run(str(name), tmp_path)
  assert status == 1 and "ZeroDivisionError" in text


@pytest.mark.parametrize(
  "name",
  [
    pytest.param("own_loop.ipynb", marks=pytest.mark.slow),
    pytest.param("quickstart.ipynb", marks=pytest.mark.slow),
    pytest.param("evaluate_report.ipynb", marks=pytest.mark.slow),
  ],
)
def test_a_notebook_runs_offline_on_a_cpu(name, tmp_path):
  status, text = run(name, tmp_path)
  assert status == 0 and "1 passed" in text, text[-3000:]
