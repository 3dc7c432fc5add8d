"""LooC: one embedding space for each augmentation that is left out.

Xiao et al. 2021, arXiv 2008.05659, section 3. With n groups of operations
there are n + 1 projectors side by side on one backbone, and n + 2 views: the
query q, the key k_0 drawn afresh, and for each group i the key k_i, which
shares that group's parameters with q and has the rest drawn afresh. Space 0 is
to ignore every group; in space i, q is near k_i and far from the same image's
other keys, so that space keeps what group i changed.

Deviation: the paper's texture group (stylised copies) is not there; any
operation of `augment` can be a group instead.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from cassle_jax import augment
from cassle_jax.augment import View, ViewPolicy
from cassle_jax.awareness.interface import Awareness
from cassle_jax.errors import UserError, unknown
from cassle_jax.methods import contrast
from cassle_jax.methods.interface import (
  Branch,
  Memory,
  Method,
  Metrics,
  Widths,
)


def check_groups(
  groups: tuple[str, ...], policies: tuple[ViewPolicy, ...]
) -> None:
  """Refuses groups that the augmentation never changes.

  Args:
    groups: of `augment.operations.groups`.
    policies: of the query and of the keys.

  Raises:
    UserError: there are not two policies, or a group has no operation that is
      on in both.
  """
  if len(policies) != 2:
    raise UserError(
      "looc takes two policies, the query's and the keys', but the"
      f" augmentation makes {len(policies)} views; set"
      " --config.augment.local_views=0."
    )
  for group in groups:
    records = augment.operations.groups()[group]
    if not any(
      all(record.varies(policy[record.name]) for policy in policies)
      for record in records
    ):
      raise UserError(
        f"looc's group {group!r} is off in the augmentation, so no space can"
        f" keep it; set --config.augment.{records[0].example} or take it"
        " out of --config.awareness.groups."
      )


def sharing_policy(
  query: ViewPolicy, key: ViewPolicy, operations: tuple[str, ...]
) -> ViewPolicy:
  """The keys' policy with the query's settings of the shared operations.

  `apply` leaves out what its policy has switched off, and `describe` scales by
  its policy's intervals: both must know what the query was drawn from.
  """
  return key.with_settings(query[name] for name in operations)


def views(
  key: jax.Array,
  images: jax.Array,
  sizes: jax.Array,
  policies: tuple[ViewPolicy, ...],
  *,
  groups: tuple[str, ...],
  form: str = "auto",
  stored: jax.Array | None = None,
) -> tuple[View, ...]:
  """Makes q, k_0 and one k_i for each group.

  Args:
    key: PRNG key of this step; view v draws from fold_in(key, v), so q and k_0
      are the two views of `augment.views`.
    images: [B, S, T, 3] canvases, uint8 or floats in [0, 1].
    sizes: [B, 2] int32, true (height, width) of each picture.
    policies: of the query and of the keys.
    groups: of `augment.operations.groups`.
    form: of `augment.views`.
    stored: [B, 2] int32 or None, see `augment.apply`.

  Returns:
    len(groups) + 2 views.
  """
  query_policy, key_policy = policies
  drawn = augment.sample(jax.random.fold_in(key, 0), query_policy, sizes)
  made = [
    augment.make(drawn, images, sizes, query_policy, form=form, stored=stored)
  ]
  known = augment.operations.groups()
  shared = [(), *([r.name for r in known[group]] for group in groups)]
  for position, operations in enumerate(shared, start=1):
    policy = sharing_policy(query_policy, key_policy, operations)
    fresh = augment.sample(jax.random.fold_in(key, position), policy, sizes)
    parameters = augment.share(fresh, drawn, operations)
    made.append(
      augment.make(parameters, images, sizes, policy, form=form, stored=stored)
    )
  return tuple(made)


def loss(
  key: jax.Array,
  online: Branch,
  target: Branch,
  memory: Memory,
  *,
  temperature: float,
  groups: tuple[str, ...],
) -> tuple[jax.Array, Metrics]:
  """The mean over spaces of InfoNCE.

  In space i the positive is k_i and the negatives are that space's queue;
  in every space but 0 also the same image's k_j, j != i, even where k_j drew
  the same parameters by chance.

  Args:
    online: projections ([B, n + 1, k],), of q.
    target: projections of k_0, ..., k_n, each [B, n + 1, k].
    memory: {"queue": [n + 1, K, k] unit-length keys, ...}.
    temperature: positive divisor of the cosine similarities.
    groups: the n groups, which name the metrics.

  Returns:
    Scalar float32; the share of rows whose positive wins, over all spaces as
    "contrast_accuracy" and of each as "looc_all" and "looc_GROUP".
  """
  del key
  queries = contrast.normalize(online.projections[0])
  keys = contrast.normalize(jnp.stack(target.projections, axis=1))
  losses, metrics = [], {}
  for space, name in enumerate(("all", *groups)):
    query = queries[:, space]
    own = jnp.einsum(
      "bk,bvk->bv",
      query,
      keys[:, :, space],
      precision=jax.lax.Precision.HIGHEST,
    )
    label = space
    if space == 0:
      # Here all keys should be near the query: none of them is a negative.
      own = own[:, :1]
    cosines = jnp.concatenate(
      [own, contrast.similarity(query, memory["queue"][space])], axis=1
    )
    labels = jnp.full(len(cosines), label, jnp.int32)
    value, accuracy = contrast.softmax_loss(cosines, labels, temperature)
    losses.append(value)
    metrics[f"looc_{name}"] = accuracy
  metrics["contrast_accuracy"] = jnp.mean(jnp.stack([*metrics.values()]))
  return jnp.mean(jnp.stack(losses)), metrics


def init_memory(
  key: jax.Array, widths: Widths, *, method: Method, spaces: int
) -> Memory:
  """One queue for each space: [spaces, K, k], and the pointer they share."""
  keys = jax.random.split(key, spaces)
  memory = jax.vmap(lambda key: method.init_memory(key, widths))(keys)
  return memory | {"pointer": memory["pointer"][0]}


def update_memory(
  memory: Memory, online: Branch, target: Branch, *, method: Method
) -> Memory:
  """Enqueues k_i as space i sees it, by the method's own rule, for every i."""
  keys = [key[:, space] for space, key in enumerate(target.projections)]
  queries = jnp.moveaxis(online.projections[0], 1, 0)
  return method.update_memory(
    memory,
    Branch(projections=(queries,)),
    Branch(projections=(jnp.stack(keys),)),
  )


