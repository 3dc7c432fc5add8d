"""AI, amortised invariances: one backbone, told what it is to be invariant to.

Chavhan et al. 2023, arXiv 2302.12712. Every step draws one descriptor out of a
list; it goes into the backbone and chooses the augmentations, the head and the
memory of that step. The heads of the others rest: they neither decay nor move
on their momentum; their targets go on drawing near to them. Downstream the
descriptor is learned with a linear head: `evaluation.descriptor`.

descriptor      augmentations
(0, 1) dorsal   what changes appearance, of the whole picture: jitter, grayscale
                and blur always, the others (solarize, ...) as in the run
(1, 0) ventral  what changes position, as in the run: crop, flip, ...
(1, 1) default  all of the run's

An operation that is off in the run stays off; each says by itself which of them
it belongs to (`augment.Operation`). Rotation is in the default only.
Deviations: dorsal squeezes the whole picture into the view, where the published
code cuts out a central square; there is no dropout of 0.2 before the head.
"""

import functools

import jax
import jax.numpy as jnp

from cassle_jax import augment
from cassle_jax.augment import View, ViewPolicy
from cassle_jax.awareness.interface import Awareness
from cassle_jax.errors import UserError, unknown

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


def _belongs(record: augment.Operation, kind: str) -> bool:
  """Whether the set of a kind of descriptor has an operation."""
  if kind == "default":
    return True
  kept = {"dorsal": "appearance", "ventral": "position"}[kind]
  return record.changes == kept and record.amortised != "never"


def descriptor_policy(policy: ViewPolicy, descriptor: Descriptor) -> ViewPolicy:
  """Returns what may happen to a view under a key of `DESCRIPTORS`."""
  kind = DESCRIPTORS[tuple(descriptor)]
  if kind == "default":
    return policy
  changed = []
  for settings in policy.settings:
    record = augment.OPERATIONS[settings.operation]
    if not _belongs(record, kind):
      changed.append(settings.switched(False))
    elif record.amortised == "always":
      changed.append(settings.switched(settings.on))
  return policy.with_settings(changed)


def views(
  key: jax.Array,
  images: jax.Array,
  sizes: jax.Array,
  policies: tuple[ViewPolicy, ...],
  *,
  index: jax.Array,
  descriptors: tuple[Descriptor, ...],
  form: str = "auto",
  stored: jax.Array | None = None,
) -> tuple[View, ...]:
  """Makes the views of one descriptor, by a program that suits all of them.

  Args:
    key: PRNG key of this step; view v uses fold_in(key, v).
    images: [B, S, T, 3] canvases, uint8 or floats in [0, 1].
    sizes: [B, 2] int32, true (height, width) of each picture.
    policies: the run's, one for each view.
    index: int32 scalar, may be traced: which descriptor.
    descriptors: keys of `DESCRIPTORS`.
    form: of `augment.views`.
    stored: [B, 2] int32 or None, see `augment.apply`.

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
    made.append(
      augment.make(parameters, images, sizes, policy, form=form, stored=stored)
    )
  return tuple(made)


def check(
  policies: tuple[ViewPolicy, ...], *, descriptors: tuple[Descriptor, ...]
) -> None:
  """Raises UserError for policies that do not fit.

  That is where a descriptor leaves both views the same, or where there are
  crops of two sizes: a set of operations is one for all views, and of the whole
  picture no crop would be local.
  """
  sizes = {"x".join(map(str, policy.image_size)) for policy in policies}
  if len(sizes) > 1:
    raise UserError(
      "ai draws one set of operations for views of one size, but the"
      f" augmentation makes {' and '.join(sorted(sizes))} pixels; set"
      " --config.augment.local_views=0."
    )
  for descriptor in descriptors:
    chosen = [descriptor_policy(policy, descriptor) for policy in policies]
    records = augment.OPERATIONS.values()
    if not any(_tells_apart(record, chosen) for record in records):
      kind = DESCRIPTORS[descriptor]
      first = next(record for record in records if _belongs(record, kind))
      raise UserError(
        f"ai's descriptor {descriptor} ({kind}) finds all of its operations off"
        f" in the augmentation; set --config.augment.{first.example} or take it"
        " out of --config.awareness.descriptors."
      )


def _tells_apart(record: augment.Operation, policies: list[ViewPolicy]) -> bool:
  """Whether views can differ by an operation.

  Always grey, two views of the whole picture are one: what can only happen or
  not has to do both.
  """
  settings = [policy[record.name] for policy in policies]
  binary = all(field.kind == "binary" for field in record.fields)
  always = all(one.switch == 1 for one in settings)
  return any(map(record.varies, settings)) and not (binary and always)


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
