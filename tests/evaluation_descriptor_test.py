"""The learned descriptor: what it finds, and float64 steps of Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cassle_jax.errors import UserError
from cassle_jax.evaluation import descriptor as descriptor_lib


def toy(batch=64):
  """Images of two numbers; features mix the label's sign with noise.

  The first feature shows the sign where descriptor[0] is 1, the second where
  descriptor[1] is 0: (1, 0) is right.
  """
  rng = np.random.default_rng(3)
  labels = rng.integers(0, 2, batch)
  signs = 2.0 * labels - 1
  noise = 2 * rng.normal(size=(batch, 2))
  images = np.stack([signs, *noise.T], axis=1).astype(np.float32)

  def apply(descriptor, images):
    sign, noise = images[:, :1], images[:, 1:]
    shown = jnp.stack([descriptor[0], 1 - descriptor[1]])[None]
    return shown * sign + (1 - shown) * noise

  return apply, images, labels.astype(np.int32)


def test_fit_finds_what_the_task_needs():
  apply, images, labels = toy()
  fit = jax.jit(
    lambda key: descriptor_lib.fit(
      key, apply, images, labels, outputs=2, steps=250
    )
  )
  descriptor, head, history = fit(jax.random.key(0))
  np.testing.assert_allclose(descriptor, [1, 0], atol=0.02)
  path = np.asarray(history["descriptor"])
  np.testing.assert_array_equal(path[0], [0.5, 0.5])
  assert path.shape == (250, 2) and path.min() >= 0 and path.max() <= 1
  # Held at the corner by the clipping, not merely on its way there.
  assert (path[-10:, 0] == 1).all() and (path[-10:, 1] == 0).all()
  loss = np.asarray(history["loss"])
  np.testing.assert_allclose(loss[0], np.log(2), rtol=1e-5)
  assert loss[-16:].mean() < 0.5 * loss[:16].mean()
  outputs = apply(descriptor, images) @ head["kernel"] + head["bias"][None]
  assert np.mean(np.argmax(outputs, 1) == labels) == 1


def test_fit_equals_steps_taken_one_by_one():
  """Full batches: order is all that the key decides, the mean ignores it."""
  apply, images, labels = toy(8)
  fit = jax.jit(
    lambda key: descriptor_lib.fit(
      key, apply, images, labels, outputs=2, steps=3, batch_size=8
    )
  )
  descriptor, head, _ = fit(jax.random.key(1))

  def loss(params):
    logits = apply(params[0], images) @ params[1] + params[2][None]
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    )

  params = [np.full(2, 0.5), np.zeros((2, 2)), np.zeros(2)]
  first = [np.zeros_like(p) for p in params]
  second = [np.zeros_like(p) for p in params]
  gradient = jax.jit(jax.grad(loss))
  for t in range(3):
    rate = 0.01 * 0.5 * (1 + np.cos(np.pi * t / 3))
    grads = gradient([p.astype(np.float32) for p in params])
    for i, g in enumerate(np.asarray(g, np.float64) for g in grads):
      first[i] = 0.9 * first[i] + 0.1 * g
      second[i] = 0.999 * second[i] + 0.001 * g**2
      mean = first[i] / (1 - 0.9 ** (t + 1))
      spread = np.sqrt(second[i] / (1 - 0.999 ** (t + 1)))
      params[i] = params[i] - rate * mean / (spread + 1e-8)
  np.testing.assert_allclose(descriptor, params[0], atol=1e-5)
  np.testing.assert_allclose(head["kernel"], params[1], atol=1e-5)
  np.testing.assert_allclose(head["bias"], params[2], atol=1e-5)
  assert np.abs(descriptor - 0.5).min() > 1e-3


def test_fit_takes_another_loss():
  """Regression: with images of zeros the bias moves towards the labels."""
  targets = np.full((4, 1), 3.0, np.float32)
  images = np.zeros((4, 1), np.float32)
  fit = jax.jit(
    lambda key: descriptor_lib.fit(
      key,
      lambda descriptor, images: images * descriptor[None, :1],
      images,
      targets,
      outputs=1,
      steps=2,
      batch_size=4,
      loss=lambda outputs, labels: jnp.mean(jnp.abs(outputs - labels)),
    )
  )
  _, head, history = fit(jax.random.key(0))
  np.testing.assert_allclose(head["bias"], [0.015], rtol=1e-4)
  np.testing.assert_allclose(history["loss"], [3.0, 2.99], rtol=1e-5)
  with pytest.raises(UserError, match="batch_size=5 .*4 images"):
    descriptor_lib.fit(
      jax.random.key(0),
      lambda descriptor, images: images,
      images,
      targets,
      outputs=1,
      steps=1,
      batch_size=5,
    )
