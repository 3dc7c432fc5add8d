"""How much of an augmentation can be read from features.

Each number of omega is predicted from the features of the augmented view, and
the difference of two omegas from the features of both views, side by side: by
ridge regression and by three layers. Fitted on some images, the regularisation
chosen on others, scored on others again.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cassle_jax import augment
from cassle_jax.errors import UserError
from cassle_jax.evaluation import pairs
from cassle_jax.evaluation.probe_scores import Probe, choose, lay_out
from cassle_jax.models import MLP

# Of ridge regression, relative to the features' variance.
WEIGHTS = tuple(np.logspace(-7, 3, 21).tolist())
# Of AdamW.
DECAYS = (1e-3, 1e-2, 1e-1, 1.0)
# Least deviation of a feature, relative to the root mean square of all.
_FLOOR = 1e-3


def linear(
  train_features: np.ndarray,
  train_omega: Mapping[str, np.ndarray],
  test_features: np.ndarray,
  test_omega: Mapping[str, np.ndarray],
  *,
  weights: Sequence[float] = WEIGHTS,
  validation: float = 0.2,
  seed: int = 0,
) -> Probe:
  """Ridge regression, mean squared error + weight |W|^2, in closed form.

  Features are standardised (with a deviation of at least a thousandth of the
  root mean square of all), the intercept is free, every number of omega chooses
  its own weight. In float64 on the host.

  Args:
    train_features: [N, d].
    train_omega: {field: [N, k]}, omega or a difference of omegas.
    test_features: [M, d], of other images.
    test_omega: {field: [M, k]}.
    weights: of the penalty, to choose from.
    validation: share of the training rows on which the weight is chosen; these
      are not fitted.
    seed: of that choice of rows.

  Raises:
    UserError: too few rows, or no field that varies.
  """
  targets = lay_out(train_omega, test_omega)
  kept, held = _split(len(train_features), validation, seed)
  x, held_x, test_x = _standardised(train_features, kept, held, test_features)
  mean = np.mean(targets.train[kept], axis=0)[None]
  centred = targets.train[kept] - mean
  # The smaller of the two Gram matrices: W = V (L + w)^-1 V^T x^T y / n and
  # W = x^T U (L + w)^-1 U^T y / n are the same.
  count, size = x.shape
  if size <= count:
    values, project = np.linalg.eigh(x.T @ x / count)
    inner = project.T @ (x.T @ centred) / count
  else:
    values, vectors = np.linalg.eigh(x @ x.T / count)
    project, inner = x.T @ vectors, vectors.T @ centred / count
  values = np.maximum(values, 0.0)

  def predictions(rows: np.ndarray) -> np.ndarray:
    basis = rows @ project
    return np.stack(
      [basis @ (inner / (values + w)[:, None]) + mean for w in weights]
    )

  return choose(
    targets, held, predictions(held_x), predictions(test_x), weights
  )


def mlp(
  key: jax.Array,
  train_features: np.ndarray,
  train_omega: Mapping[str, np.ndarray],
  test_features: np.ndarray,
  test_omega: Mapping[str, np.ndarray],
  *,
  decays: Sequence[float] = DECAYS,
  hidden: tuple[int, int] = (512, 512),
  steps: int = 2000,
  batch: int = 256,
  learning_rate: float = 1e-3,
  validation: float = 0.2,
  seed: int = 0,
) -> Probe:
  """Three Linear layers with ReLU between, all numbers of omega at once.

  Features and targets are standardised; mean squared error, for numbers of two
  values cross-entropy; AdamW whose learning rate falls to 0 along a cosine. The
  networks of all decays are trained together, and every number of omega chooses
  the one that predicts it best.

  Args:
    key: PRNG key of the initial weights and of the batches.
    train_features: see `linear`, as for the next three.
    train_omega: {field: [N, k]}.
    test_features: [M, d].
    test_omega: {field: [M, k]}.
    decays: weight decays to choose from.
    hidden: widths of the two hidden layers.
    steps: of training.
    batch: rows of each step, drawn with replacement.
    learning_rate: at the start.
    validation: see `linear`; the same rows.
    seed: see `linear`.

  Raises:
    UserError: too few rows, or no field that varies.
  """
  targets = lay_out(train_omega, test_omega)
  kept, held = _split(len(train_features), validation, seed)
  x, held_x, test_x = _standardised(train_features, kept, held, test_features)
  y = targets.train[kept]
  mean, scale = np.mean(y, axis=0), np.std(y, axis=0)
  scale = np.where(scale > 0, scale, 1.0)
  label = (y == np.max(targets.train, axis=0)[None]).astype(np.float64)
  y = np.where(targets.binary[None], label, (y - mean[None]) / scale[None])
  network = MLP((*hidden, y.shape[1]), hidden_norm=False)
  variables = _train(
    key,
    jnp.asarray(x, jnp.float32),
    jnp.asarray(y, jnp.float32),
    jnp.asarray(targets.binary),
    jnp.asarray(decays, jnp.float32),
    network=network,
    steps=steps,
    batch=batch,
    learning_rate=learning_rate,
  )

  def predictions(rows: np.ndarray) -> np.ndarray:
    outputs = _predict(variables, jnp.asarray(rows, jnp.float32), network)
    return np.asarray(outputs, np.float64) * scale + mean

  return choose(targets, held, predictions(held_x), predictions(test_x), decays)


@functools.partial(
  jax.jit, static_argnames=("network", "steps", "batch", "learning_rate")
)
def _train(
  key: jax.Array,
  x: jax.Array,
  y: jax.Array,
  binary: jax.Array,
  decays: jax.Array,
  *,
  network: MLP,
  steps: int,
  batch: int,
  learning_rate: float,
) -> Any:
  """One network for each decay, from the same start and on the same batches."""
  start = network.init(jax.random.fold_in(key, steps), x[:1], train=False)
  schedule = optax.cosine_decay_schedule(learning_rate, steps)

  def loss(variables, rows):
    output = network.apply(variables, x[rows], train=False)
    entropy = optax.sigmoid_binary_cross_entropy(output, y[rows])
    square = jnp.square(output - y[rows])
    return jnp.mean(jnp.sum(jnp.where(binary[None], entropy, square), axis=1))

  def train(decay):
    optimiser = optax.adamw(schedule, weight_decay=decay)

    def step(carry, index):
      variables, state = carry
      rows = jax.random.randint(
        jax.random.fold_in(key, index), (batch,), 0, len(x)
      )
      grad = jax.grad(loss)(variables, rows)
      updates, state = optimiser.update(grad, state, variables)
      return (optax.apply_updates(variables, updates), state), None

    carry = (start, optimiser.init(start))
    (variables, _), _ = jax.lax.scan(step, carry, jnp.arange(steps))
    return variables

  return jax.vmap(train)(decays)


@functools.partial(jax.jit, static_argnames="network")
def _predict(variables: Any, x: jax.Array, network: MLP) -> jax.Array:
  """[R, N, K] outputs of the R networks."""
  return jax.vmap(lambda v: network.apply(v, x, train=False))(variables)


def measure(
  key: jax.Array,
  train_images: np.ndarray,
  test_images: np.ndarray,
  *,
  policy: augment.ViewPolicy,
  encode: Callable[[jax.Array], jax.Array],
  seed: int = 0,
  batch_size: int = 256,
  **options: Any,
) -> dict[str, dict[str, Probe]]:
  """Draws two views of every image and probes their features.

  Args:
    key: PRNG key of the views and of the three layers.
    train_images: [N, S, T, 3] uint8, or floats in [0, 1].
    test_images: [M, S, T, 3], other images.
    policy: of the views: that of the run, or `pairs.only(operation, policy)`
      for what is left when nothing else happens.
    encode: images [b, h, w, 3] float32, normalised -> features [b, d], in eval
      mode and jitted.
    seed: of the rows on which the regularisation is chosen.
    batch_size: images at a time; the result does not depend on it.
    **options: of `mlp`.

  Returns:
    {input: {"linear" or "mlp": Probe}} over the fields that the policy varies.
    Inputs: "single", omega of the first view from its features [d]; "pair",
    the difference of both omegas (see `augment.omega.difference`: for flip it
    says whether both views agree) from both features [2 d].

  Raises:
    UserError: see `linear`.
  """
  policy = dataclasses.replace(policy, dtype="float32")
  fields = augment.active_fields([policy])
  train_key, test_key, fit_key = jax.random.split(key, 3)

  def rows(key: jax.Array, images: np.ndarray) -> dict[str, Any]:
    first, second = (
      pairs.encode(
        jax.random.fold_in(key, view),
        images,
        policy=policy,
        function=encode,
        batch_size=batch_size,
      )
      for view in range(2)
    )
    difference = augment.omega.difference(first.omega, second.omega)
    return {
      "single": (first.outputs, first.omega),
      "pair": (
        np.concatenate([first.outputs, second.outputs], axis=1),
        jax.device_get(difference),
      ),
    }

  train, test = rows(train_key, train_images), rows(test_key, test_images)

  found = {}
  for name in train:
    arrays = [
      part
      for features, omega in (train[name], test[name])
      for part in (features, {field: omega[field] for field in fields})
    ]
    found[name] = {
      "linear": linear(*arrays, seed=seed),
      "mlp": mlp(fit_key, *arrays, seed=seed, **options),
    }
  return found


def _split(
  count: int, validation: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Rows to fit and rows to choose on."""
  order = np.random.default_rng(seed).permutation(count)
  held = max(1, int(validation * count))
  if count - held < 2 or held < 2:
    raise UserError(
      f"a probe with validation={validation} needs 2 images or more to fit and"
      f" 2 to choose on, got {count} in all: pass more images."
    )
  return order[held:], order[:held]


def _standardised(
  train: np.ndarray, kept: np.ndarray, held: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, ...]:
  """Float64 features of three parts, less the first's mean over its deviation.

  A feature that hardly ever fires deviates by nearly nothing here, and by
  thousands of deviations on the one picture elsewhere where it does: `_FLOOR`
  bounds how far it is blown up. One that is constant stays 0.
  """
  parts = [np.asarray(x, np.float64) for x in (train[kept], train[held], test)]
  mean, scale = np.mean(parts[0], axis=0), np.std(parts[0], axis=0)
  scale = np.maximum(scale, _FLOOR * np.sqrt(np.mean(scale**2)))
  scale = np.where(scale > 0, scale, np.inf)
  return tuple((x - mean[None]) / scale[None] for x in parts)
