"""Which invariances a task needs: a descriptor learned with a linear head.

Chavhan et al. 2023, arXiv 2302.12712, for backbones that `awareness.amortised`
trained.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cassle_jax.errors import UserError


def classification_loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean cross-entropy in nats of [n, classes] outputs, [n] int32 labels."""
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
  )


def fit(
  key: jax.Array,
  apply: Callable[[jax.Array, jax.Array], jax.Array],
  images: jax.Array,
  labels: jax.Array,
  *,
  outputs: int,
  steps: int,
  size: int = 2,
  batch_size: int = 16,
  learning_rate: float = 0.01,
  loss: Callable[[jax.Array, jax.Array], jax.Array] = classification_loss,
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
  """Learns a descriptor and a linear head on a frozen backbone.

  Adam on both; the descriptor starts at 0.5 and is clipped to [0, 1] after
  every step. The learning rate falls to 0 along half a cosine. Can be jitted.

  Args:
    key: PRNG key; epoch e is shuffled by fold_in(key, e).
    apply: (descriptor [size], images [n, ...]) -> features [n, d]; the
      backbone in evaluation mode, its parameters closed over.
    images: [N, ...], whatever `apply` takes.
    labels: [N, ...], whatever `loss` takes.
    outputs: numbers that the head gives, e.g. the classes.
    steps: number of steps.
    size: of the descriptor.
    batch_size: at most N; the rest of each epoch's order is left out.
    learning_rate: of both, at the first step.
    loss: (outputs [n, outputs], labels [n, ...]) -> scalar.

  Returns:
    The descriptor [size]; the head, {"kernel" [d, outputs], "bias" [outputs]};
    and {"loss" [steps], "descriptor" [steps, size]}, before each step's update.

  Raises:
    UserError: `batch_size` exceeds the number of images.
  """
  images, labels = jnp.asarray(images), jnp.asarray(labels)
  count = len(images)
  if not 1 <= batch_size <= count:
    raise UserError(
      f"batch_size={batch_size} must be between 1 and the {count} images; use"
      f" at most {count}."
    )
  middle = jnp.full((size,), 0.5, jnp.float32)
  width = jax.eval_shape(apply, middle, images[:1]).shape[-1]
  params = {
    "descriptor": middle,
    "head": {
      "kernel": jnp.zeros((width, outputs)),
      "bias": jnp.zeros((outputs,)),
    },
  }
  optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
  per_epoch = count // batch_size

  def loss_of(params, images, labels):
    features = apply(params["descriptor"], images).astype(jnp.float32)
    head = params["head"]
    return loss(features @ head["kernel"] + head["bias"][None], labels)

  def step(carry, position):
    params, state = carry
    epoch, place = position // per_epoch, position % per_epoch
    order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    rows = jax.lax.dynamic_slice(order, (place * batch_size,), (batch_size,))
    value, grads = jax.value_and_grad(loss_of)(
      params, images[rows], labels[rows]
    )
    record = {"loss": value, "descriptor": params["descriptor"]}
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    params["descriptor"] = jnp.clip(params["descriptor"], 0.0, 1.0)
    return (params, state), record

  (params, _), history = jax.lax.scan(
    step, (params, optimizer.init(params)), jnp.arange(steps)
  )
  return params["descriptor"], params["head"], history
