"""A backbone and a loop of one's own: the contract, the suite, the page."""

import json
import os
import re
import subprocess
import sys

import flax.linen as nn
import frozen_network
import jax
import numpy as np
import optax
import pytest
import small_run

from cassle_jax import augment, evaluate, methods, models, report
from cassle_jax.errors import UserError
from cassle_jax.evaluation import features
from cassle_jax.hosts import sharding
from cassle_jax.step import create_state

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
POLICY = augment.build(preset="cassle", image_size=16, blur_kernel=5)[0]


class Mine(nn.Module):
  @nn.compact
  def __call__(self, images, *, train):
    x = nn.BatchNorm(use_running_average=not train)(nn.Conv(5, (3, 3))(images))
    return x.mean(axis=(1, 2)), {"last": x}


class NoTrain(nn.Module):
  @nn.compact
  def __call__(self, images):
    return images.mean(axis=(1, 2)), {}


class NoPair(nn.Module):
  @nn.compact
  def __call__(self, images, *, train):
    return images.mean(axis=(1, 2))


class Map(nn.Module):
  @nn.compact
  def __call__(self, images, *, train):
    return images, {}


SIGNATURE = r"def __call__\(self, images, \*, train\) -> \(features \[B, d\]"
REFUSED = [
  (NoTrain(), "NoTrain cannot be called .*unexpected keyword argument 'train'"),
  (NoPair(), r"NoPair returns \(2, 3\) for 2 images"),
  (Map(), r"Map returns \(\(2, 16, 16, 3\), \{\}\) for 2 images"),
  (Mine, "not <class .*Mine.*give an instance"),
  (len, "not <built-in function len>"),
]


@pytest.mark.parametrize("backbone, words", REFUSED)
def test_a_module_that_is_no_backbone_is_one_line(backbone, words):
  with pytest.raises(UserError, match=f"{words}.*{SIGNATURE}") as error:
    models.build(backbone=backbone, image_size=16)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("backbone", [NoTrain(), NoPair()])
def test_state_and_extractor_check_the_backbone_too(backbone):
  networks = models.build(backbone=Mine(), image_size=16)
  networks = networks._replace(backbone=backbone)
  with pytest.raises(UserError, match=SIGNATURE):
    create_state(
      jax.random.key(0),
      networks=networks,
      method=methods.simclr.build(),
      optimizer=optax.sgd(0.1),
      image_size=16,
      omega_size=14,
    )
  with pytest.raises(UserError, match=SIGNATURE):
    extract = features.extractor(
      backbone=backbone,
      mean=POLICY.mean,
      std=POLICY.std,
      mesh=sharding.make_mesh(data=1),
    )
    extract({}, np.zeros((2, 16, 16, 3), np.uint8))


def test_a_descriptor_is_asked_for_where_it_will_be_given():
  models.check_backbone(models.build(descriptor_size=2).backbone, descriptor=0)
  with pytest.raises(UserError, match=r"\*, train, descriptor\) ->"):
    models.check_backbone(Mine(), descriptor=0)


class Told(nn.Module):
  @nn.compact
  def __call__(self, images, *, train, descriptor):
    x = images.mean(axis=(1, 2))
    return nn.Dense(3)(x) * nn.Dense(3)(descriptor)[None], {}


def test_a_backbone_of_ones_own_may_be_told_a_descriptor():
  networks = models.build(backbone=Told(), image_size=16, descriptor_size=2)
  assert networks.features == 3
  with pytest.raises(UserError, match="Told cannot be called"):
    models.build(backbone=Told(), image_size=16)
  with pytest.raises(UserError, match="Mine cannot be called .*descriptor"):
    models.build(backbone=Mine(), image_size=16, descriptor_size=2)


def test_heads_are_as_wide_as_ones_own_features():
  networks = models.build(
    backbone=Mine(), image_size=16, projector=(0, 4), bn_groups=2
  )
  assert networks.features == 5 and networks.projector.widths == (5, 4)
  assert networks.projector.bn_groups == 2 and networks.frozen == ()
  with pytest.raises(UserError, match="model.stem='small' .*give it to Mine"):
    models.build(backbone=Mine(), image_size=16, stem="small")


def test_normalize_by_hand():
  images = np.full((1, 1, 1, 3), 51, np.uint8)  # 0.2
  found = features.normalize(images, mean=(0.1, 0.2, 0.3), std=(0.5, 1, 2))
  np.testing.assert_allclose(found[0, 0, 0], [0.2, 0, -0.05], atol=1e-7)


def network():
  blocks, project = frozen_network.network()

  def encode(images):
    found = dict(blocks(images))
    return found.pop("backbone"), found

  return encode, project


TASKS = ("knn", "wrong_omega", "sensitivity", "spectrum")
FEW = {
  "sensitivity.pictures": 32,
  "sensitivity.batch": 16,
  "wrong_omega.pictures": 32,
}


