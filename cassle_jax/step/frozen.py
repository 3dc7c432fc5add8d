"""A trained state's networks as functions, for `evaluate.measure`."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax

from cassle_jax import augment
from cassle_jax.models import Networks
from cassle_jax.step.state import TrainState


def frozen(
  networks: Networks, state: TrainState, fields: Iterable[str]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """The online backbone and projector of a state, in eval mode, jitted.

  Args:
    networks: that the state was made with.
    state: of a method with one projector; it must not be donated afterwards.
    fields: of omega, that the projector was told.

  Returns:
    `encode(images [b, h, w, 3])` -> (features [b, d] float32, {block: outputs})
    and `project(features, {field: [b, k]})` -> projections [b, out].
  """
  fields = tuple(fields)

  def encode(variables, images):
    return networks.backbone.apply(variables, images, train=False)

  def project(variables, features, omega):
    told = augment.omega.pack(omega, fields)
    return networks.projector.apply(variables, features, told, train=False)

  def bound(name, function):
    variables = {"params": state.params[name]}
    variables["batch_stats"] = state.batch_stats.get(name, {})
    return functools.partial(jax.jit(function), variables)

  return bound("backbone", encode), bound("projector", project)
