"""Mistyped command lines are answered with the line that would have worked."""

import os

import jax
import pytest

from cassle_jax import config as config_lib
from cassle_jax import data, main
from cassle_jax.config import cli
from cassle_jax.errors import UserError
from cassle_jax.evaluate import command

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QUICK = f"--config={ROOT}/configs/quickstart.py"


@pytest.mark.parametrize(
  "word, answer",
  [
    ("--batch_size=16", "write --config.batch_size=16"),
    ("--batch-size=16", "write --config.batch_size=16"),
    ("--learning_rate=3", "write --config.optim.learning_rate=3"),
    ("--lr=3", "write --config.optim.learning_rate=3"),
    ("--weight-decay=0", "write --config.optim.weight_decay=0"),
    ("--optim.lr=3", "write --config.optim.learning_rate=3"),
    ("--steps", "write --config.steps=VALUE"),
    ("--image_sise=8", "write --config.data.image_size=8"),
    ("--resume", "the same --workdir continues the run"),
    ("--output-dir=runs/a", "write --workdir=runs/a"),
    ("--wrkdir=runs/a", "did you mean --workdir=runs/a"),
    ("--arch=resnet50", "--config.model.backbone=NAME"),
    ("--momentum=0.9", "--config.method.momentum=0.9 or --config.optim.mom"),
    ("configs/quickstart.py", "write --config=configs/quickstart.py"),
    ("optim.lr=3", "--config.optim.learning_rate=3"),
    ("--nothing-like-it", "see python -m cassle_jax.main --help"),
  ],
)
def test_unknown_words_are_answered(word, answer):
  with pytest.raises(UserError, match="unknown argument") as error:
    main.main([QUICK, word])
  assert word in str(error.value) and answer in str(error.value)


def test_all_unknown_words_come_before_what_is_missing():
  with pytest.raises(UserError) as error:
    main.main(["configs/quickstart.py", "--resume"])
  assert "2 problems" in str(error.value)
  with pytest.raises(UserError, match="are required: --config"):
    main.main([])


def test_an_evaluations_words_are_its_own():
  config = f"--config={ROOT}/configs/eval/all.py"
  with pytest.raises(UserError, match="write --config.knn.headline=5"):
    command.main([config, "--workdir=x", "--headline=5"])


@pytest.mark.parametrize(
  "path, near",
  [
    ("learning_rate", ["optim.learning_rate"]),
    ("data.learning_rate", ["optim.learning_rate"]),
    ("temperature", ["method.temperature"]),
    ("optim.temperature", ["method.temperature"]),
    ("name", ["method.name", "awareness.name", "optim.name"]),
    ("optim.lrr", ["optim.learning_rate"]),
    ("optimizer.lr", ["optim.learning_rate"]),
    ("zzz", []),
  ],
)
def test_the_right_key_in_the_wrong_section(path, near):
  assert config_lib.TRAINING.nearest(path) == near


def test_a_bare_path_as_source_is_told_its_kind(tmp_path):
  for name in ("folder", "arrays"):
    (tmp_path / name).mkdir()
  (tmp_path / "arrays" / "train.npy").write_bytes(b"")
  for name, kind in (
    ("folder", "folder"),
    ("arrays", "npy"),
    ("set.npz", "npy"),
  ):
    line = f"write --config.data.source={kind}:{tmp_path}/{name}"
    with pytest.raises(UserError, match=line):
      data.open_source(f"{tmp_path}/{name}")


def test_head_may_close_the_pipe(monkeypatch):
  """As `--print_config | head` does."""
  read, write = os.pipe()
  os.close(read)
  with os.fdopen(write, "w") as out:
    monkeypatch.setattr("sys.stdout", out)
    with pytest.raises(SystemExit) as end:
      cli.run(lambda arguments: print("x" * 100_000))
    assert end.value.code == 141
    out.write("goes nowhere")


def test_devices_that_are_not_there_are_one_line(monkeypatch, capsys):
  from jax._src import xla_bridge

  def none(*_):
    # As JAX does for a platform without devices; only the file's name counts.
    program = "def backends():\n  assert False\nbackends()"
    exec(compile(program, xla_bridge.__file__, "exec"), {})

  def bug(arguments):
    raise AssertionError("a bug")

  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  monkeypatch.setattr(jax, "devices", none)
  with pytest.raises(SystemExit) as end:
    cli.run(lambda arguments: jax.devices())
  line = capsys.readouterr().err
  assert end.value.code == 2 and line.count("\n") == 1
  assert "JAX_PLATFORMS=cuda" in line and "JAX_PLATFORMS=cpu" in line
  with pytest.raises(AssertionError):  # A bug keeps its traceback.
    cli.run(bug)
