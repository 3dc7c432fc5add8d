"""k-NN and feature extraction against independent twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import models
from cassle_jax.errors import UserError
from cassle_jax.evaluation import features, knn, linear, online
from cassle_jax.hosts import sharding


def knn_twin(train, labels, test, k, temperature):
  train = train / np.linalg.norm(train, axis=1, keepdims=True)
  test = test / np.linalg.norm(test, axis=1, keepdims=True)
  predicted = []
  for row in test:
    cosine = train @ row
    nearest = np.argsort(-cosine)[:k]
    votes = np.zeros(labels.max() + 1)
    for index in nearest:
      votes[labels[index]] += np.exp(cosine[index] / temperature)
    predicted.append(votes.argmax())
  return np.array(predicted)


def blobs(count, seed, spread=1.5, classes=4, width=6):
  centres = np.random.default_rng(0).normal(size=(classes, width))
  generator = np.random.default_rng(seed)
  labels = generator.integers(0, classes, count).astype(np.int32)
  noise = generator.normal(size=(count, width)) * spread
  return (centres[labels] + noise).astype(np.float32), labels


@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_equals_its_float64_twin(k):
  train, labels = blobs(90, 1)
  test, _ = blobs(37, 2)
  found = knn.predict(
    jnp.asarray(train),
    jnp.asarray(labels),
    jnp.asarray(test),
    k=k,
    num_classes=4,
    chunk=16,
  )
  expected = knn_twin(train.astype(np.float64), labels, test, k, 0.07)
  np.testing.assert_array_equal(found, expected)


def test_nearest_neighbour_equals_the_published_evaluator(golden):
  arrays = golden("knn")
  accuracy = knn.accuracy(
    arrays["train_x"],
    arrays["train_y"],
    arrays["test_x"],
    arrays["test_y"],
    k=1,
  )
  expected = float(arrays["acc"])
  np.testing.assert_allclose(accuracy, expected, atol=1e-6)


def test_extracted_features_do_not_depend_on_batch_or_devices():
  networks = models.build(backbone="conv2", image_size=16, projector=(8, 8))
  backbone = networks.backbone
  images = np.random.default_rng(0).integers(
    0, 256, (13, 16, 16, 3), dtype=np.uint8
  )
  mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
  variables = backbone.init(
    jax.random.key(0), jnp.zeros((2, 16, 16, 3)), train=False
  )
  x = (images / 255.0 - np.array(mean)) / np.array(std)
  expected, _ = backbone.apply(
    variables, jnp.asarray(x, jnp.float32), train=False
  )
  for devices, batch_size in ((1, 4), (1, 64), (8, 8)):
    extract = features.extractor(
      backbone=backbone,
      mean=mean,
      std=std,
      mesh=sharding.make_mesh(data=devices),
      batch_size=batch_size,
    )
    found = extract(variables, images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_online_set_is_the_bundled_split_and_is_capped():
  settings = online.build(max_images=50, every=3)
  assert settings.labeled.train_images.shape == (50, 32, 32, 3)
  assert len(settings.labeled.test_labels) == 50
  assert settings.due(6) and not settings.due(7)
  assert online.build(max_images=0).labeled is None
  with pytest.raises(UserError, match="knn_k=0"):
    online.build(knn_k=0)


def test_online_holds_out_a_tenth_without_a_second_split(tmp_path):
  images, labels = np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 4
  images[:] = np.arange(40, dtype=np.uint8)[:, None, None, None]
  np.savez(tmp_path / "set.npz", images=images, labels=labels)
  settings = online.build(source=f"npy:{tmp_path}/set.npz", image_size=8)
  bank = settings.labeled.train_images[:, 0, 0, 0]
  queries = settings.labeled.test_images[:, 0, 0, 0]
  assert len(queries) == 4 and len(bank) == 36
  assert not set(bank) & set(queries)


def test_labels_may_be_any_integers():
  rows = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
  labels = np.random.default_rng(1).integers(0, 3, 40).astype(np.int32)
  ids = 20230000 + 7 * labels

  def parts(y):
    return rows[:30], y[:30], rows[30:], y[30:]

  assert knn.accuracy(*parts(ids)) == knn.accuracy(*parts(labels))
  same = [linear.probe(*parts(y), weights=(1.0,)).score for y in (ids, labels)]
  assert same[0] == same[1]


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(temperature=0), "knn.temperature=0 must be above 0"),
    (dict(temperature=float("nan")), "knn.temperature=nan"),
    (dict(k=0), "knn.k=0 must be at least 1"),
  ],
)
def test_numbers_of_knn_are_checked(options, words):
  rows = np.eye(3, dtype=np.float32), np.arange(3)
  with pytest.raises(UserError, match=words):
    knn.accuracy(*rows, *rows, **options)


def test_features_are_checked():
  good = np.eye(3, dtype=np.float32), np.arange(3)
  bad = np.full((3, 3), np.nan, np.float32), np.arange(3)
  for wrong, words in (
    (bad, "features of 3 of 3 pictures are not finite"),
    ((good[0][:0], good[1][:0]), "N at least 1"),
    ((good[0], good[1][:2]), r"features are \[3, 3\] and labels \[2\]"),
  ):
    with pytest.raises(UserError, match=words):
      knn.accuracy(*wrong, *good)
    with pytest.raises(UserError, match=words):
      linear.sweep(good, good, wrong, weights=(1.0,))
  with pytest.raises(UserError, match="at least 2 training images"):
    linear.probe(good[0][:1], good[1][:1], *good)


@pytest.mark.parametrize(
  "size, batch", [((32, 32), 256), ((224, 224), 74), ((1024, 1024), 3)]
)
def test_batches_of_an_evaluation_follow_a_budget(size, batch):
  assert features.batch_of(size) == batch
  assert batch == 256 or batch * 24 * 12 * size[0] * size[1] <= 2**30
  assert features.batch_of((10**5, 10**5)) == 1
