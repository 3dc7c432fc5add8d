"""What the headlines of pair tasks are the mean of, and what else is told.

The measurements themselves are made up: each operation has a number of its own.
"""

import types

import jax
import numpy as np
import pytest

from cassle_jax import augment
from cassle_jax.evaluate import pair_tasks
from cassle_jax.evaluation import (
  confidence,
  pairs,
  sensitivity,
  strength,
  wrong_omega,
)
from cassle_jax.report import results

PUBLISHED = ["crop", "flip", "jitter", "grayscale", "blur"]
FIXED = list(strength.HEADLINE)
# Operation or parameter -> what is measured of it.
NUMBER = {
  name: float(place)
  for place, name in enumerate((*augment.OPERATIONS, *strength.sweeps()), 1)
}


def context(**options):
  """Of a network that was trained with this augmentation."""
  chosen = {"image_size": 16, "blur_kernel": 3} | options
  subject = types.SimpleNamespace(
    policy=augment.build(**chosen)[0], encode=None, blocks=None, project=None
  )
  return types.SimpleNamespace(
    subject=subject,
    key=jax.random.key(0),
    pictures=lambda name, count: (np.zeros((count, 16, 16, 3), np.uint8), None),
  )


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
  def info_nce(key, images, *, operations, **options):
    value = np.asarray([[[NUMBER[name]]] for name in operations])
    names = tuple(operations), ("backbone",)
    return sensitivity.Sensitivity(*names, value, value, value)

  def drops(key, images, *, operations, **options):
    return {
      name: wrong_omega.WrongOmega(
        {told: np.ones(2) for told in wrong_omega.TOLD},
        dict.fromkeys(
          wrong_omega.WRONG, confidence.Interval(NUMBER[name], 0.1, 2)
        ),
        0.0 if name == "flip" else 1.0,
      )
      for name in operations
    }

  def curves(images, *, names, **options):
    return {
      name: strength.Curve(
        name,
        np.ones(1),
        None,
        np.full(1, NUMBER[name]),
        np.ones(1),
        0,
        "",
        None,
      )
      for name in names
    }

  monkeypatch.setattr(sensitivity, "measure", info_nce)
  monkeypatch.setattr(wrong_omega, "measure", drops)
  monkeypatch.setattr(strength, "measure", curves)


def run(task, of=None, **options):
  (result,) = task(of or context(), "x", **options)
  return result


def mean(names):
  return pytest.approx(np.mean([NUMBER[name] for name in names]))


def test_what_a_network_was_trained_with_is_measured_beside_the_published():
  plain, more = context(), context(sharpness=1.0, erasing=0.5)
  for of, others in ((plain, []), (more, ["sharpness", "erasing"])):
    found = run(pair_tasks.sensitivity, of)
    assert list(found.details["ops"]) == PUBLISHED + others
    assert found.details["mean_of"] == PUBLISHED
    assert found.value == mean(PUBLISHED)
    found = run(pair_tasks.wrong_omega, of)
    assert list(found.details["ops"]) == PUBLISHED + others
    assert found.details["mean_of"] == PUBLISHED
    # Where another's omega is one's own there is nothing to lose.
    assert found.value == mean(["crop", "jitter", "grayscale", "blur"])


def test_the_mean_of_what_is_named_is_the_headline():
  named = ("crop", "erasing")
  for task in (pair_tasks.sensitivity, pair_tasks.wrong_omega):
    found = run(task, operations=named)
    assert list(found.details["ops"]) == list(named)
    assert found.value == mean(named)
  found = run(pair_tasks.strength, parameters=("erasing", "hue"))
  assert found.value == mean(["erasing", "hue"])


def test_strength_has_every_curve_and_a_mean_that_new_ones_do_not_move():
  found = run(pair_tasks.strength)
  assert set(found.details["curves"]) == set(strength.sweeps()) > set(FIXED)
  assert found.details["mean_of"] == FIXED
  assert found.value == mean(FIXED)


def test_strength_of_views_that_are_not_square_leaves_out_what_turns(capsys):
  found = run(pair_tasks.strength, context(image_size=(16, 12)))
  curves = found.details["curves"]
  assert set(strength.sweeps()) - set(curves) == {"rotation"}
  assert found.value == mean(name for name in FIXED if name != "rotation")
  assert "16x12 views: left out rotation" in capsys.readouterr().err


def test_reports_read_what_the_headline_is_the_mean_of():
  block = {"features": {"infonce": 1.0}}
  details = {"ops": {"crop": block}, "mean_of": ["crop"]}
  assert results._data("sensitivity", details)["mean_of"] == ["crop"]
  del details["mean_of"]  # As an older version writes.
  assert results._data("sensitivity", details)["mean_of"] is None


def test_usual_operations():
  assert pairs.usual(context().subject.policy) == tuple(PUBLISHED)
  turned = context(rotation=1.0).subject.policy
  assert pairs.usual(turned) == (*PUBLISHED, "rotation")
