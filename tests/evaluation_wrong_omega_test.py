"""Similarity under wrong omegas: what is told, twins, and who loses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_network import network, pair, pictures
from scipy import stats

from cassle_jax import augment
from cassle_jax.errors import UserError
from cassle_jax.evaluation import wrong_omega

POLICY = augment.ViewPolicy(image_size=16)


def features_of(images):
  return network()[0](images)["backbone"]


def measured(project, count=20, operations=("crop", "flip"), batch_size=8):
  return wrong_omega.measure(
    jax.random.key(1),
    pictures(count),
    policy=POLICY,
    encode=features_of,
    project=project,
    operations=operations,
    batch_size=batch_size,
  )


def test_omegas_that_are_told():
  draw = np.random.default_rng(0)
  true = {
    name: draw.normal(size=(9, size)).astype(np.float32)
    for name, size in augment.omega.FIELDS.items()
  }
  told = wrong_omega.omegas(jax.random.key(2), true)
  assert tuple(told) == wrong_omega.TOLD
  assert told["true"] is true
  # Everybody gets another's, all fields of the same one, and nobody's is lost.
  owners = []
  for row in range(9):
    (owner,) = np.flatnonzero(
      (true["crop"] == told["other"]["crop"][row][None]).all(axis=1)
    )
    owners.append(owner)
    for name in true:
      np.testing.assert_array_equal(told["other"][name][row], true[name][owner])
  assert sorted(owners) == list(range(9))
  assert not np.any(np.array(owners) == np.arange(9))
  np.testing.assert_array_equal(
    told["neutral"]["crop"], np.tile([0.5, 0.5, 1, 1], (9, 1))
  )
  noise = np.concatenate([x.ravel() for x in told["noise"].values()])
  assert noise.size == 9 * augment.omega.size(true)
  assert len(np.unique(noise)) == noise.size
  assert abs(noise.mean()) < 0.3 and abs(noise.std() - 1) < 0.2
  with pytest.raises(UserError, match="at least 2 images"):
    wrong_omega.omegas(jax.random.key(0), {"flip": np.ones((1, 1))})


def test_similarities_equal_their_float64_twin():
  blocks, project = network()
  found = measured(project)["crop"]
  pair_key, wrong_key = jax.random.split(jax.random.key(1))
  x, t = pair(pair_key, pictures(20), operation="crop", policy=POLICY)
  told = wrong_omega.omegas(wrong_key, t.omega)
  e1, e2 = (blocks(view.image)["backbone"] for view in (x, t))
  first = np.asarray(project(e1, x.omega), np.float64)
  assert set(found.similarity) == set(wrong_omega.TOLD)
  for name, omega in told.items():
    second = np.asarray(project(e2, omega), np.float64)
    expected = [
      a @ b / np.sqrt((a @ a) * (b @ b))
      for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(found.similarity[name], expected, atol=2e-5)
  for name in wrong_omega.WRONG:
    drop = found.similarity["true"] - found.similarity[name]
    assert found.drop[name].mean == pytest.approx(drop.mean(), abs=1e-6)
    deviation = np.sqrt(np.sum((drop - drop.mean()) ** 2) / 19)
    error = stats.t.ppf(0.975, 19) * deviation / np.sqrt(20)
    assert found.drop[name].half == pytest.approx(error, rel=1e-3)


def test_a_projector_that_undoes_the_operation_loses_when_told_wrong():
  """Channel means plus color_diff are the means before the jitter."""
  policy = augment.ViewPolicy(image_size=16, mean=(0, 0, 0), std=(1, 1, 1))
  found = wrong_omega.measure(
    jax.random.key(0),
    pictures(40),
    policy=policy,
    encode=lambda images: jnp.mean(images, axis=(1, 2)),
    project=lambda features, omega: features + omega["color_diff"],
    operations=("jitter",),
  )["jitter"]
  assert found.similarity["true"].mean() == pytest.approx(1, abs=1e-6)
  for name in wrong_omega.WRONG:
    assert found.drop[name].mean > found.drop[name].half > 0
  assert found.drop["noise"].mean > 0.1 > found.drop["other"].mean


def test_operations_without_parameters_have_no_other_omega():
  found = measured(network()[1])
  assert found["crop"].different == 1.0
  assert found["flip"].different == 0.0
  assert found["flip"].drop["other"].mean == 0.0
  assert found["flip"].drop["neutral"].mean != 0.0


def test_neither_batches_nor_other_operations_matter():
  expected = measured(network()[1])
  for options in (
    dict(batch_size=3),
    dict(batch_size=64),
    dict(operations=("flip", "crop")),
  ):
    found = measured(network()[1], **options)
    for operation, result in expected.items():
      for name, values in result.similarity.items():
        np.testing.assert_allclose(
          found[operation].similarity[name], values, atol=1e-5
        )


def test_a_vanilla_projector_loses_nothing():
  def project(features, omega):
    return features

  for result in measured(jax.jit(project)).values():
    assert all(drop.mean == 0 for drop in result.drop.values())
