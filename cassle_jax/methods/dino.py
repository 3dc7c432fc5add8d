"""DINO: each crop predicts a slow teacher's soft labels of the other crops.

Caron et al. 2021, arXiv 2104.14294, equations 1 to 4 and algorithm 1.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cassle_jax.methods import multicrop
from cassle_jax.methods.interface import (
  Branch,
  Heads,
  Memory,
  Method,
  Metrics,
  Widths,
  check_numbers,
)


def soft_labels(
  scores: jax.Array, center: jax.Array, temperature: jax.Array | float
) -> jax.Array:
  """softmax((scores - center) / temperature): centred and sharpened.

  Args:
    scores: [B, K] outputs of the teacher.
    center: [K] running mean of such outputs.
    temperature: positive divisor.

  Returns:
    [B, K] float32 probabilities without gradient.
  """
  scores = jax.lax.stop_gradient(scores).astype(jnp.float32)
  return jax.nn.softmax((scores - center[None]) / temperature, axis=1)


def temperature_at(
  step: jax.Array, *, start: float, end: float, warmup_steps: float
) -> jax.Array:
  """The teacher's temperature: linear over the warm-up, then constant.

  Args:
    step: int32, steps taken so far.
    start: at step 0.
    end: at `warmup_steps` and after it.
    warmup_steps: 0 for `end` throughout.
  """
  if not warmup_steps:
    return jnp.full(jnp.shape(step), end, jnp.float32)
  share = jnp.minimum(jnp.asarray(step, jnp.float32) / warmup_steps, 1.0)
  return start + (end - start) * share


def loss(
  key: jax.Array,
  online: Branch,
  target: Branch,
  memory: Memory,
  *,
  temperature: float,
  teacher_temperature: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, Metrics]:
  """Every view predicts the teacher's labels of the global views but its own.

  The mean over all these predictions, as in the paper's code; equation 3 is
  their sum. It is the entropy of the labels plus the divergence (KL) of the
  predictions from them. A collapse shows in the entropy, 0 for one label and
  log K for uniform ones; in both the divergence comes to 0.
  """
  del key
  divisor = teacher_temperature(memory["step"])
  labels = [soft_labels(s, memory["center"], divisor) for s in target.scores]
  value = multicrop.cross_view_loss(
    labels, online.scores, temperature=temperature
  )
  entropy = multicrop.mean_entropy(labels)
  return value, {
    "teacher_entropy": entropy,
    "teacher_divergence": value - entropy,
    "teacher_temperature": divisor,
  }


def init_memory(key: jax.Array, widths: Widths) -> Memory:
  """The teacher's centre [K], at 0, and the number of steps taken."""
  del key
  return {
    "center": jnp.zeros((widths.scores,), jnp.float32),
    "step": jnp.zeros((), jnp.int32),
  }


def update_memory(
  memory: Memory, online: Branch, target: Branch, *, center_momentum: float
) -> Memory:
  """Moves the centre to the teacher's mean output over the global batch."""
  del online
  means = [jnp.mean(s.astype(jnp.float32), axis=0) for s in target.scores]
  mean = jax.lax.stop_gradient(sum(means) / len(means))
  center = center_momentum * memory["center"] + (1 - center_momentum) * mean
  return {"center": center, "step": memory["step"] + 1}


def build(
  *,
  steps_per_epoch: int,
  prototypes: int = 65536,
  temperature: float = 0.1,
  teacher_temperature: float = 0.07,
  warmup_teacher_temperature: float = 0.04,
  warmup_teacher_epochs: float = 30.0,
  center_momentum: float = 0.9,
  momentum: float = 0.996,
  momentum_schedule: str = "cosine",
  momentum_per: str = "step",
) -> Method:
  """DINO.

  Deviations: the teacher's temperature rises with every step and arrives at
  the end of the warm-up's last epoch; in the paper's code it rises once an
  epoch and arrives at that epoch's start. The head's layers start as all
  heads here do, uniform by their fan-in, not from a normal distribution of
  deviation 0.02.

  Args:
    steps_per_epoch: steps in an epoch.
    prototypes: width of the last layer.
    temperature: positive divisor of the student's outputs.
    teacher_temperature: of the teacher's outputs, after the warm-up.
    warmup_teacher_temperature: of the teacher's outputs, at step 0.
    warmup_teacher_epochs: epochs of a linear rise from one to the other.
    center_momentum: of the centre, in [0, 1].
    momentum: of the teacher at step 0, in [0, 1].
    momentum_schedule: "cosine" for a ramp to 1, or "constant".
    momentum_per: "step" or "epoch".
  """
  check_numbers(
    prototypes=prototypes,
    temperature=temperature,
    teacher_temperature=teacher_temperature,
    warmup_teacher_temperature=warmup_teacher_temperature,
    warmup_teacher_epochs=warmup_teacher_epochs,
    center_momentum=center_momentum,
    momentum=momentum,
    momentum_schedule=momentum_schedule,
    momentum_per=momentum_per,
  )
  return Method(
    name="dino",
    heads=Heads(
      projector=(2048, 2048, 256),
      projector_hidden_norm=False,
      projector_activation="gelu",
      prototypes=prototypes,
      prototypes_weight_norm=True,
    ),
    loss=functools.partial(
      loss,
      temperature=temperature,
      teacher_temperature=functools.partial(
        temperature_at,
        start=warmup_teacher_temperature,
        end=teacher_temperature,
        warmup_steps=warmup_teacher_epochs * steps_per_epoch,
      ),
    ),
    online_views=None,
    target_views=(0, 1),
    target_update="after",
    momentum=momentum,
    momentum_schedule=momentum_schedule,
    momentum_per=momentum_per,
    evaluated="target",
    joint_views=True,
    init_memory=init_memory,
    update_memory=functools.partial(
      update_memory, center_momentum=center_momentum
    ),
  )