def refuses(method: Method) -> str | None:
  """Why LooC does not go with a method; None where it does."""
  if method.contrastive is not None and method.contrastive.negatives:
    return None
  return (
    "LooC contrasts against one queue of negatives for each of its spaces, and"
    " this method has none"
  )


def adapt(method: Method, *, groups: tuple[str, ...]) -> Method:
  """MoCo-v2 with one projector and one queue for each space.

  Temperature, queue_size (the paper: 16384 for each space), queue_source,
  momentum and its schedule remain the method's.

  Raises:
    UserError: the method has no queue.
  """
  why = refuses(method)
  if why is not None:
    raise UserError(f"looc does not go with {method.name}: {why}.")
  spaces = len(groups) + 1
  return method._replace(
    loss=functools.partial(
      loss, temperature=method.contrastive.temperature, groups=groups
    ),
    online_views=(0,),
    target_views=tuple(range(1, spaces + 1)),
    spaces=spaces,
    init_memory=functools.partial(init_memory, method=method, spaces=spaces),
    update_memory=functools.partial(update_memory, method=method),
    contrastive=None,
  )


def plus_plus(
  projector: Any,
  variables: dict[str, Any],
  features: jax.Array,
  omega: jax.Array,
) -> jax.Array:
  """LooC++: what every space's projector makes of the features, side by side.

  Args:
    projector: a `models.ConditionedProjector` with a hidden layer.
    variables: its variables, with a leading axis of spaces.
    features: [B, d] of the backbone.
    omega: [B, k] packed; an unconditioned projector does not look at it.

  Returns:
    [B, spaces * h] float32: each projector's first hidden layer in evaluation
    mode, after its activation; space 0 comes first.

  Raises:
    UserError: the projector has no hidden layer.
  """

  def hidden(variables):
    _, sown = projector.apply(
      variables, features, omega, train=False, mutable=["intermediates"]
    )
    layers = sown.get("intermediates", {}).get("mlp", {})
    return layers["hidden"][0] if "hidden" in layers else None

  found = jax.vmap(hidden)(variables)
  if found is None:
    raise UserError(
      "LooC++ reads the projectors' hidden layers, and these have none; train"
      " with e.g. --config.model.projector=0,128."
    )
  found = jnp.moveaxis(found.astype(jnp.float32), 0, 1)
  return found.reshape(len(features), -1)


def build(*, groups: tuple[str, ...] = ("color", "rotation")) -> Awareness:
  """LooC.

  Args:
    groups: of operations, one space for each; which there are is said by the
      operations (`augment.operations.groups`).

  Raises:
    UserError: there is no group, or one is unknown or named twice.
  """
  groups = tuple(groups)
  if not groups:
    raise UserError(
      "looc needs a group of operations for each space beside the first; set"
      " e.g. --config.awareness.groups=color,rotation."
    )
  for group in groups:
    known = augment.operations.groups()
    if group not in known:
      raise unknown("group in awareness.groups", group, known)
  if len(set(groups)) != len(groups):
    raise UserError(
      f"awareness.groups={','.join(groups)} names one group twice; name each"
      " once."
    )
  return Awareness(
    name="looc",
    adapt=functools.partial(adapt, groups=groups),
    views=functools.partial(views, groups=groups),
    check=functools.partial(check_groups, groups),
  )
