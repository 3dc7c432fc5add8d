"""k-NN, the linear probe and feature extraction against independent twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import models, sharding
from cassle_jax.errors import UserError
from cassle_jax.evaluation import features, knn, linear, online


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


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_linear_fits_reach_sklearns_optimum(scale):
  """For weights from weak to strong, also for badly scaled features."""
  from sklearn.linear_model import LogisticRegression

  x, y = blobs(120, 3)
  x = x * np.geomspace(1, scale, x.shape[1], dtype=np.float32) + scale
  weights = np.array([1e-3, 1.0, 1e3], np.float32)
  fitted = linear.fit(
    jnp.asarray(x), jnp.asarray(y), jnp.asarray(weights), num_classes=4
  )

  def objective(kernel, bias, weight):
    logits = x.astype(np.float64) @ kernel + bias
    top = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    loss = (total - logits[np.arange(len(y)), y]).sum()
    return loss + weight * ((kernel**2).sum() + (bias**2).sum())

  for index, weight in enumerate(weights.tolist()):
    # A constant column stands for the bias, which is penalised too.
    reference = LogisticRegression(
      C=1 / (2 * weight), fit_intercept=False, tol=1e-10, max_iter=20000
    ).fit(np.concatenate([x, np.ones((len(x), 1))], axis=1), y)
    best = reference.coef_.T.astype(np.float64)
    expected = objective(best[:-1], best[-1], weight)
    found = objective(
      np.asarray(fitted.kernel[index], np.float64),
      np.asarray(fitted.bias[index], np.float64),
      weight,
    )
    assert found <= expected * (1 + 1e-4)


def test_probe_chooses_on_the_validation_split_and_tests_once():
  train, test = blobs(400, 4, spread=0.5), blobs(200, 5, spread=0.5)
  result = linear.probe(*train, *test)
  assert result.score > 0.8
  assert len(result.validation) == len(linear.QUICK_WEIGHTS)
  best = linear.QUICK_WEIGHTS[int(np.argmax(result.validation))]
  assert result.weight == best
  shuffled = linear.probe(train[0], np.roll(train[1], 7), *test)
  assert shuffled.score < 0.5


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


def test_sweep_refits_on_both_parts_and_takes_the_first_of_the_best():
  train, validation = blobs(200, 6, spread=0.5), blobs(80, 7, spread=0.5)
  test = blobs(100, 8, spread=0.5)
  weights = (0.5, 0.5, 1e5)
  result = linear.sweep(train, validation, test, weights=weights)
  assert result.weight == 0.5 and len(result.gradient_norm) == 3
  assert result.validation[0] == result.validation[1] > result.validation[2]
  both = [np.concatenate(pair) for pair in zip(train, validation, strict=True)]
  fitted = linear.fit(
    jnp.asarray(both[0]),
    jnp.asarray(both[1]),
    jnp.asarray([0.5]),
    num_classes=4,
  )
  guess = np.asarray(linear.predict(fitted, jnp.asarray(test[0])))[0]
  assert result.score == np.mean(guess == test[1])
  with pytest.raises(UserError, match="'top5'.*mean_per_class"):
    linear.sweep(train, validation, test, metric="top5")


def test_mean_per_class_by_hand():
  """Class 0: 3 of 4 right; class 2: 0 of 1; class 1 does not occur."""
  labels, predicted = [0, 0, 0, 0, 2], [0, 0, 0, 1, 0]
  assert linear.mean_per_class(predicted, labels) == 0.375
  assert linear.top1(predicted, labels) == 0.6
