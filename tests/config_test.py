"""Configs and the command line: defaults, types, overrides, refusals."""

import json
import os
import subprocess
import sys

import pytest

from cassle_jax import config as config_lib
from cassle_jax import main, methods
from cassle_jax.awareness import cells
from cassle_jax.config import cli
from cassle_jax.errors import UserError
from cassle_jax.evaluate import config as evaluation_config
from cassle_jax.hosts.platforms import Platform
from cassle_jax.training import experiment
from cassle_jax.training import setup as setup_lib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIGS = os.path.join(ROOT, "configs")
NAMES = sorted(n for n in os.listdir(CONFIGS) if n.endswith(".py"))


def variants_of(name):
  """The variants that a config's docstring promises."""
  with open(os.path.join(CONFIGS, name)) as file:
    text = file.read()
  start = text.index('"""Variants: ') + len('"""Variants: ')
  variants = text[start : text.index(".", start)].split(", ")
  if "METHOD/AWARENESS" in variants:
    variants.remove("METHOD/AWARENESS")
    variants += ["/".join(cell) for cell in cells.supported()]
  return variants


ALL = [f"{name}:{variant}" for name in NAMES for variant in variants_of(name)]


@pytest.mark.parametrize("name", ALL)
def test_every_config_loads_and_fits_its_functions(name):
  config = config_lib.load(os.path.join(CONFIGS, name))
  made = setup_lib.build(setup_lib.resolve(config), Platform("cpu"))
  assert (made.networks.predictor is None) == (not made.method.heads.predictor)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_says_how_to_run_it_and_what_to_expect(name):
  with open(os.path.join(CONFIGS, name)) as file:
    docstring = file.read().split('"""')[1]
  assert f"--config=configs/{name}" in docstring
  for word in ("Hardware:", "Expected", "easured"):
    assert word in docstring, word


@pytest.mark.parametrize("name", methods.METHODS)
def test_tiny_shrinks_the_heads_of_every_method(name):
  config = config_lib.default()
  config.method.name = name
  made = setup_lib.build(
    setup_lib.resolve(config_lib.tiny(config)), Platform("cpu")
  )
  method, networks = made.method, made.networks
  assert max(networks.projector.widths) <= 128
  assert bool(networks.predictor) == bool(method.heads.predictor)
  if networks.predictor:
    assert max(networks.predictor.widths) <= 64


@pytest.fixture
def config():
  return config_lib.default()


@pytest.mark.parametrize(
  "override, key, value",
  [
    ("batch_size=1e2", "batch_size", 100),
    ("epochs=3", "epochs", 3.0),
    ("steps=7", "steps", 7),
    ("steps=None", "steps", None),
    ("optim.learning_rate=3e-4", "optim.learning_rate", 3e-4),
    ("optim.betas=(0.8,0.9)", "optim.betas", (0.8, 0.9)),
    ("optim.betas=0.8,0.9", "optim.betas", (0.8, 0.9)),
    ("model.omega=crop,color", "model.omega", ("crop", "color")),
    ("model.omega=('crop',)", "model.omega", ("crop",)),
    ("model.remat=true", "model.remat", True),
    ("model.conditioning=none", "model.conditioning", "none"),
    ("model.projector=(512,128)", "model.projector", (512, 128)),
    ("method.queue_size=4096", "method.queue_size", 4096),
    ("augment.blur=(1.0,0.1)", "augment.blur", (1.0, 0.1)),
    ("augment.crop_scale=0.5,1", "augment.crop_scale", (0.5, 1)),
    ("augment.blur_kernel=3,5", "augment.blur_kernel", (3, 5)),
    ("augment.jitter_order=fixed", "augment.jitter_order", "fixed"),
    ("augment.saturation=hsv,blend", "augment.saturation", ("hsv", "blend")),
    ("data.source=folder:/a=b", "data.source", "folder:/a=b"),
  ],
)
def test_overrides_take_the_type_of_their_key(config, override, key, value):
  config_lib.apply_override(config, override)
  config_lib.check(config)
  found = config
  for part in key.split("."):
    found = found[part]
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  "override, words",
  [
    ("optim.lrr=3", "optim.lrr.*config.optim.learning_rate"),
    ("optim.learning_rte=3", "Did you mean config.optim.learning_rate"),
    ("methd.name=simclr", "Did you mean config.method.name"),
    ("batchsize=3", "Did you mean config.batch_size"),
    ("batch_size=1.5", "batch_size=1.5 is not valid; it must be int"),
    ("batch_size=many", "must be int"),
    ("model.remat=maybe", "must be True or False"),
    ("optim.betas=0.9", "must be tuple"),
    ("optim.learning_rate", "has no value"),
  ],
)
def test_bad_overrides_are_one_clear_line(config, override, words):
  with pytest.raises(UserError, match=words) as error:
    config_lib.apply_override(config, override)
  assert "\n" not in str(error.value)


