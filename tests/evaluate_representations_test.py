"""Landmarks and few pictures; LooC's heads and AI's learned descriptor."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
import small_run
from PIL import Image

from cassle_jax import evaluate
from cassle_jax.awareness import looc
from cassle_jax.data import downstream
from cassle_jax.errors import UserError
from cassle_jax.evaluate import (
  feature_tasks,
  representations,
  results,
)
from cassle_jax.evaluate.context import Context
from cassle_jax.evaluate.subject import of_run
from cassle_jax.training import trained

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOOC = dict(
  method__name="mocov2",
  method__queue_size="32",
  awareness__name="looc",
  augment__rotation="1.0",
)
AI = dict(awareness__name="ai", model__amortised_rank="16")


def read(folder, task, name):
  with open(os.path.join(folder, "eval", task, f"{name}.json")) as file:
    return json.load(file)


def counted(monkeypatch, name, **counts):
  row = downstream.DATASETS[name]
  monkeypatch.setitem(downstream.DATASETS, name, row._replace(counts=counts))


def cifar10(root, monkeypatch):
  """120 pictures of two classes, dark and bright, and 30 to test on."""
  counted(monkeypatch, "cifar10", train=120, test=30)
  folder = root / "cifar-10-batches-bin"
  folder.mkdir(parents=True)
  draw = np.random.default_rng(0)
  images, records = [], []
  for place in range(150):
    label = place % 2
    pixels = draw.integers(128 * label, 128 + 128 * label, 3072, dtype=np.uint8)
    images.append(pixels.reshape(3, 32, 32).transpose(1, 2, 0))
    records.append(bytes([label]) + pixels.tobytes())
  for batch in range(5):
    part = b"".join(records[24 * batch : 24 * batch + 24])
    (folder / f"data_batch_{batch + 1}.bin").write_bytes(part)
  (folder / "test_batch.bin").write_bytes(b"".join(records[120:]))
  names = "\n".join(f"class {i}" for i in range(10))
  (folder / "batches.meta.txt").write_text(names)
  return np.stack(images)


def cifar100(root, monkeypatch):
  """12 pictures of each of FC100's 20 classes, and 12 of another class."""
  counted(monkeypatch, "fc100", all=240)
  folder = root / "cifar-100-binary"
  folder.mkdir(parents=True)
  fine_names = "\n".join(f"class {i}" for i in range(100))
  (folder / "fine_label_names.txt").write_text(fine_names)
  draw = np.random.default_rng(0)
  records = []
  for label in range(21):
    coarse = (0, 7, 12, 14)[label % 4] if label < 20 else 1
    for _ in range(12):
      pixels = draw.integers(10 * label, 10 * label + 8, 3072, dtype=np.uint8)
      records.append(bytes([coarse, 3 * label]) + pixels.tobytes())
  (folder / "train.bin").write_bytes(b"".join(records[::2]))
  (folder / "test.bin").write_bytes(b"".join(records[1::2]))


def faces(root, monkeypatch):
  """40 pictures whose landmarks say how bright they are."""
  counted(monkeypatch, "300w", all=40)
  draw = np.random.default_rng(0)
  base, move = draw.uniform(5, 35, (2, 68, 2))
  for place in range(40):
    folder = root / "300W" / ("01_Indoor" if place % 2 else "02_Outdoor")
    folder.mkdir(parents=True, exist_ok=True)
    share = draw.random()
    points = base * (1 - share) + move * share
    points[:2] = (4, 4), (36, 36)
    lines = "\n".join(f"{x} {y}" for x, y in points)
    text = f"version: 1\nn_points: 68\n{{\n{lines}\n}}\n"
    (folder / f"face_{place:03d}.pts").write_text(text)
    pixels = np.full((40, 40, 3), round(255 * share), np.uint8)
    Image.fromarray(pixels).save(folder / f"face_{place:03d}.png")


def run(tmp_path, task, dataset, *more):
  return evaluate.main(
    [
      f"--config={ROOT}/configs/eval/all.py",
      f"--workdir={tmp_path}/run",
      f"--config.data_dir={tmp_path}/data",
      f"--config.tasks={task}",
      f"--config.datasets={dataset}",
      *more,
    ]
  )


def test_landmarks_have_both_scores(tmp_path, monkeypatch):
  small_run.make(tmp_path / "run")
  faces(tmp_path / "data", monkeypatch)
  weights = "--config.linear.weights=0.000001,0.01,100000"
  assert run(tmp_path, "linear", "300w", weights) == 0
  record = read(tmp_path / "run", "linear", "300w")
  assert record["metric"] == "squared_correlation" and record["unit"] == "%"
  # Brightness is all there is, and features hold it.
  assert record["value"] > 95 and record["details"]["r2"] > 50
  assert len(record["details"]["gap"]) == 3
  assert max(record["details"]["gap"]) < 1e-4
  protocol = record["protocol"]
  assert [protocol[part] for part in ("train", "val", "test")] == [12, 12, 16]
  with pytest.raises(UserError, match="none of the tasks knn suits.*300w"):
    run(tmp_path, "knn", "300w")


