"""One training step as a pure function: TrainState -> TrainState, metrics.

The whole step is one XLA program: augmentation, both encoders, the loss, its
gradient, the optimiser and the target's moving average. Bind the keyword
arguments with functools.partial, then jit once and donate the state:

    step = functools.partial(train_step, key=key, policies=policies, ...)
    step = jax.jit(step, donate_argnums=0)
    state, metrics = step(state, batch)

Everything random comes from fold_in(key, state.step), so a resumed run sees
the numbers that an uninterrupted one would have seen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cassle_jax import augment, monitor
from cassle_jax.methods.interface import Branch, Method, Metrics
from cassle_jax.models import Networks

Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
  """Everything that a run needs to go on, and nothing else.

  Attributes:
    step: int32 scalar, the number of steps taken.
    params: {"backbone": ..., "projector": ..., "predictor": ...}.
    batch_stats: running statistics of the same networks.
    target: moving average of backbone and projector; {} without a target.
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
    batch_size: of the zeros that the modules are initialised with; their
      BatchNorm groups must divide it.

  Returns:
    The state at step 0. The target starts as a copy of the online networks.
  """
  keys = dict(
    zip(
      ("backbone", "projector", "predictor", "memory"),
      jax.random.split(key, 4),
      strict=True,
    )
  )
  images = jnp.zeros((batch_size, image_size, image_size, 3))
  omega = jnp.zeros((batch_size, omega_size))

  backbone = networks.backbone.init(keys["backbone"], images, train=False)
  features = networks.backbone.apply(backbone, images, train=False)[0]
  variables = {"backbone": backbone}
  variables["projector"] = networks.projector.init(
    {"params": keys["projector"], "conditioning": keys["projector"]},
    features,
    omega,
    train=False,
  )
  projections = networks.projector.apply(
    variables["projector"],
    features,
    omega,
    train=False,
    rngs={"conditioning": keys["projector"]},
  )
  if networks.predictor is not None:
    variables["predictor"] = networks.predictor.init(
      keys["predictor"], projections, train=False
    )
  params = {name: v["params"] for name, v in variables.items()}
  batch_stats = {
    name: v.get("batch_stats", {}) for name, v in variables.items()
  }
  has_target = bool(method.target_views)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    target=target_of(params) if has_target else {},
    target_stats=target_of(batch_stats) if has_target else {},
    memory=method.init_memory(keys["memory"], projections.shape[-1]),
    opt_state=optimizer.init(params),
  )


def target_of(tree: Params) -> Params:
  """A copy of what the target mirrors: backbone and projector."""
  return jax.tree.map(
    jnp.copy, {name: tree[name] for name in ("backbone", "projector")}
  )


def move_target(target: Params, params: Params, momentum: jax.Array) -> Params:
  """Exponential moving average: m target + (1 - m) online, in float32."""
  online = {name: params[name] for name in target}
  return jax.tree.map(
    lambda old, new: momentum * old + (1 - momentum) * new, target, online
  )


def encode(
  networks: Networks,
  params: Params,
  batch_stats: Params,
  views: Sequence[augment.View],
  *,
  key: jax.Array,
  fields: Sequence[str],
  permutation: jax.Array | None = None,
) -> tuple[Branch, Params]:
  """Runs backbone, projector and predictor in training mode on each view.

  Args:
    networks: from `models.build`.
    params: parameters by network; without "predictor" there are no
      predictions, which is how the target runs.
    batch_stats: running statistics by network.
    views: the views; each is normalised by its own batch statistics.
    key: for conditioning that is random.
    fields: the fields of omega that the projector is told.
    permutation: [B] indices; the networks then see the batch in that order,
      and the outputs are put back.

  Returns:
    The outputs in the batch's own order, and the new running statistics.
  """
  stats = dict(batch_stats)
  outputs = {"backbone": [], "projector": [], "predictor": []}

  def run(name: str, *inputs: jax.Array, **rngs: jax.Array) -> Any:
    output, mutated = getattr(networks, name).apply(
      {"params": params[name], "batch_stats": stats[name]},
      *inputs,
      train=True,
      mutable=["batch_stats"],
      rngs=rngs,
    )
    stats[name] = mutated.get("batch_stats", stats[name])
    return output

  def restore(x: jax.Array) -> jax.Array:
    return x if permutation is None else x[jnp.argsort(permutation)]

  for index, (image, omega) in enumerate(views):
    packed = augment.omega.pack(omega, fields)
    if permutation is not None:
      image, packed = image[permutation], packed[permutation]
    features = run("backbone", image)[0]
    z = run(
      "projector", features, packed, conditioning=jax.random.fold_in(key, index)
    )
    outputs["backbone"].append(restore(features))
    outputs["projector"].append(restore(z))
    if "predictor" in params:
      outputs["predictor"].append(restore(run("predictor", z)))
  return Branch(*(tuple(outputs[name]) for name in outputs)), stats


def update(
  state: TrainState,
  views: Sequence[augment.View],
  *,
  key: jax.Array,
  networks: Networks,
  method: Method,
  optimizer: optax.GradientTransformation,
  momentum: jax.Array | float = 1.0,
  fields: Sequence[str] = augment.omega.DEFAULT,
  accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
  """The step from views that are already made: loss, gradient, updates.

  Args:
    state: the state to start from.
    views: the views of the global batch, each with its omega.
    key: of this step.
    networks: from `models.build`.
    method: from `methods.build`.
    optimizer: an optax transformation over `state.params`.
    momentum: of the target at this step, in [0, 1].
    fields: the fields of omega that the projector is told.
    accumulate: number of micro-batches whose gradients are averaged. The
      loss and BatchNorm see one micro-batch at a time, so contrastive
      methods have fewer negatives than at `accumulate=1`.

  Returns:
    The next state, and scalar float32 metrics. Where the loss or a gradient
    is not finite the returned state is the old one, untouched, and
    `metrics["finite"]` is 0.
  """
  before = state.target
  if method.target_update == "before":
    before = move_target(state.target, state.params, momentum)

  def loss_of(params, stats, target_stats, views, key):
    shuffle_key, online_key, target_key = jax.random.split(key, 3)
    order = None
    # Over the whole batch, statistics do not depend on who is beside whom.
    if method.shuffle_keys and networks.projector.bn_groups > 1:
      order = jax.random.permutation(shuffle_key, views[0].image.shape[0])
    target, new_target_stats = Branch(), target_stats
    if method.target_views:
      target, new_target_stats = jax.lax.stop_gradient(
        encode(
          networks,
          before,
          target_stats,
          [views[i] for i in method.target_views],
          key=target_key,
          fields=fields,
          permutation=order,
        )
      )
    online, new_stats = encode(
      networks,
      params,
      stats,
      [views[i] for i in method.online_views],
      key=online_key,
      fields=fields,
    )
    loss, metrics = method.loss(online, target, state.memory)
    return loss, (new_stats, new_target_stats, online, target, metrics)

  gradient = jax.value_and_grad(loss_of, has_aux=True)
  if accumulate == 1:
    (loss, auxiliary), grads = gradient(
      state.params, state.batch_stats, state.target_stats, views, key
    )
    stats, target_stats, online, target, metrics = auxiliary
  else:
    loss, grads, stats, target_stats, online, target, metrics = _accumulated(
      gradient, state, views, key, accumulate
    )

  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  after = before
  if method.target_update == "after":
    after = move_target(state.target, params, momentum)
  new = TrainState(
    step=state.step + 1,
    params=params,
    batch_stats=stats,
    target=after,
    target_stats=target_stats,
    memory=method.update_memory(state.memory, online, target),
    opt_state=opt_state,
  )
  norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss + norm + optax.tree.norm(updates))
  new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
  metrics = {
    "loss": loss,
    "gradient_norm": norm,
    "finite": finite.astype(jnp.float32),
    **metrics,
    **monitor.collapse(online.features[0], "feature"),
    **monitor.collapse(online.projections[0], "projection"),
  }
  return new, metrics


def _accumulated(
  gradient: Callable, state: TrainState, views, key: jax.Array, count: int
):
  """Runs `gradient` over micro-batches; averages and re-assembles."""

  def split(x: jax.Array) -> jax.Array:
    # Micro-batch j takes rows j, j + count, ...: each device keeps its rows.
    return jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)

  def join(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

  def body(carry, inputs):
    total, stats, target_stats = carry
    views, key = inputs
    (loss, auxiliary), grads = gradient(
      state.params, stats, target_stats, views, key
    )
    stats, target_stats, online, target, metrics = auxiliary
    total = jax.tree.map(jnp.add, total, grads)
    return (total, stats, target_stats), (loss, online, target, metrics)

  zeros = jax.tree.map(jnp.zeros_like, state.params)
  (total, stats, target_stats), (loss, online, target, metrics) = jax.lax.scan(
    body,
    (zeros, state.batch_stats, state.target_stats),
    (jax.tree.map(split, tuple(views)), jax.random.split(key, count)),
  )
  grads = jax.tree.map(lambda x: x / count, total)
  metrics = jax.tree.map(jnp.mean, metrics)
  online, target = jax.tree.map(join, (online, target))
  return jnp.mean(loss), grads, stats, target_stats, online, target, metrics


def train_step(
  state: TrainState,
  batch: Mapping[str, jax.Array],
  *,
  key: jax.Array,
  policies: Sequence[augment.ViewPolicy],
  networks: Networks,
  method: Method,
  optimizer: optax.GradientTransformation,
  momentum: Callable[[jax.Array], jax.Array] = lambda step: 1.0,
  fields: Sequence[str] = augment.omega.DEFAULT,
  accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
  """Makes the views of a batch on the device and takes one step on them.

  Args:
    state: the state to start from; donate it.
    batch: {"image": [B, S, S, 3] uint8 canvases, "size": [B, 2] int32 true
      heights and widths}.
    key: root key of the run; this step uses fold_in(key, state.step).
    policies: one augmentation policy a view; from `augment.build`.
    networks: from `models.build`.
    method: from `methods.build`.
    optimizer: an optax transformation over `state.params`.
    momentum: step -> momentum of the target.
    fields: the fields of omega that the projector is told.
    accumulate: number of micro-batches; see `update`.

  Returns:
    The next state and scalar float32 metrics; see `update`.
  """
  view_key, update_key = jax.random.split(jax.random.fold_in(key, state.step))
  views = augment.views(view_key, batch["image"], batch["size"], policies)
  return update(
    state,
    views,
    key=update_key,
    networks=networks,
    method=method,
    optimizer=optimizer,
    momentum=momentum(state.step),
    fields=fields,
    accumulate=accumulate,
  )
