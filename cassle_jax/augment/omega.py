"""Omega: the description of one augmented view, as named fields.

An omega is a dict `{field: [..., size] float32}`; every field has a value that
means "this operation was not applied". Packed, the chosen fields are laid side
by side in alphabetical order; that vector is what a conditioned projector is
fed (CASSLE, arXiv 2306.06082).

field (size)    meaning; range; neutral value
blur (1)        sigma of the Gaussian in pixels of the view; [0.1, 2]; 0
color (4)       (factor - 1) / (hi - lo) of brightness, contrast, saturation and
                hue / (hi - lo), where [lo, hi] is the interval that operation
                draws from; [-0.5, 0.5]; 0
color_diff (3)  mean of each channel before the jitter minus after; (-1, 1); 0
crop (4)        y centre, x centre, height, width relative to the whole image,
                the x centre mirrored if the view was flipped; (0, 1];
                0.5, 0.5, 1, 1
flip (1)        1 if mirrored; {0, 1}; 0
grayscale (1)   1 if converted to grey; {0, 1}; 0
rotation (4)    one-hot of the quarter turns; {0, 1}; 1, 0, 0, 0
solarize (1)    threshold of the solarisation; [0, 1]; 1
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from cassle_jax import errors

Omega = dict[str, jax.Array]

_NEUTRAL: dict[str, tuple[float, ...]] = {
  "blur": (0.0,),
  "color": (0.0, 0.0, 0.0, 0.0),
  "color_diff": (0.0, 0.0, 0.0),
  "crop": (0.5, 0.5, 1.0, 1.0),
  "flip": (0.0,),
  "grayscale": (0.0,),
  "rotation": (1.0, 0.0, 0.0, 0.0),
  "solarize": (1.0,),
}

FIELDS: dict[str, int] = {name: len(v) for name, v in _NEUTRAL.items()}
DEFAULT = ("blur", "color", "color_diff", "crop", "flip", "grayscale")


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
  names = tuple(fields)
  for name in names:
    if name not in FIELDS:
      raise errors.unknown("omega field", name, FIELDS)
  if len(set(names)) != len(names):
    raise errors.UserError(f"omega fields {names} name one field twice.")
  return tuple(sorted(names))


def size(fields: Iterable[str] = DEFAULT) -> int:
  """Returns how many numbers the packed fields take, e.g. 14 for `DEFAULT`."""
  return sum(FIELDS[name] for name in ordered(fields))


def neutral(
  batch_shape: tuple[int, ...] = (), fields: Iterable[str] = DEFAULT
) -> Omega:
  """Returns the omega of a view that no operation touched.

  Args:
    batch_shape: leading dimensions of every field.
    fields: the fields to return.

  Returns:
    A dict `{field: [*batch_shape, size] float32}`.
  """
  return {
    name: jnp.broadcast_to(
      jnp.asarray(_NEUTRAL[name], jnp.float32).reshape(
        (1,) * len(batch_shape) + (FIELDS[name],)
      ),
      (*batch_shape, FIELDS[name]),
    )
    for name in ordered(fields)
  }


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

  Continuous fields give a - b; `flip` gives 1 where both views agree (the
  label that AugSelf's flip head predicts) and `rotation` the one-hot of the
  difference in quarter turns, modulo 4.

  Args:
    a: omega of the first view, `{field: [..., size]}`.
    b: omega of the second view, with the same fields.
    crop_difference: "fixed" compares the centres as each view shows them, each
      mirrored by its own flip. "published" mirrors both by the flip of `a`, as
      the published code does; it needs the field `flip`.

  Returns:
    A dict `{field: [..., size] float32}` over the fields of `a`.

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
  out = {}
  for name in ordered(a):
    x = jnp.asarray(a[name], jnp.float32)
    y = jnp.asarray(b[name], jnp.float32)
    if name == "flip":
      out[name] = (x == y).astype(jnp.float32)
    elif name == "rotation":
      turns = (jnp.argmax(x, -1) - jnp.argmax(y, -1)) % 4
      out[name] = jax.nn.one_hot(turns, 4, dtype=jnp.float32)
    else:
      if name == "crop" and crop_difference == "published":
        y = _mirrored_like_first(a, b, y)
      out[name] = x - y
  return out


def _mirrored_like_first(a, b, crop):
  """Mirrors the x centre of b's crop by a's flip instead of its own."""
  if "flip" not in a:
    raise errors.UserError(
      'crop_difference="published" needs the omega field "flip" as well.'
    )
  differ = a["flip"] != b["flip"]
  x_center = jnp.where(differ, 1.0 - crop[..., 1:2], crop[..., 1:2])
  return jnp.concatenate([crop[..., :1], x_center, crop[..., 2:]], axis=-1)