def test_few_shot_of_fc100_asks_for_all_of_its_pictures(tmp_path, monkeypatch):
  small_run.make(tmp_path / "run")
  cifar100(tmp_path / "data", monkeypatch)
  more = ["--config.few_shot.episodes=30", "--config.few_shot.queries=7"]
  assert run(tmp_path, "few_shot", "fc100", *more) == 0
  one, five = (
    read(tmp_path / "run", "few_shot", f"fc100-{shot}shot") for shot in (1, 5)
  )
  assert one["dataset"] == five["dataset"] == "fc100"
  assert one["value"] > 50 and five["value"] > 50
  expected = {"episodes": 30, "part": "all", "pictures": 240, "classes": 20}
  assert one["protocol"] == expected
  with pytest.raises(UserError, match="no task could be done"):
    run(tmp_path, "few_shot", "fc100", "--config.few_shot.queries=8")


def test_looc_is_measured_with_its_heads_too(tmp_path, monkeypatch):
  state = small_run.make(tmp_path / "run", **LOOC)
  images = cifar10(tmp_path / "data", monkeypatch)
  assert run(tmp_path, "knn,spectrum", "cifar10") == 0
  plain = read(tmp_path / "run", "knn", "cifar10")
  heads = read(tmp_path / "run", "knn", "cifar10-looc++")
  assert plain["representation"] == "backbone"
  assert heads["representation"] == "looc++"
  assert plain["dataset"] == heads["dataset"] == "cifar10"
  # The spectrum is one of features alone, and of the bundled tiles.
  spectra = (tmp_path / "run/eval/spectrum").glob("[!.]*")
  assert [path.name for path in spectra] == ["earth.json"]
  opened = trained.open_run(str(tmp_path / "run"))
  assert representations.of(opened) == ("backbone", "looc++")
  where = dict(data_dir=str(tmp_path / "data"))
  context = Context(of_run(opened), str(tmp_path / "run"), **where)
  features = context.features("cifar10").features
  found = context.of("looc++").features("cifar10").features
  variables = {
    "params": state.params["projector"],
    "batch_stats": state.batch_stats["projector"],
  }
  expected = looc.plus_plus(
    opened.setup.networks.projector,
    variables,
    jnp.asarray(features),
    jnp.ones((len(images), opened.setup.omega_size)),
  )
  assert found.shape == (150, 3 * 12)  # Three spaces, hidden layers of 12.
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_ai_is_measured_with_what_each_set_asks_for(tmp_path, monkeypatch):
  small_run.make(tmp_path / "run", **AI)
  images = cifar10(tmp_path / "data", monkeypatch)
  more = ["--config.descriptor.steps=30", "--config.descriptor.pictures=64"]
  assert run(tmp_path, "knn", "cifar10", *more) == 0
  record = read(tmp_path / "run", "knn", "cifar10-learned")
  told = record["protocol"]["descriptor"]
  assert len(told) == 2 and all(0 <= each <= 1 for each in told)
  assert record["representation"] == "learned"
  assert record["settings"]["descriptor"]["steps"] == 30
  opened = trained.open_run(str(tmp_path / "run"))
  context = Context(
    of_run(opened),
    str(tmp_path / "other"),  # So that nothing is read from the run's folder.
    data_dir=str(tmp_path / "data"),
    learning={"steps": 30, "pictures": 64},
  )
  # A half of a set's side, as the pictures are evaluated at.
  small = context.read("cifar10", np.arange(150))[0]
  assert small.shape == (150, 16, 16, 3) and len(images) == 150
  learned = context.of("learned")
  assert list(learned.descriptor("cifar10")) == told
  told = tuple(told)
  assert told != (0.5, 0.5) and told != (1.0, 1.0)
  found = learned.features("cifar10").features
  variables = opened.variables["backbone"]
  for descriptor, same in ((told, True), ((1.0, 1.0), False)):
    expected = trained.told(opened, variables, jnp.asarray(descriptor), small)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5) == same
  one = context.features("cifar10").features
  np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pictures", "steps", "batch_size"])
def test_a_descriptor_needs_one_of_each(name):
  with pytest.raises(UserError, match=f"descriptor.{name}=0 must be at least"):
    representations.descriptor(None, "cifar10", **{name: 0})


@pytest.mark.parametrize("dataset", ["300w", "cifar10"])
@pytest.mark.parametrize(
  "settings, words",
  [
    ({"dtype": "float46"}, "linear.dtype 'float46'. Did you mean 'float64'"),
    ({"weights": ()}, r"linear.weights=\(\) must be one or more"),
    ({"weights": (1.0, 0.0)}, "all above 0"),
    ({"weights": (-1.0,)}, "all above 0"),
  ],
)
def test_linear_checks_its_settings_first(dataset, settings, words):
  with pytest.raises(UserError, match=words):
    next(feature_tasks.linear(None, dataset, **settings))


def test_no_shots_is_a_mistake_and_no_names_are_no_results(tmp_path):
  for call in (
    lambda: feature_tasks.few_shot_names("fc100", ()),
    lambda: next(feature_tasks.few_shot(None, "fc100", shots=())),
  ):
    with pytest.raises(UserError, match="shots is empty; give one or more"):
      call()
  kept = dict(step=1, seed=0, settings={})
  assert not results.current(str(tmp_path), "few_shot", iter(()), **kept)


def test_a_representation_that_a_run_lacks_is_one_line(tmp_path, monkeypatch):
  small_run.make(tmp_path / "run")
  cifar10(tmp_path / "data", monkeypatch)
  for name, words in (
    ("looc", "representation 'looc'.*Did you mean 'looc\\+\\+'"),
    ("looc++", "has no representation 'looc\\+\\+'.*it has backbone"),
  ):
    with pytest.raises(UserError, match=words) as error:
      run(tmp_path, "knn", "cifar10", f"--config.representations={name}")
    assert "\n" not in str(error.value)