def test_a_config_file_with_a_key_that_no_function_takes(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(
    "from cassle_jax import config as c\n"
    "def get_config():\n"
    "  config = c.default()\n"
    "  config.optim.unlock()\n"
    "  config.optim.wieght_decay = 1.0\n"
    "  return config\n"
  )
  with pytest.raises(UserError, match="Did you mean config.optim.weight_decay"):
    config_lib.load(str(path))


@pytest.mark.parametrize(
  "text, words",
  [
    ("def get_config(:\n", "mine.py, line 1"),
    ("x = 1\n", "no function get_config"),
  ],
)
def test_broken_config_files(tmp_path, text, words):
  path = tmp_path / "mine.py"
  path.write_text(text)
  with pytest.raises(UserError, match=words):
    config_lib.load(str(path))


@pytest.mark.parametrize(
  "line, words",
  [
    ("config.optm.name = 1", 'line 4: AttributeError: .*mean "optim"'),
    ("config.batch_size = 'many'", "line 4: TypeError: .*'batch_size'"),
    ("config.optim = 3", "line 4: TypeError: .*'optim'"),
    ("import no_such_module", "line 4: ModuleNotFoundError: .*no_such_module"),
    ("config.epochs = epoch", "line 4: NameError: name 'epoch'"),
    ("config.epochs = {}['long']", "line 4: KeyError: 'long'"),
    ("config.epochs = float('long')", "line 4: ValueError: .*'long'"),
    ("config.epochs = helper()", "line 7: ZeroDivisionError"),
    ("assert not config", "line 4: AssertionError[.]"),
    ("return None", "returns a NoneType; it must return"),
  ],
)
def test_errors_inside_a_config_file_are_one_line(tmp_path, line, words):
  path = tmp_path / "mine.py"
  path.write_text(
    "from cassle_jax import config as c\n"
    "def get_config():\n"
    "  config = c.default()\n"
    f"  {line}\n"
    "  return config\n"
    "def helper():\n"
    "  return 1 / 0\n"
  )
  with pytest.raises(UserError, match=f"mine.py.*{words}") as error:
    config_lib.load(str(path))
  assert "\n" not in str(error.value)


def test_a_broken_file_that_a_config_imports_is_named_by_its_own_line(tmp_path):
  (tmp_path / "other.py").write_text("\n\n\n\n\n(\n")
  path = tmp_path / "mine.py"
  path.write_text(
    f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport other\n"
  )
  try:
    with pytest.raises(UserError, match="mine.py, line 3: .*other.py, line 6"):
      config_lib.load(str(path))
  finally:
    sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
  "text, words",
  [
    ('{"seed":', "cannot be read as JSON .*line 1"),
    ("[]", "holds a list"),
    ('{"optim": 3}', "config.optim=3 must be a section"),
    ('{"optim": null}', "config.optim=None must be a section"),
    ('{"optim": {"lr": 3}}', "optim.lr.*config.optim.learning_rate"),
    ('{"optim": {"name": {"a": 1}}}', "optim.name=.*must be str"),
    ('{"a.b": 3}', "mine.json: .*a.b"),
    ('{"items": 3}', "unknown key config.items"),
    ('{"seed": "many"}', "seed='many' is a str"),
  ],
)
def test_broken_json_configs(tmp_path, text, words):
  path = tmp_path / "mine.json"
  path.write_text(text)
  with pytest.raises(UserError, match=words) as error:
    config_lib.load(str(path), ["optim.learning_rate=1.0"])
  assert "\n" not in str(error.value)


