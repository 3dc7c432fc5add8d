"""The package as a whole: imports, what they pull in, what code may not do."""

import ast
import configparser
import glob
import graphlib
import importlib.util
import os
import pkgutil
import subprocess
import sys

import pytest

import cassle_jax

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODULES = sorted(
  m.name for m in pkgutil.walk_packages(cassle_jax.__path__, "cassle_jax.")
)
FILES = [
  os.path.join(folder, name)
  for folder, _, names in os.walk(os.path.join(ROOT, "cassle_jax"))
  for name in names
  if name.endswith(".py")
]
TEXTS = ["README.md"] + [
  os.path.join("configs", name)
  for name in sorted(os.listdir(os.path.join(ROOT, "configs")))
  if name.endswith(".py")
]
# Where numbers are put in once they are measured.
PLACEHOLDERS = (
  "TODO",
  "QUICKSTART_TABLE",
  "BENCHMARK_TABLE",
  "KORNIA_",
  "QUICK_TIME",
)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_and_says_what_it_is(module):
  assert importlib.import_module(module).__doc__


@pytest.mark.parametrize(
  "module, absent",
  [
    ("cassle_jax", ("jax", "tensorflow", "torch")),
    ("cassle_jax.augment", ("tensorflow", "torch", "orbax", "grain", "flax")),
    ("cassle_jax.step", ("tensorflow", "torch", "grain", "tensorboardX")),
    ("cassle_jax.training.loop", ("tensorflow", "torch")),
  ],
)
def test_imports_pull_in_no_more_than_they_need(module, absent):
  code = f"import sys, {module}; print(*sys.modules)"
  output = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  loaded = {name.split(".")[0] for name in output.stdout.split()}
  assert not loaded & set(absent)


@pytest.mark.parametrize("path", FILES, ids=lambda p: os.path.relpath(p, ROOT))
def test_nothing_that_runs_strangers_code(path):
  """No pickle, eval or exec, and no files that may hold objects."""
  with open(path) as file:
    tree = ast.parse(file.read())
  for node in ast.walk(tree):
    if isinstance(node, ast.Import | ast.ImportFrom):
      names = [a.name for a in node.names]
      names.append(getattr(node, "module", None) or "")
      assert not {"pickle", "dill", "cloudpickle"} & set(names)
    if isinstance(node, ast.Call):
      name = getattr(node.func, "id", "")
      assert name not in ("eval", "exec"), node.lineno
      function = ast.unparse(node.func)
      assert not function.endswith("pickle.load"), node.lineno
      if function == "torch.load":
        safe = [k for k in node.keywords if k.arg == "weights_only"]
        assert safe and getattr(safe[0].value, "value", None) is True
      for keyword in node.keywords:
        allowed = keyword.arg == "allow_pickle" and getattr(
          keyword.value, "value", None
        )
        assert not allowed, node.lineno


@pytest.mark.parametrize("name", TEXTS)
def test_no_placeholder_is_left(name):
  with open(os.path.join(ROOT, name)) as file:
    text = file.read()
  found = [word for word in PLACEHOLDERS if word in text]
  assert not found, found


def test_models_are_the_only_place_that_knows_linen():
  for path in FILES:
    inside = f"{os.sep}models{os.sep}" in path
    with open(path) as file:
      text = file.read()
    assert inside or "flax.linen" not in text, path


# Rooms that know nothing of each other stand in one line.
ROOMS = """
errors
hosts
runs
augment models methods optim
weights
awareness
step
data
evaluation
config
training
evaluate
report
benchmark
preflight
preview prepare embed convert main
__main__
"""
LEVEL = {
  room: level
  for level, rooms in enumerate(ROOMS.split("\n"))
  for room in rooms.split()
}


def imported(module):
  """The modules of the package that one imports, inside of functions too."""
  path = importlib.util.find_spec(module).origin
  with open(path) as file:
    tree = ast.parse(file.read())
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {name.name for name in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{module}: relative import"
      for name in node.names:
        whole = f"{node.module}.{name.name}"
        found.add(whole if whole in MODULES else node.module)
  return {name for name in found if name in MODULES}


def room(module):
  return module.split(".")[1]


def test_the_package_is_a_house_of_few_rooms():
  names = set(os.listdir(os.path.join(ROOT, "cassle_jax")))
  names -= {"__init__.py", "__pycache__", "py.typed", "configs"}
  assert len(names - {"__main__.py"}) <= 23, sorted(names)
  assert {name.removesuffix(".py") for name in names} == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module):
  for name in imported(module):
    below = LEVEL[room(name)] < LEVEL[room(module)]
    assert below or room(name) == room(module), name


def test_imports_run_in_no_circle():
  # A CycleError names the modules.
  graphlib.TopologicalSorter({m: imported(m) for m in MODULES}).prepare()


def test_the_public_names_that_forks_import():
  """The contract of the README; renaming one of them breaks other projects."""
  names = {
    "augment": "random_resized_crop horizontal_flip color_jitter grayscale"
    " gaussian_blur solarize sample apply describe views presets omega",
    "models": "build ConditionedProjector ResNet VisionTransformer",
    "methods": "simclr mocov2 mocov3 byol simsiam barlow_twins vicreg"
    " swav dino nnclr lejepa",
    "step": "TrainState create_state train_step",
    "evaluation": "linear knn",
  }
  for module, wanted in names.items():
    loaded = importlib.import_module(f"cassle_jax.{module}")
    for name in wanted.split():
      assert hasattr(loaded, name), f"{module}.{name}"


def _setup():
  parser = configparser.ConfigParser()
  parser.read(os.path.join(ROOT, "setup.cfg"))
  return parser


def test_the_wheel_has_every_file():
  package = os.path.join(ROOT, "cassle_jax")
  # What `packages = find:` finds.
  for _, _, names in os.walk(package):
    assert "__init__.py" in names or not any(n.endswith(".py") for n in names)
  patterns = _setup()["options.package_data"]["cassle_jax"].split()
  carried = {
    os.path.relpath(path, package)
    for pattern in patterns
    for path in glob.glob(os.path.join(package, pattern))
  }
  others = {
    os.path.relpath(os.path.join(folder, name), package)
    for folder, _, names in os.walk(package)
    for name in names
    if not name.endswith((".py", ".pyc"))
  }
  configs = {
    os.path.relpath(path, ROOT)
    for path in glob.glob(os.path.join(ROOT, "configs", "**", "*.py"))
    + glob.glob(os.path.join(ROOT, "configs", "*.py"))
  }
  assert carried == others | configs