def measure(out, **options):
  encode, project = network()
  usual = dict(encode=encode, project=project, policy=POLICY, settings=FEW)
  return evaluate.measure(out=str(out), data_dir=str(out), **usual | options)


@pytest.mark.slow
def test_functions_are_measured_as_a_run_is(tmp_path):
  found = measure(tmp_path / "mine", tasks=TASKS, awareness="cassle", step=7)
  assert set(found) == {(task, "earth") for task in TASKS}
  for task, name in found:
    with open(tmp_path / "mine" / "eval" / task / f"{name}.json") as file:
      record = json.load(file)
    assert record["value"] == pytest.approx(found[task, name].value)
    assert record["step"] == 7
  blocks = found["sensitivity", "earth"].details["ops"]["crop"]
  assert list(blocks)[-2:] == ["features", "projection"] and len(blocks) > 2
  # The features are those of the function; nothing of it is kept.
  encode, _ = network()
  assert found["spectrum", "earth"].protocol == {"pictures": 668}
  assert not os.path.exists(tmp_path / "mine" / "eval" / "features")
  plain = measure(
    tmp_path / "plain",
    tasks=("knn", "sensitivity"),
    project=None,
    encode=lambda images: 2 * encode(images)[0],
    step=7,
  )
  blocks = plain["sensitivity", "earth"].details["ops"]["crop"]
  assert list(blocks) == ["features"]
  # Lengths are of no account to k-NN.
  knn = plain["knn", "earth"].value
  assert knn == pytest.approx(found["knn", "earth"].value, abs=0.3)
  folders = [str(tmp_path / name) for name in ("mine", "plain")]
  assert report.main([*folders, f"--out={tmp_path}/report"]) == 0
  rows = (tmp_path / "report" / "tables.md").read_text().splitlines()
  for awareness, value in (
    ("cassle", found["knn", "earth"].value),
    ("vanilla", knn),
  ):
    assert any(
      re.search(rf"\b{awareness}\b", row, re.IGNORECASE)
      and f"{value:.1f}" in row
      for row in rows
    ), awareness


def test_a_folder_holds_one_network(tmp_path):
  measure(tmp_path / "a", tasks=("spectrum",))
  measure(tmp_path / "a", tasks=("spectrum",))
  with pytest.raises(UserError, match="another network .awareness.name is"):
    measure(tmp_path / "a", tasks=("spectrum",), awareness="cassle")
  small_run.make(tmp_path / "run")
  with pytest.raises(UserError, match="a run's folder.*name another folder"):
    measure(tmp_path / "run", tasks=("spectrum",))
  with pytest.raises(UserError, match="measured_by"):
    evaluate.main(
      [f"--config={ROOT}/configs/eval/linear.py", f"--workdir={tmp_path}/a"]
    )


def test_what_needs_a_projector_is_left_out_or_refused(tmp_path):
  with pytest.raises(UserError, match="'wrong_omega' needs project="):
    measure(tmp_path, tasks=("wrong_omega",), project=None)
  with pytest.raises(UserError, match="'descriptor.steps' is for runs"):
    measure(tmp_path, settings={"descriptor.steps": 3})
  with pytest.raises(UserError, match="task 'lnear'. Did you mean 'linear'"):
    measure(tmp_path, tasks=("lnear",))


def test_features_are_kept_as_results_say(tmp_path):
  """In 8 bits of mantissa, where the settings of a result say bfloat16."""
  found = [
    measure(
      tmp_path / kind,
      tasks=("spectrum",),
      settings=FEW | {"features": kind},
    )["spectrum", "earth"].value
    for kind in ("float32", "bfloat16")
  ]
  assert found[0] != found[1] and found[1] == pytest.approx(found[0], rel=0.02)


def test_features_must_be_vectors(tmp_path, capsys):
  with pytest.raises(UserError, match="no task could be done"):
    measure(tmp_path, tasks=("spectrum",), encode=lambda images: images)
  text = capsys.readouterr()
  assert "must return features [b, d]" in text.out + text.err


@pytest.mark.slow
def test_the_page_trains_measures_and_reports(tmp_path):
  """The script of docs/own_backbone.md, as it stands there but shorter."""
  with open(os.path.join(ROOT, "docs", "own_backbone.md")) as file:
    (script,) = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
  (tmp_path / "mine.py").write_text(script)
  found = subprocess.run(
    [sys.executable, "mine.py"],
    cwd=tmp_path,
    env=os.environ | {"STEPS": "3", "PYTHONPATH": ROOT},
    check=True,
    capture_output=True,
    text=True,
  )
  assert ": left out: " not in found.stderr  # A task that failed.
  folder, out = tmp_path / "runs" / "mine", tmp_path / "report"
  assert report.main([str(folder), f"--out={out}"]) == 0
  with open(folder / "eval" / "knn" / "earth.json") as file:
    value = json.load(file)["value"]
  rows = (out / "tables.md").read_text().splitlines()
  found = [r for r in rows if "CASSLE" in r.upper() and f"{value:.1f}" in r]
  assert found, rows
