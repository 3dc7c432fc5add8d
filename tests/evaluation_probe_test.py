"""Probes against scikit-learn, and on features that hold what is asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_network import pictures
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, roc_auc_score

from cassle_jax import augment
from cassle_jax.errors import UserError
from cassle_jax.evaluation import pairs, probe

SMALL = dict(hidden=(32, 32), steps=400, batch=64, learning_rate=5e-3)


def problem(count, seed, size=12):
  """Features that hold crop linearly, flip as a product, color not at all."""
  draw = np.random.default_rng(seed)
  omega = {
    "color": draw.normal(size=(count, 4)),
    "crop": draw.uniform(size=(count, 4)),
    "flip": (draw.uniform(size=(count, 1)) < 0.5).astype(float),
    "rotation": np.tile([1.0, 0.0, 0.0, 0.0], (count, 1)),
  }
  omega["crop"][:, 3] = 1.0
  features = draw.normal(size=(count, size))
  mix = np.random.default_rng(9).normal(size=(4, 6))
  features[:, :6] += 3 * omega["crop"] @ mix
  sign = np.where(draw.uniform(size=count) < 0.5, 1, -1)
  features[:, 6] = 2 * sign
  features[:, 7] = 2 * sign * (2 * omega["flip"][:, 0] - 1)
  # As networks give them: other scales, one number that is dead.
  features = features * np.geomspace(0.01, 100, size) + 5
  features[:, 11] = 0.25
  return features.astype(np.float32), omega


@pytest.mark.parametrize("count, size", [(80, 12), (24, 60)])
def test_linear_equals_sklearns_ridge(count, size):
  """More rows than features and the other way round."""
  train_x, train_y = problem(count, 0, size)
  test_x, test_y = problem(60, 1, size)
  weights = (1e-4, 1e-2, 1.0)
  found = probe.linear(
    train_x, train_y, test_x, test_y, weights=weights, validation=0.25, seed=4
  )
  order = np.random.default_rng(4).permutation(count)
  held, kept = order[: count // 4], order[count // 4 :]
  mean = train_x[kept].astype(np.float64).mean(0)
  scale = train_x[kept].astype(np.float64).std(0)
  scale = np.maximum(scale, 1e-3 * np.sqrt(np.mean(scale**2)))
  scale[11] = np.inf
  x, held_x, t = (
    (part.astype(np.float64) - mean) / scale
    for part in (train_x[kept], train_x[held], test_x)
  )
  assert set(found.value) == {"color", "crop", "flip"}
  for name in found.value:
    for k in range(train_y[name].shape[1]):
      y = train_y[name][:, k]
      if name == "crop" and k == 3:
        assert np.isnan(found.components[name][k])
        continue
      score = roc_auc_score if name == "flip" else r2_score
      fits = [Ridge(alpha=w * len(kept)).fit(x, y[kept]) for w in weights]
      scores = [score(y[held], fit.predict(held_x)) for fit in fits]
      best = int(np.argmax(scores))
      assert found.weight[name][k] == weights[best]
      expected = score(test_y[name][:, k], fits[best].predict(t))
      assert found.components[name][k] == pytest.approx(expected, abs=1e-9)
    expected = np.nanmean(found.components[name])
    assert found.value[name] == pytest.approx(expected)
  assert found.metric == {"color": "r2", "crop": "r2", "flip": "auc"}


def test_a_feature_that_fires_once_does_not_spoil_the_probe():
  """It hardly deviates in training, and a thousand times as much in a row."""
  train_x, train_y = problem(400, 0)
  test_x, test_y = problem(200, 1)
  clean = probe.linear(train_x, train_y, test_x, test_y).value["crop"]
  train_x[:, 11] = 1e-7 * np.random.default_rng(2).normal(size=400)
  test_x[:, 11], test_x[3, 11] = 0.0, 3e-3
  found = probe.linear(train_x, train_y, test_x, test_y).value["crop"]
  assert clean > 0.3 and abs(found - clean) < 0.02


def test_three_layers_find_what_a_line_does_not():
  train, test = problem(600, 0), problem(300, 1)
  line = probe.linear(*train, *test)
  layers = probe.mlp(jax.random.key(0), *train, *test, **SMALL)
  for found in (line, layers):
    assert 0.3 < found.value["crop"] <= 1
    assert -0.3 < found.value["color"] < 0.1
    assert np.isnan(found.components["crop"][3])
  assert line.value["flip"] < 0.65 and layers.value["flip"] > 0.9
  assert layers.metric == line.metric
  assert set(layers.weight["crop"]) <= set(probe.DECAYS)
  # Nothing to learn: the strongest penalties predict the mean.
  assert np.all(line.weight["color"] > 1e-2)
  again = probe.mlp(jax.random.key(0), *train, *test, **SMALL)
  np.testing.assert_array_equal(
    again.components["crop"], layers.components["crop"]
  )


def test_the_test_images_are_not_fitted():
  """Random features in many dimensions fit the training part alone."""
  draw = np.random.default_rng(0)
  train = draw.normal(size=(60, 100)), {"blur": draw.normal(size=(60, 1))}
  test = draw.normal(size=(60, 100)), {"blur": draw.normal(size=(60, 1))}
  assert probe.linear(*train, *test).value["blur"] < 0.2
  fitted = np.random.default_rng(0).permutation(60)[6:]
  known = train[0][fitted], {"blur": train[1]["blur"][fitted]}
  found = probe.linear(*train, *known, weights=(1e-7,), validation=0.1)
  assert found.value["blur"] > 0.99


def measured(**options):
  # Features that hold the mean colour and, in position, nothing of the crop.
  return probe.measure(
    jax.random.key(0),
    pictures(160, seed=1),
    pictures(80, seed=2),
    policy=augment.ViewPolicy(
      image_size=16, crop=False, blur=0.0, flip=0.0, dtype="bfloat16"
    ),
    encode=jax.jit(
      lambda x: jnp.concatenate(
        [jnp.mean(x, axis=(1, 2)), jnp.std(x, axis=(1, 2))], axis=1
      )
    ),
    **options,
  )


def test_measure_probes_views_and_pairs():
  found = measured(hidden=(16, 16), steps=200, batch=64, learning_rate=1e-2)
  assert set(found) == {"single", "pair"}
  for kinds in found.values():
    assert set(kinds) == {"linear", "mlp"}
    for result in kinds.values():
      assert set(result.value) == {"color", "color_diff", "grayscale"}
      assert result.metric["color"] == "r2"
  # A view is grey where the channels' deviations agree: not linear.
  single, pair = found["single"], found["pair"]
  assert single["linear"].metric["grayscale"] == "auc"
  assert single["mlp"].value["grayscale"] > 0.8
  # Both views of one picture tell how differently they were jittered.
  assert pair["linear"].metric["grayscale"] == "r2"
  brightness = pair["linear"].components["color"][0]
  assert brightness > 0.3
  assert brightness > single["linear"].components["color"][0]


def test_measure_does_not_depend_on_the_batch():
  expected, found = (
    measured(hidden=(4, 4), steps=1, batch_size=size) for size in (160, 33)
  )
  for name, kinds in expected.items():
    for field, components in kinds["linear"].components.items():
      np.testing.assert_allclose(
        found[name]["linear"].components[field], components, atol=1e-3
      )


def test_one_operation_alone_can_be_probed():
  found = probe.measure(
    jax.random.key(0),
    pictures(60),
    pictures(30, seed=1),
    policy=pairs.only("crop", augment.ViewPolicy(image_size=16)),
    encode=jax.jit(lambda x: x[:, ::4, ::4].reshape(len(x), -1)),
    hidden=(4, 4),
    steps=1,
  )
  assert set(found["single"]["linear"].value) == {"crop"}


def test_mistakes_are_one_line():
  x, constant = np.ones((9, 2)), {"flip": np.ones((9, 1))}
  with pytest.raises(UserError, match="nothing to probe.*flip"):
    probe.linear(x, constant, x, constant)
  y = {"blur": np.arange(3.0)[:, None]}
  with pytest.raises(UserError, match="2 to choose on, got 3"):
    probe.linear(x[:3], y, x[:3], y)