def test_what_a_config_lacks_is_the_default(tmp_path):
  path = tmp_path / "mine.json"
  path.write_text('{"seed": 3, "optim": {"learning_rate": 0.5}}')
  wanted = config_lib.default()
  wanted.seed, wanted.optim.learning_rate = 3, 0.5
  config = config_lib.load(str(path), ["model.width=32"])
  wanted.model.width = 32
  assert config.to_dict() == wanted.to_dict()
  path = tmp_path / "mine.py"
  path.write_text(
    "from ml_collections import ConfigDict\n"
    "get_config = lambda: ConfigDict({'optim': {'learning_rate': 0.5}})\n"
  )
  config = config_lib.load(str(path), ["seed=3", "model.width=32"])
  assert config.to_dict() == wanted.to_dict()


@pytest.mark.parametrize(
  "name, words",
  [
    ("mine.json:small", "takes no variant; drop ':small'"),
    ("mine.py:small", "takes no variant; drop ':small'"),
    ("mine.txt", "neither .py nor .json"),
  ],
)
def test_variants_and_endings_are_not_ignored(tmp_path, name, words):
  (tmp_path / "mine.json").write_text("{}")
  (tmp_path / "mine.py").write_text("def get_config(): pass\n")
  (tmp_path / "mine.txt").write_text("")
  with pytest.raises(UserError, match=words):
    config_lib.load(str(tmp_path / name))


def test_a_runs_config_may_hold_keys_that_are_gone(tmp_path):
  """Left at None they meant nothing; with a value they are refused."""
  config = config_lib.to_dict(config_lib.default())
  path = tmp_path / "config.json"
  config["method"]["projector_hidden"] = None
  path.write_text(json.dumps(config))
  assert "projector_hidden" not in config_lib.load(str(path)).method
  config["method"]["projector_hidden"] = 8
  path.write_text(json.dumps(config))
  with pytest.raises(UserError, match="unknown key config.method.projector_h"):
    config_lib.load(str(path))


def test_missing_config_file_names_the_nearest():
  with pytest.raises(UserError, match="did you mean .*quickstart.py"):
    config_lib.load(os.path.join(CONFIGS, "quikstart.py"))
  with pytest.raises(UserError, match="variant .*'vannila'.*'vanilla'"):
    config_lib.load(os.path.join(CONFIGS, "quickstart.py:vannila"))


def tiny(**overrides):
  config = config_lib.tiny(config_lib.default())
  for key, value in overrides.items():
    config_lib.apply_override(config, f"{key.replace('__', '.')}={value}")
  return config


