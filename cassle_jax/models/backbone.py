"""What a backbone is, so that a module of one's own can be one.

The package's own are `ResNet`, `VisionTransformer` and `ConvNet`. Whatever
keeps the contract of `Backbone` can stand in their place: `models.build` takes
it as `backbone=`, and it is checked there, in `step.create_state` and in
`evaluation.features`.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from cassle_jax.errors import UserError


class Backbone(Protocol):
  """A Flax Linen module from images to features.

  Its variables are in the collections "params" and "batch_stats"; `apply` is
  called with mutable=["batch_stats"] in training. Random numbers (dropout) are
  not given to it.
  """

  def __call__(
    self, images: jax.Array, *, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes features.

    Args:
      images: [B, h, w, 3] float32, normalised.
      train: whether statistics of the batch are used and remembered.

    Returns:
      features [B, d] float32, and outputs on the way there by name, [B, ...];
      {} will do: only the evaluation of each block looks at them.
    """

  def init(self, key: jax.Array, images: jax.Array, **options: Any) -> Any:
    """Makes {"params": ..., "batch_stats": ...}; Linen modules have it."""

  def apply(self, variables: Any, images: jax.Array, **options: Any) -> Any:
    """Calls the module with these variables; Linen modules have it."""


def check_backbone(backbone: Backbone, **options: Any) -> None:
  """Checks that a backbone can be called as one; nothing is computed.

  `options` are given beside `images` and `train`: the descriptor of AI's.

  Raises:
    UserError: it is no Linen module, or takes other arguments.
  """
  if isinstance(backbone, type) or not hasattr(backbone, "apply"):
    raise UserError(
      f"a backbone is a Flax Linen module, not {backbone!r}: give an instance"
      " of a class with"
      " def __call__(self, images, *, train) -> (features [B, d], {})."
    )
  taken = inspect.signature(backbone.__call__)
  try:
    taken.bind(None, train=False, **options)
  except TypeError as error:
    given = ", ".join(["train", *options])
    raise UserError(
      f"the backbone {type(backbone).__name__} cannot be called with (images,"
      f" {given}=...) ({error}); it must be"
      f" def __call__(self, images, *, {given}) -> (features [B, d], {{}})."
    ) from None


def check_output(
  backbone: Backbone, output: Any, batch_size: int
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
  """Returns a backbone's output if it is (features [B, d], dict).

  Raises:
    UserError: it is anything else.
  """
  if isinstance(output, tuple) and len(output) == 2:
    features, outputs = output
    shape = getattr(features, "shape", ())
    if len(shape) == 2 and shape[0] == batch_size:
      if isinstance(outputs, Mapping):
        return features, outputs
  shown = jax.tree.map(lambda x: getattr(x, "shape", x), output)
  raise UserError(
    f"the backbone {type(backbone).__name__} returns {shown} for"
    f" {batch_size} images; it must be"
    " def __call__(self, images, *, train) -> (features [B, d], {})."
  )


def feature_size(
  backbone: Backbone, image_size: int, descriptor_size: int = 0
) -> int:
  """The size d of a backbone's features; nothing is computed.

  A backbone that is told a descriptor gets one of `descriptor_size` numbers.

  Raises:
    UserError: it does not keep the contract of `Backbone`.
  """
  told = {}
  if descriptor_size:
    told["descriptor"] = jnp.zeros((descriptor_size,), jnp.float32)
  check_backbone(backbone, **told)

  def features(key: jax.Array, images: jax.Array) -> jax.Array:
    variables = backbone.init(key, images, train=False, **told)
    output = backbone.apply(variables, images, train=False, **told)
    return check_output(backbone, output, len(images))[0]

  images = jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.float32)
  return jax.eval_shape(features, jax.random.key(0), images).shape[-1]
