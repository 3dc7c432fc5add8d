"""Pairs (x, t(x)): pictures as they are, and after one operation, with omega.

A policy says what may happen; `untouched` takes everything out of it and `only`
leaves one operation of `augment.OPERATIONS`, which then happens to every image.
What happens to image i depends on the key, on i and on its size alone, never on
the batch around it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from cassle_jax import augment
from cassle_jax.errors import UserError


class Encoded(NamedTuple):
  """What a frozen network makes of one view of each image.

  Attributes:
    outputs: what the function returned, as numpy arrays with leading axis N.
    omega: {field: [N, k] float32} for all fields of `augment.omega`.
  """

  outputs: Any
  omega: dict[str, np.ndarray]


def published() -> tuple[str, ...]:
  """The operations that the published runs were trained with."""
  usual = augment.ViewPolicy(**augment.presets["cassle"].first)
  return tuple(one.operation for one in usual.settings if one.on)


def usual(policy: augment.ViewPolicy) -> tuple[str, ...]:
  """The published operations, then whatever else a policy has on."""
  first = published()
  return first + tuple(
    one.operation
    for one in policy.settings
    if one.on and one.operation not in first
  )


def untouched(policy: augment.ViewPolicy) -> augment.ViewPolicy:
  """The policy with every operation off: the whole picture, normalised.

  Sizes, intervals, mean and std stay; the views are float32, whatever the run
  was trained in.
  """
  return dataclasses.replace(policy.untouched(), dtype="float32")


def only(operation: str, policy: augment.ViewPolicy) -> augment.ViewPolicy:
  """As `untouched`, but one operation happens to every image.

  Args:
    operation: a name in `augment.OPERATIONS`.
    policy: gives the intervals that the parameters are drawn from.

  Raises:
    UserError: unknown operation, or one that does not fit the image size.
  """
  return dataclasses.replace(policy.only(operation), dtype="float32")


def encode(
  key: jax.Array,
  images: np.ndarray,
  *,
  policy: augment.ViewPolicy,
  function: Callable[[jax.Array], Any],
  batch_size: int = 256,
) -> Encoded:
  """Sends one view of every image through a frozen network.

  Args:
    key: PRNG key of the views; the same key makes the same ones.
    images: [N, S, T, 3] uint8, or floats in [0, 1].
    policy: of the views: `untouched` for x, `only` one operation for t(x).
    function: images [batch_size, h, w, 3] float32, normalised -> any tree of
      arrays [batch_size, ...], each image on its own (BatchNorm in eval mode).
      It is called as it is: pass a jitted one.
    batch_size: images at a time; the result does not depend on it.

  Raises:
    UserError: no images.
  """
  if len(images) == 0:
    raise UserError("no images to evaluate: the split is empty.")
  parameters = _sample(key, policy, augment.full_sizes(images))
  return encode_views(
    jax.device_get(parameters),
    images,
    policy=policy,
    function=function,
    batch_size=batch_size,
  )


def encode_views(
  parameters: augment.Parameters,
  images: np.ndarray,
  *,
  policy: augment.ViewPolicy,
  function: Callable[[jax.Array], Any],
  batch_size: int = 256,
) -> Encoded:
  """As `encode`, with parameters [N, ...] that are given instead of drawn."""

  def both(parameters, images):
    made = _view(parameters, images, policy)
    return Encoded(function(made.image), made.omega)

  return in_batches(both, parameters, images, batch_size=batch_size)


_sample = jax.jit(augment.sample, static_argnums=1)


@functools.partial(jax.jit, static_argnums=2)
def _view(
  parameters: augment.Parameters,
  images: jax.Array,
  policy: augment.ViewPolicy,
) -> augment.View:
  return augment.make(parameters, images, augment.full_sizes(images), policy)


def in_batches(
  function: Callable[..., Any], *arrays: Any, batch_size: int = 256
) -> Any:
  """Calls a batch function with some rows after the others.

  Args:
    function: trees of arrays [batch_size, ...] -> tree of such arrays, each row
      on its own; called as it is, see `encode`.
    *arrays: trees of numpy arrays [N, ...].
    batch_size: rows at a time; the last call is filled up with copies of the
      last row, so that one program serves all.

  Returns:
    The results of all rows as numpy arrays [N, ...].
  """
  if batch_size < 1:
    raise UserError(f"batch_size={batch_size} must be at least 1.")
  count = len(jax.tree.leaves(arrays)[0])

  def call(start: int) -> Any:
    rows = np.minimum(np.arange(start, start + batch_size), count - 1)
    return function(*jax.tree.map(lambda x: x[rows], arrays))

  parts = [jax.device_get(call(start)) for start in range(0, count, batch_size)]
  return jax.tree.map(lambda *xs: np.concatenate(xs)[:count], *parts)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Cosine of each row of a [N, d] with that row of b: [N] float32."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
  return (np.sum(a * b, axis=1) / np.maximum(lengths, 1e-12)).astype(np.float32)