@pytest.mark.parametrize(
  "overrides, words",
  [
    (dict(method__name="simclrr"), "method.name 'simclrr'.*mocov3"),
    (dict(model__backbone="resnet19"), "model.backbone 'resnet19'.*resnet18"),
    (dict(batch_size=12), "batch_size=12 does not divide over the 8 devices"),
    (
      dict(method__name="mocov2", method__queue_size=100),
      "queue_size=100 is not a multiple of batch_size=32",
    ),
    (
      dict(method__name="lejepa", method__global_views=4),
      "global_views=4, but the augmentation makes 2 views; .*local_views=2",
    ),
    (dict(augment__solarize=0.0, model__omega="crop,solarize"), "solarize"),
    (dict(augment__blur=0.0), "'blur'.*op is off"),
    (dict(model__omega="crop,colour"), "'colour'.*Did you mean 'color'"),
    (dict(data__image_size=8, augment__blur_kernel=23), "23"),
    (dict(augment__preset="simcrl"), "Did you mean 'simclr'"),
    (dict(precision="float16"), "precision 'float16'"),
    (dict(method__queue_size=64), "queue_size is not used by simclr"),
    (dict(accumulate=5), "accumulate=5 does not divide batch_size=32"),
    (dict(steps=0), "no steps"),
    (dict(log_every=0), "log_every=0"),
    (dict(method__temperature=0.0), "temperature=0.0 must be above 0"),
    (dict(method__name="mocov3", method__momentum=7.0), "momentum=7.0"),
    (dict(model__bn_groups=7), "bn_groups=7 does not divide"),
    (dict(model__predictor="16,128"), "simclr has no predictor"),
    (
      dict(method__name="byol", method__momentum_schedule="linear"),
      "method.momentum_schedule 'linear'.*constant",
    ),
    (
      dict(method__name="mocov3", method__momentum_per="run"),
      "method.momentum_per 'run'.*epoch",
    ),
    (dict(model__amortised_rank=8), "model.amortised_rank=8 goes with .*'ai'"),
    (
      dict(awareness__name="ai", model__prompt_mlps=8),
      "prompt_mlps=8 goes with .* ViT alone; set .*prompt_mlps=256",
    ),
    (
      dict(model__hypernetwork_norm=True),
      "hypernetwork_norm=True goes with .*'hypernetwork' alone",
    ),
    (
      dict(awareness__name="augself", awareness__hidden="0,8"),
      "awareness.hidden=\\(0, 8\\) must be each at least 1",
    ),
    (
      dict(published="simclr/resnet50/casle"),
      "published row 'simclr/resnet50/casle'.*Did you mean",
    ),
    (dict(optim__exclude="bogus"), "'bogus' matches no parameter"),
    (dict(batch_size=8192), "8192"),
    (dict(optim__name="adam"), "optim.name 'adam'"),
    (dict(data__source="bundled:mars"), "mars"),
    (dict(data__source="folder:/nowhere"), "/nowhere"),
    (
      dict(awareness__name="vanilla", model__conditioning="concat"),
      "leave one of the two out",
    ),
    (dict(method__name="byol", awareness__name="ifm"), "has no negatives"),
    (
      dict(method__name="byol", awareness__name="looc"),
      "one queue of negatives",
    ),
    (
      dict(
        method__name="mocov2", awareness__name="looc", awareness__groups="()"
      ),
      "needs a group",
    ),
    (
      dict(method__name="mocov2", awareness__name="looc"),
      "group 'rotation' is off in the augmentation",
    ),
    (dict(awareness__epsilon=0.1), "awareness.epsilon is not used by cassle"),
    (
      dict(awareness__name="augself", awareness__rotation_weight=1.0),
      "never changes 'rotation'",
    ),
    (
      dict(awareness__name="ai", awareness__descriptors="()"),
      "needs a descriptor",
    ),
    (
      dict(
        model__conditioning="hypernetwork",
        model__projector="4096,4096",
        batch_size=256,
      ),
      "GiB of emitted weights, more than 8.0 GiB",
    ),
    (
      # Two views would fit; all six that SwAV projects do not.
      dict(
        method__name="swav",
        method__prototypes=16,
        augment__local_views=4,
        augment__local_size=16,
        model__conditioning="hypernetwork",
        model__projector="2048,1024",
        batch_size=128,
      ),
      "GiB of emitted weights, more than 8.0 GiB",
    ),
    (dict(augment__local_views=2), "set --config.augment.local_views=0"),
    (
      dict(
        method__name="dino",
        method__prototypes=16,
        augment__local_views=2,
        augment__local_size=18,
      ),
      "does not divide image_size=18",
    ),
  ],
)
def test_what_cannot_run_is_refused_before_any_compilation(overrides, words):
  with pytest.raises(UserError, match=words) as error:
    experiment.build(tiny(**overrides))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "overrides, conditioning, name",
  [
    ({}, "concat", "cassle"),
    (dict(awareness__name="vanilla"), "none", "vanilla"),
    (dict(model__conditioning="none"), "none", "vanilla"),
    (dict(model__conditioning="add"), "add", "cassle"),
  ],
)
def test_awareness_and_conditioning_follow_each_other(
  overrides, conditioning, name
):
  config = setup_lib.resolve(tiny(**overrides))
  assert config.model.conditioning == conditioning
  assert config.awareness.name == name


