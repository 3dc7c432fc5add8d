"""Views through the networks of one encoder, in training mode.

Heads may have copies on a leading axis: a method with several embedding spaces
(LooC) sends every view through all of them, an awareness with descriptors (AI)
through the one that `take` picks for the step.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cassle_jax import augment
from cassle_jax.methods.interface import Branch, Method
from cassle_jax.models import HEAD_NAMES, NETWORK_NAMES, Networks

Params = dict[str, Any]


def take(tree: Params, index: jax.Array | None) -> Params:
  """The heads of one descriptor out of all copies.

  Args:
    tree: {network: variables}; the leaves of HEAD_NAMES have a leading axis.
    index: int32 scalar, or None where there are no copies.
  """
  if index is None:
    return tree
  return {
    name: jax.tree.map(lambda x: x[index], part) if name in HEAD_NAMES else part
    for name, part in tree.items()
  }


def put(tree: Params, part: Params, index: jax.Array | None) -> Params:
  """All copies, with the heads of one descriptor replaced; see `take`."""
  if index is None:
    return part
  return {
    name: jax.tree.map(lambda x, y: x.at[index].set(y), tree[name], new)
    if name in HEAD_NAMES
    else new
    for name, new in part.items()
  }


def keep_undrawn(new: Any, old: Any, index: jax.Array) -> Any:
  """Keeps the heads that a step did not draw as they were.

  Without this a decay, a momentum or an adaptive optimiser would move them on
  gradients of zero.

  Args:
    new: parameters by network, or any tree that holds such trees, say the
      state of an optax transformation.
    old: the same before the step.
    index: of the descriptor that was drawn.
  """

  def keep(path, x, y):
    # The first is the network's; a layer of it may have any name.
    names = [
      n for key in path if (n := getattr(key, "key", 0)) in NETWORK_NAMES
    ]
    head = names and names[0] in HEAD_NAMES
    return y.at[index].set(x[index]) if head else x

  return jax.tree_util.tree_map_with_path(keep, new, old)


def passes(views: Sequence[augment.View], joint: bool) -> list[tuple[int, ...]]:
  """Indices of the views that go through the networks together."""
  if not joint:
    return [(index,) for index in range(len(views))]
  shapes = [view.image.shape for view in views]
  return [
    tuple(i for i, other in enumerate(shapes) if other == shape)
    for shape in dict.fromkeys(shapes)
  ]


def encode(
  networks: Networks,
  params: Params,
  batch_stats: Params,
  views: Sequence[augment.View],
  *,
  method: Method,
  key: jax.Array,
  fields: Sequence[str],
  groups: int = 1,
  rows: jax.sharding.Sharding | None = None,
  descriptor: jax.Array | None = None,
) -> tuple[Branch, Params]:
  """Runs backbone, projector, predictor and prototypes on each view.

  Args:
    networks: from `models.build`.
    params: parameters by network; without "predictor" there are no
      predictions, which is how the target runs.
    batch_stats: running statistics by network.
    views: the views; each is normalised by its own batch statistics, unless
      `method.joint_views`.
    method: says how views and spaces go through the heads.
    key: for conditioning that is random.
    fields: the fields of omega that the projector is told.
    groups: the networks see the batch dealt out to so many groups, see `deal`,
      and the outputs are put back; 1 = in its own order.
    rows: see `deal`.
    descriptor: [k] float32 that the backbone is told, or None.

  Returns:
    The outputs in the batch's own order, and the new running statistics.
  """
  stats = dict(batch_stats)
  told = {} if descriptor is None else {"descriptor": descriptor}

  def run(name: str, *inputs: jax.Array, rngs=None, **options: Any) -> Any:
    apply = functools.partial(
      getattr(networks, name).apply,
      mutable=["batch_stats"],
      rngs=rngs,
      **options,
    )
    variables = {"params": params[name], "batch_stats": stats[name]}
    if name == "projector" and method.spaces:
      output, mutated = jax.vmap(
        lambda variables: apply(variables, *inputs), out_axes=(1, 0)
      )(variables)
    else:
      output, mutated = apply(variables, *inputs)
    stats[name] = mutated.get("batch_stats", stats[name])
    return output

  outputs = {
    name: [None] * len(views)
    for name in ("backbone", *HEAD_NAMES)
    if name in params
  }
  for indices in passes(views, method.joint_views):
    image, packed = _together(
      [
        (views[i].image, augment.omega.pack(views[i].omega, fields))
        for i in indices
      ],
      functools.partial(deal, groups=groups, rows=rows),
    )
    features = run("backbone", image, train=True, **told)[0]
    rngs = {"conditioning": jax.random.fold_in(key, indices[0])}
    z = run("projector", features, packed, train=True, rngs=rngs)
    made = {"backbone": features, "projector": z}
    if "predictor" in params:
      made["predictor"] = run("predictor", z, train=True)
    if "prototypes" in params:
      made["prototypes"] = run("prototypes", z)
    for name, x in made.items():
      for i, part in zip(indices, _apart(x, len(indices)), strict=True):
        outputs[name][i] = collect(part, groups, rows)
  found = {name: tuple(rows) for name, rows in outputs.items()}
  return Branch(
    features=found["backbone"],
    projections=found["projector"],
    predictions=found.get("predictor", ()),
    scores=found.get("prototypes", ()),
  ), stats


def deal(
  x: jax.Array, groups: int, rows: jax.sharding.Sharding | None = None
) -> jax.Array:
  """Deals the rows of a batch out as cards: row b goes to group b mod groups.

  A group is a part of the result in one piece, as BatchNorm takes it. Rows that
  were in one group before are spread over all of them evenly, which a random
  order does on average alone. And devices exchange their own rows, once: to
  take rows in a random order all of the batch goes to every device.

  Args:
    x: [B, ...], the same order on all devices.
    groups: a divisor of B; 1 leaves x as it is.
    rows: how x lies on the devices, where there are several.

  Returns:
    [B, ...].
  """
  if groups == 1:
    return x
  dealt = _lying(x, rows).reshape(-1, groups, *x.shape[1:])
  return _lying(dealt.swapaxes(0, 1).reshape(x.shape), rows)


def collect(
  x: jax.Array, groups: int, rows: jax.sharding.Sharding | None = None
) -> jax.Array:
  """The inverse of `deal`."""
  if groups == 1:
    return x
  dealt = _lying(x, rows).reshape(groups, -1, *x.shape[1:])
  return _lying(dealt.swapaxes(0, 1).reshape(x.shape), rows)


def _lying(x: jax.Array, rows: jax.sharding.Sharding | None) -> jax.Array:
  # Before and after the exchange: else the compiler gathers the batch for it,
  # or makes the views of some devices on several.
  return x if rows is None else jax.lax.with_sharding_constraint(x, rows)


def _together(inputs: Sequence[Any], order: Callable) -> Any:
  """One batch of several: [B, ...] each to [B * V, ...], images first.

  Row b of every view stays on the device that has it, once `order` has put it
  there.
  """
  inputs = jax.tree.map(order, inputs)
  if len(inputs) == 1:
    return inputs[0]
  return jax.tree.map(
    lambda *xs: jnp.stack(xs, axis=1).reshape(-1, *xs[0].shape[1:]), *inputs
  )


def _apart(x: jax.Array, count: int) -> list[jax.Array]:
  """The inverse of `_together`: one [B, ...] for each view."""
  if count == 1:
    return [x]
  x = x.reshape(-1, count, *x.shape[1:])
  return [x[:, view] for view in range(count)]
