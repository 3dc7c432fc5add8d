"""The state of a run: everything that it needs to go on, and nothing else."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cassle_jax.awareness.interface import VANILLA, Awareness
from cassle_jax.methods.interface import Memory, Method, Widths
from cassle_jax.models import (
  HEAD_NAMES,
  MIRRORED,
  Networks,
  check_backbone,
  check_output,
)
from cassle_jax.step.encode import Params


@flax.struct.dataclass
class TrainState:
  """Everything that a run needs to go on, and nothing else.

  Attributes:
    step: int32 scalar, the number of steps taken.
    params: {"backbone": ..., "projector": ...} and, where there are any,
      "predictor", "prototypes" and "pair_heads".
    batch_stats: running statistics of the same networks.
    target: moving average of backbone, projector and prototypes; {} without a
      target.
    target_stats: running statistics of the target; {} without a target.
    memory: what the method keeps between steps (a queue); {} for none.
    opt_state: the optimiser's state.
  """

  step: jax.Array
  params: Params
  batch_stats: Params
  target: Params
  target_stats: Params
  memory: dict[str, jax.Array]
  opt_state: optax.OptState


def create_state(
  key: jax.Array,
  *,
  networks: Networks,
  method: Method,
  optimizer: optax.GradientTransformation,
  image_size: int,
  omega_size: int,
  awareness: Awareness = VANILLA,
  batch_size: int = 8,
) -> TrainState:
  """Initialises every network, the target, the memory and the optimiser.

  Args:
    key: root of all initial values.
    networks: from `models.build`.
    method: from `methods.build`.
    optimizer: from `optim.build`, or any optax transformation.
    image_size: side of the square views, in pixels.
    omega_size: length of the packed omega; see `augment.omega.size`.
    awareness: from `awareness.build`.
    batch_size: of the zeros that the modules are initialised with; their
      BatchNorm groups must divide it.

  Returns:
    The state at step 0. The target starts as a copy of the online networks.
  """
  names = ("backbone", "projector", "predictor", "memory")
  keys = dict(zip(names, jax.random.split(key, 4), strict=True))
  keys["prototypes"], keys["pair_heads"] = jax.random.split(
    jax.random.fold_in(key, 4)
  )
  images = jnp.zeros((batch_size, image_size, image_size, 3))
  omega = jnp.zeros((batch_size, omega_size))
  told = {}
  if awareness.descriptors:
    told["descriptor"] = jnp.asarray(awareness.descriptors[0], jnp.float32)
  copies = head_copies(method, awareness)

  def several(function: Callable, key: jax.Array) -> Any:
    if not copies:
      return function(key)
    return jax.vmap(function)(jax.random.split(key, copies))

  check_backbone(networks.backbone, **told)
  backbone = networks.backbone.init(
    keys["backbone"], images, train=False, **told
  )
  output = networks.backbone.apply(backbone, images, train=False, **told)
  features, _ = check_output(networks.backbone, output, batch_size)

  def init_projector(key: jax.Array) -> Any:
    rngs = {"params": key, "conditioning": key}
    return networks.projector.init(rngs, features, omega, train=False)

  variables = {
    "backbone": backbone,
    "projector": several(init_projector, keys["projector"]),
  }
  projections = jnp.zeros((batch_size, networks.projector.widths[-1]))
  if networks.predictor is not None:
    variables["predictor"] = several(
      lambda key: networks.predictor.init(key, projections, train=False),
      keys["predictor"],
    )
  if networks.prototypes is not None:
    variables["prototypes"] = several(
      lambda key: networks.prototypes.init(key, projections),
      keys["prototypes"],
    )
  if networks.pair_heads is not None:
    variables["pair_heads"] = networks.pair_heads.init(
      keys["pair_heads"], features, features, train=False
    )
  params = {name: v["params"] for name, v in variables.items()}
  batch_stats = {
    name: v.get("batch_stats", {}) for name, v in variables.items()
  }
  widths = Widths(projections.shape[-1], method.heads.prototypes)

  def init_memory(key: jax.Array) -> Memory:
    return method.init_memory(key, widths)

  memory_key = keys["memory"]
  has_target = bool(method.target_views)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    target=target_of(params) if has_target else {},
    target_stats=target_of(batch_stats) if has_target else {},
    memory=several(init_memory, memory_key)
    if awareness.descriptors
    else init_memory(memory_key),
    opt_state=optimizer.init(params),
  )


def head_copies(method: Method, awareness: Awareness) -> int:
  """How many of each head lie side by side; 0 = one, without that axis."""
  return len(awareness.descriptors) or method.spaces


def copied(method: Method, awareness: Awareness) -> tuple[str, ...]:
  """The networks whose variables have a leading axis of copies."""
  return HEAD_NAMES if head_copies(method, awareness) else ()


def target_of(tree: Params) -> Params:
  """A copy of what the target mirrors: all but what only the online has."""
  return jax.tree.map(
    jnp.copy, {name: tree[name] for name in MIRRORED if name in tree}
  )


def move_target(target: Params, params: Params, momentum: jax.Array) -> Params:
  """Exponential moving average: m target + (1 - m) online, in float32."""
  online = {name: params[name] for name in target}
  return jax.tree.map(
    lambda old, new: momentum * old + (1 - momentum) * new, target, online
  )