def test_words_without_dashes_are_refused_not_ignored():
  flags = cli.parser("cassle_jax.main", "")
  cli.add_config(flags)
  with pytest.raises(
    UserError, match="'lr=3'; write --config.optim.learning_r"
  ):
    cli.parse(flags, ["--config=x.py", "lr=3"])
  with pytest.raises(UserError, match="--wrkdir"):
    cli.parse(flags, ["--config=x.py", "--wrkdir=3"])
  values, overrides = cli.parse(
    flags, ["--config=x.py", "--config.a.b=1", "--config.c", "2"]
  )
  assert values.config == "x.py" and overrides == ["a.b=1", "c=2"]


def test_help_teaches_and_answers_quickly():
  process = subprocess.run(
    [sys.executable, "-X", "importtime", "-m", "cassle_jax.main", "--help"],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert process.returncode == 0
  # What takes seconds to import.
  for module in ("jax", "flax", "optax", "matplotlib"):
    assert f" {module}\n" not in process.stderr, module
  for word in ("configs/quickstart.py", "--workdir", "143", "optim"):
    assert word in process.stdout


def test_print_config_lists_overridable_keys(capsys):
  path = os.path.join(CONFIGS, "quickstart.py")
  assert main.main([f"--config={path}", "--print_config"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert "--config.method.name=simclr" in lines
  config = config_lib.load(path, [line[9:] for line in lines])
  assert config_lib.listing(config).splitlines() == lines


def test_a_config_of_another_command_is_named():
  path = os.path.join(CONFIGS, "eval", "all.py")
  with pytest.raises(UserError, match="all.py is a config of another command"):
    config_lib.load(path)
  path = os.path.join(CONFIGS, "quickstart.py")
  with pytest.raises(UserError, match="cassle_jax.evaluate configs/eval"):
    evaluation_config.load(path)


def test_keys_of_former_versions(tmp_path):
  """An old run's config.json may have them; whoever sets one is told."""
  values = config_lib.to_dict(config_lib.default())
  values["data"]["workers"] = 4
  path = tmp_path / "config.json"
  path.write_text(json.dumps(values))
  assert "workers" not in config_lib.load(str(path)).data
  with pytest.raises(UserError, match="data.workers is gone: threads alone"):
    config_lib.load(str(path), ["data.workers=2"])


def test_colons_of_folders_are_no_variants(tmp_path):
  (tmp_path / "r:1").mkdir()
  config = config_lib.load(f"{ROOT}/configs/quickstart.py:tiny")
  path = tmp_path / "r:1" / "config.json"
  path.write_text(json.dumps(config_lib.to_dict(config)))
  again = config_lib.load(str(path))
  assert config_lib.to_dict(again) == config_lib.to_dict(config)
  file = tmp_path / "r:1" / "mine.py"
  file.write_text(
    "from cassle_jax import config\n"
    "def get_config(variant='a'):\n"
    "  made = config.default()\n"
    "  made.seed = len(variant)\n"
    "  return made\n"
  )
  assert config_lib.load(f"{file}:four").seed == 4
  assert config_lib.load(str(file)).seed == 1
