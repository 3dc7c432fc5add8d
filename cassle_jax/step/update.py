"""One training step as a pure function: TrainState -> TrainState, metrics.

The whole step is one XLA program: augmentation, both encoders, the loss, its
gradient, the optimiser and the target's moving average. Bind the keyword
arguments with functools.partial, then jit once and donate the state:

    step = functools.partial(train_step, key=key, policies=policies, ...)
    step = jax.jit(step, donate_argnums=0)
    state, metrics = step(state, batch)

Everything random comes from fold_in(key, state.step), so a resumed run sees
the numbers that an uninterrupted one would have seen. A step that is not finite
changes nothing but its number.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cassle_jax import augment
from cassle_jax.awareness.interface import VANILLA, Awareness
from cassle_jax.methods.interface import Branch, Method, Metrics
from cassle_jax.models import Networks
from cassle_jax.step import monitor
from cassle_jax.step.encode import encode, keep_undrawn, put, take
from cassle_jax.step.state import TrainState, move_target


def update(
  state: TrainState,
  views: Sequence[augment.View],
  *,
  key: jax.Array,
  networks: Networks,
  method: Method,
  optimizer: optax.GradientTransformation,
  awareness: Awareness = VANILLA,
  index: jax.Array | None = None,
  momentum: jax.Array | float = 1.0,
  fields: Sequence[str] = augment.omega.DEFAULT,
  accumulate: int = 1,
  rows: jax.sharding.Sharding | None = None,
) -> tuple[TrainState, Metrics]:
  """The step from views that are already made: loss, gradient, updates.

  Args:
    state: the state to start from.
    views: the views of the global batch, each with its omega.
    key: of this step.
    networks: from `models.build`.
    method: from `methods.build`.
    optimizer: an optax transformation over `state.params`.
    awareness: from `awareness.build`.
    index: int32 scalar, which of `awareness.descriptors` the views were made
      for; None without descriptors.
    momentum: of the target at this step, in [0, 1].
    fields: the fields of omega that the projector is told.
    accumulate: number of micro-batches whose gradients are averaged. The
      loss and BatchNorm see one micro-batch at a time, so contrastive
      methods have fewer negatives than at `accumulate=1`.
    rows: how a batch lies on the devices, where there are several; it saves
      traffic where keys are shuffled, see `encode.deal`.

  Returns:
    The next state, and scalar float32 metrics. Where the loss, the gradient
    or any number of the next state is not finite, the returned state is the
    old one but for its step, and `metrics["finite"]` is 0.
  """
  before = state.target
  if method.target_update == "before":
    before = move_target(state.target, state.params, momentum)
  descriptor, memory = None, state.memory
  if index is not None:
    descriptor = jnp.asarray(awareness.descriptors, jnp.float32)[index]
    memory = jax.tree.map(lambda x: x[index], memory)
  online_views = method.online_views or tuple(range(len(views)))

  def loss_of(params, stats, target_stats, views, key):
    loss_key, online_key, target_key = jax.random.split(key, 3)
    # Over the whole batch, statistics do not depend on who is beside whom.
    groups = networks.projector.bn_groups if method.shuffle_keys else 1
    branch = functools.partial(
      encode, networks, method=method, fields=fields, descriptor=descriptor
    )
    target, new_target_stats = Branch(), target_stats
    if method.target_views:
      target, part = jax.lax.stop_gradient(
        branch(
          take(before, index),
          take(target_stats, index),
          [views[i] for i in method.target_views],
          key=target_key,
          groups=groups,
          rows=rows,
        )
      )
      new_target_stats = put(target_stats, part, index)
    online, part = branch(
      take(params, index),
      take(stats, index),
      [views[i] for i in online_views],
      key=online_key,
    )
    loss, metrics = method.loss(loss_key, online, target, memory)
    if networks.pair_heads is not None:
      first, second = (online_views + method.target_views)[:2]
      predictions, mutated = networks.pair_heads.apply(
        {"params": params["pair_heads"], "batch_stats": part["pair_heads"]},
        *(online.features + target.features)[:2],
        train=True,
        mutable=["batch_stats"],
      )
      part["pair_heads"] = mutated.get("batch_stats", {})
      pair_loss, pair_metrics = awareness.pair_loss(
        predictions, views[first].omega, views[second].omega
      )
      loss, metrics = loss + pair_loss, {**metrics, **pair_metrics}
    new_stats = put(stats, part, index)
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
  params = method.constrain(optax.apply_updates(state.params, updates))
  if index is not None:
    # Those of `optim.build` count for each copy by itself.
    keep = getattr(optimizer, "keep", keep_undrawn)
    params = keep_undrawn(params, state.params, index)
    opt_state = keep(opt_state, state.opt_state, index)
  after = before
  if method.target_update == "after":
    after = move_target(state.target, params, momentum)
  memory = method.update_memory(memory, online, target)
  if index is not None:
    memory = jax.tree.map(lambda x, y: x.at[index].set(y), state.memory, memory)
  new = TrainState(
    step=state.step + 1,
    params=params,
    batch_stats=stats,
    target=after,
    target_stats=target_stats,
    memory=memory,
    opt_state=opt_state,
  )
  norm = optax.tree.norm(grads)
  projections = online.projections[0]
  if method.spaces:
    projections = projections[:, 0]
  finite = jnp.isfinite(loss + norm) & all_finite(new)
  kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
  # Data and keys are functions of the step: a repeated one would fail again.
  new = kept.replace(step=new.step)
  metrics = {
    "loss": loss,
    "gradient_norm": norm,
    "finite": finite.astype(jnp.float32),
    **metrics,
    **monitor.collapse(online.features[0], "feature"),
    **monitor.collapse(projections, "projection"),
  }
  return new, metrics


def all_finite(tree: Any) -> jax.Array:
  """Whether every floating-point number of a tree is finite: a bool scalar.

  A loss can be finite where a queue's new keys, a running variance or a moment
  of the optimiser is not, and each of them would spoil the steps that follow.

  Of sums, one a leaf: a sum is finite only where every number is, and it
  compiles in a tenth of the time that a test of each number adds to a ResNet's
  step. A leaf whose sum is above 3e38 counts as not finite.
  """
  sums = [
    jnp.sum(x.astype(jnp.float32))
    for x in jax.tree.leaves(tree)
    if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  return jnp.all(jnp.isfinite(jnp.stack(sums))) if sums else jnp.bool_(True)


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
  awareness: Awareness = VANILLA,
  momentum: Callable[[jax.Array], jax.Array] = lambda step: 1.0,
  fields: Sequence[str] = augment.omega.DEFAULT,
  accumulate: int = 1,
  rows: jax.sharding.Sharding | None = None,
) -> tuple[TrainState, Metrics]:
  """Makes the views of a batch on the device and takes one step on them.

  Args:
    state: the state to start from; donate it.
    batch: {"image": [B, S, S, 3] uint8 canvases, "size": [B, 2] int32 true
      heights and widths, "stored": [B, 2] int32 those on the canvas (may be
      absent: pictures fill their canvases)}.
    key: root key of the run; this step uses fold_in(key, state.step).
    policies: one augmentation policy a view; from `augment.build`.
    networks: from `models.build`.
    method: from `methods.build`.
    optimizer: an optax transformation over `state.params`.
    awareness: from `awareness.build`.
    momentum: step -> momentum of the target.
    fields: the fields of omega that the projector is told.
    accumulate: number of micro-batches; see `update`.
    rows: see `update`.

  Returns:
    The next state and scalar float32 metrics; see `update`.
  """
  view_key, update_key = jax.random.split(jax.random.fold_in(key, state.step))
  index, chosen = None, {"stored": batch.get("stored")}
  if awareness.descriptors:
    index = awareness.choose(view_key)
    chosen["index"] = index
  views = awareness.views(
    view_key, batch["image"], batch["size"], policies, **chosen
  )
  return update(
    state,
    views,
    key=update_key,
    networks=networks,
    method=method,
    optimizer=optimizer,
    awareness=awareness,
    index=index,
    momentum=momentum(state.step),
    fields=fields,
    accumulate=accumulate,
    rows=rows,
  )
