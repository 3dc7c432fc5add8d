"""Omega: the description of one augmented view, as named fields.

An omega is a dict `{field: [..., size] float32}`; every field has a value that
means "this operation was not applied". Packed, the chosen fields are laid side
by side in alphabetical order; that vector is what a conditioned projector is
fed (CASSLE, arXiv 2306.06082).

Which fields there are, their sizes, neutral values, ranges and meanings, is
said by the operations (`augment.operations`); `FIELDS` has the sizes of all.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.augment.operations import fields as fields_of_operations
from cassle_jax.augment.operations.crop import mirrored

Omega = dict[str, jax.Array]

DEFAULT = ("blur", "color", "color_diff", "crop", "flip", "grayscale")


def __getattr__(name: str) -> dict[str, int]:
  """`FIELDS`: {field: size}, as the operations are at this moment."""
  if name != "FIELDS":
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return _sizes()


def _sizes() -> dict[str, int]:
  """Returns {field: size} of all fields, in alphabetical order."""
  return {name: one.size for name, one in fields_of_operations().items()}


def ordered(fields: Iterable[str]) -> tuple[str, ...]:
  """Returns the fields in packing order, refusing unknown and repeated ones.

  Args:
    fields: names out of `FIELDS`, in any order.

  Raises:
    UserError: a name is unknown or given twice, or `fields` is one string.
  """
  if isinstance(fields, str):
    raise errors.UserError(
      f"omega fields must be a tuple of names, got the string {fields!r};"
      f" write ({fields!r},)."
    )
  names, known = tuple(fields), _sizes()
  for name in names:
    if name not in known:
      raise errors.unknown("omega field", name, known)
  if len(set(names)) != len(names):
    raise errors.UserError(f"omega fields {names} name one field twice.")
  return tuple(sorted(names))


def size(fields: Iterable[str] = DEFAULT) -> int:
  """Returns how many numbers the packed fields take, e.g. 14 for `DEFAULT`."""
  known = _sizes()
  return sum(known[name] for name in ordered(fields))


def neutral(
  batch_shape: tuple[int, ...] = (), fields: Iterable[str] = DEFAULT
) -> Omega:
  """Returns the omega of a view that no operation touched.

  Args:
    batch_shape: leading dimensions of every field.
    fields: the fields to return.

  Returns:
    The fields, each `[*batch_shape, size]` float32.
  """
  known = fields_of_operations()

  def one(values: tuple[float, ...]) -> jax.Array:
    shape = (1,) * len(batch_shape) + (len(values),)
    row = jnp.asarray(values, jnp.float32).reshape(shape)
    return jnp.broadcast_to(row, (*batch_shape, len(values)))

  return {name: one(known[name].neutral) for name in ordered(fields)}


def pack(
  omega: Mapping[str, jax.Array], fields: Iterable[str] = DEFAULT
) -> jax.Array:
  """Lays the chosen fields side by side, always in alphabetical order.

  Args:
    omega: dict of `[..., size]` arrays that holds at least these fields.
    fields: the fields to pack; their order does not matter.

  Returns:
    `[..., size(fields)]` float32.

  Raises:
    UserError: a field is unknown or `omega` lacks it.
  """
  names = ordered(fields)
  for name in names:
    if name not in omega:
      raise errors.UserError(
        f"this omega has no field {name!r}, only {', '.join(sorted(omega))};"
        " describe the views with that field or do not condition on it."
      )
  return jnp.concatenate(
    [jnp.asarray(omega[name], jnp.float32) for name in names], axis=-1
  )


def difference(
  a: Mapping[str, jax.Array],
  b: Mapping[str, jax.Array],
  *,
  crop_difference: str = "fixed",
) -> Omega:
  """Returns how view `a` was augmented differently from view `b`, per field.

  Each as its `Field.compared` says: a - b; 1 where both views agree, as `flip`
  (the label that AugSelf's flip head predicts); or the one-hot of how far the
  place of `a` is ahead of that of `b`, as `rotation`.

  Args:
    a: omega of the first view, `{field: [..., size]}`.
    b: omega of the second view, with the same fields.
    crop_difference: "fixed" compares the centres as each view shows them, each
      mirrored by its own flip. "published" mirrors both by the flip of `a`, as
      the published code does; it needs the field `flip`.

  Returns:
    The fields of `a`, each `[..., size]` float32.

  Raises:
    UserError: the fields differ, or `crop_difference` is not one of the two.

  Source: Lee et al., Improving Transferability of Representations via
  Augmentation-Aware Self-Supervision (AugSelf), section 3.
  """
  if crop_difference not in ("fixed", "published"):
    raise errors.unknown(
      "crop_difference", crop_difference, ("fixed", "published")
    )
  if set(a) != set(b):
    raise errors.UserError(
      f"the two omegas must have the same fields, got {sorted(a)} and"
      f" {sorted(b)}."
    )
  out, known = {}, fields_of_operations()
  for name in ordered(a):
    x = jnp.asarray(a[name], jnp.float32)
    y = jnp.asarray(b[name], jnp.float32)
    if known[name].compared == "turn":
      size = known[name].size
      places = (jnp.argmax(x, -1) - jnp.argmax(y, -1)) % size
      out[name] = jax.nn.one_hot(places, size, dtype=jnp.float32)
    elif known[name].compared == "agreement":
      out[name] = (x == y).astype(jnp.float32)
    else:
      if name == "crop" and crop_difference == "published":
        if "flip" not in a:
          raise errors.UserError(
            'crop_difference="published" needs the omega field "flip" as well.'
          )
        # By a's flip instead of its own.
        y = mirrored(y, a["flip"] != b["flip"])
      out[name] = x - y
  return out
