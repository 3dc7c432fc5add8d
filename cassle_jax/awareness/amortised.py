"""AI, amortised invariances: one backbone, told what it is to be invariant to.

Chavhan et al. 2023, arXiv 2302.12712. Every step draws one descriptor out of a
list; it goes into the backbone and chooses the augmentations, the head and the
memory of that step. The heads of the others rest: they neither decay nor move
on their momentum. Downstream the descriptor is learned with a linear head.

descriptor      augmentations
(0, 1) dorsal   appearance: the whole picture, with jitter, grayscale and blur
                always and solarize as in the run
(1, 0) ventral  position: crop and flip as in the run
(1, 1) default  all of the run's

An operation that is off in the run stays off. Rotation belongs to the default
only. Deviation: dorsal squeezes the whole picture into the view, where the
published code cuts out a central square.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cassle_jax import augment
from cassle_jax.augment import View, ViewPolicy
from cassle_jax.awareness.interface import Awareness
from cassle_jax.errors import UserError, unknown
from cassle_jax.methods import contrast

Descriptor = tuple[float, ...]

DESCRIPTORS: dict[Descriptor, str] = {
  (0.0, 1.0): "dorsal",
  (1.0, 0.0): "ventral",
  (1.0, 1.0): "default",
}
# Folded into a step's key in place of a view's index.
_CHOICE = 2**31 - 2


def choose(key: jax.Array, count: int) -> jax.Array:
  """Draws which of `count` descriptors a step uses; int32 scalar, uniform.

  Args:
    key: PRNG key of the step. The draws of `views` from the same key are
      independent of this one.
    count: number of descriptors.
  """
  return jax.random.randint(jax.random.fold_in(key, _CHOICE), (), 0, count)


def descriptor_policy(policy: ViewPolicy, descriptor: Descriptor) -> ViewPolicy:
  """Returns what may happen to a view under a key of `DESCRIPTORS`."""
  kind = DESCRIPTORS[tuple(descriptor)]
  if kind == "dorsal":
    always = ("jitter", "grayscale", "blur")
    on = {name: float(getattr(policy, name) > 0) for name in always}
    return dataclasses.replace(policy, crop=False, flip=0.0, rotation=0.0, **on)
  if kind == "ventral":
    off = ("jitter", "grayscale", "blur", "solarize", "rotation")
    return dataclasses.replace(policy, **dict.fromkeys(off, 0.0))
  return policy


def views(
  key: jax.Array,
  images: jax.Array,
  sizes: jax.Array,
  policies: tuple[ViewPolicy, ...],
  *,
  index: jax.Array,
  descriptors: tuple[Descriptor, ...],
) -> tuple[View, ...]:
  """Makes the views of one descriptor, by a program that suits all of them.

  Args:
    key: PRNG key of this step; view v uses fold_in(key, v).
    images: [B, S, T, 3] canvases, uint8 or floats in [0, 1].
    sizes: [B, 2] int32, true (height, width) of each picture.
    policies: the run's, one for each view.
    index: int32 scalar, may be traced: which descriptor.
    descriptors: keys of `DESCRIPTORS`.

  Returns:
    What `augment.views` returns for the policies of that descriptor.
  """
  made = []
  for position, policy in enumerate(policies):
    view_key = jax.random.fold_in(key, position)
    draws = [
      augment.sample(view_key, descriptor_policy(policy, descriptor), sizes)
      for descriptor in descriptors
    ]
    parameters = jax.tree.map(lambda *of: jnp.stack(of)[index], *draws)
    # No descriptor switches on what the run has off: its own policy is the
    # union of all, and to `apply` an operation not drawn is the identity.
    image, color_diff = augment.apply(parameters, images, sizes, policy)
    omega = augment.describe(parameters, color_diff, sizes, policy)
    made.append(View(image, omega))
  return tuple(made)


def check(
  policies: tuple[ViewPolicy, ...], *, descriptors: tuple[Descriptor, ...]
) -> None:
  """Raises UserError if a descriptor leaves both views the same."""
  for descriptor in descriptors:
    chosen = [descriptor_policy(policy, descriptor) for policy in policies]
    # Always grey, two views of the whole picture are one.
    varied = set(augment.active_fields(chosen)) - {"grayscale"}
    if not varied:
      kind = DESCRIPTORS[descriptor]
      switches = {
        "dorsal": "--config.augment.jitter=0.8",
        "ventral": "--config.augment.crop=True",
        "default": "--config.augment.crop=True",
      }
      raise UserError(
        f"ai's descriptor {descriptor} ({kind}) finds all of its operations off"
        f" in the augmentation; set {switches[kind]} or take it out of"
        " --config.awareness.descriptors."
      )


def build(
  *,
  descriptors: tuple[tuple[float, ...], ...] = (
    (0.0, 1.0),
    (1.0, 0.0),
    (1.0, 1.0),
  ),
) -> Awareness:
  """Amortised invariances.

  Args:
    descriptors: keys of `DESCRIPTORS`; the position in the list is that of the
      descriptor's head and memory.

  Raises:
    UserError: there is none, or one is unknown or given twice.
  """
  descriptors = tuple(tuple(map(float, one)) for one in descriptors)
  if not descriptors:
    raise UserError(
      "ai needs a descriptor; set e.g."
      ' --config.awareness.descriptors="((0,1),(1,0),(1,1))".'
    )
  for descriptor in descriptors:
    if descriptor not in DESCRIPTORS:
      raise unknown(
        "descriptor in awareness.descriptors",
        descriptor,
        map(str, DESCRIPTORS),
      )
  if len(set(descriptors)) != len(descriptors):
    raise UserError(
      f"awareness.descriptors={descriptors} gives one twice; give each once."
    )
  return Awareness(
    name="ai",
    views=functools.partial(views, descriptors=descriptors),
    check=functools.partial(check, descriptors=descriptors),
    descriptors=descriptors,
    choose=functools.partial(choose, count=len(descriptors)),
  )


def classification_loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean cross-entropy in nats of [n, classes] outputs, [n] int32 labels."""
  return contrast.cross_entropy(outputs, labels)[0]


def fit_descriptor(
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
