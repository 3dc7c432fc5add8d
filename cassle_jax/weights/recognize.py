"""Whose file it is and where its backbone stands, by names alone."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from cassle_jax.errors import UserError, unknown
from cassle_jax.weights import families, foreign_names, reader
from cassle_jax.weights.families import FAMILIES, Family
from cassle_jax.weights.tensor import Tensor, Weights

# What a network of each kind has, behind its prefix: all of one row.
_ANCHORS = {
  "resnet": [("conv1.weight", "layer1.0.conv1.weight")],
  "sequential": [
    ("0.weight", "4.0.conv1.weight"),
    ("0.weight", "2.0.conv1.weight"),
  ],
  "vit": [
    ("norm.weight", "patch_embed.proj.weight"),
    ("norm.weight", "patch_embed.proj.0.weight"),
    ("fc_norm.weight", "patch_embed.proj.weight"),
  ],
  "big_vision": [("embedding.kernel", "embedding.bias")],
}
_DEEP_STEM = ("conv1.0.weight", "layer1.0.conv1.weight")


class Found(NamedTuple):
  """What a file was recognised as.

  Attributes:
    weights: the file.
    names: name without wrapping words -> name in the file.
    layout: a key of FAMILIES.
    kind: of network.
    prefix: of the backbone, without wrapping words.
  """

  weights: Weights
  names: dict[str, str]
  layout: str
  kind: str
  prefix: str

  @property
  def family(self) -> Family:
    """The row of the table."""
    return FAMILIES[self.layout]

  def below(self, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {
      name.removeprefix(prefix): self.weights.tensors[real]
      for name, real in self.names.items()
      if name.startswith(prefix)
    }


def recognize(
  weights: Weights,
  *,
  layout: str | None = None,
  prefix: str | None = None,
  network: str | None = None,
) -> Found:
  """Finds the backbone in a file, and whose layout it has.

  Args:
    weights: from `reader.read`.
    layout: a key of FAMILIES, where names leave it open.
    prefix: of the backbone, where there are several.
    network: "online" or "target" where a file has both; None = the one that
      its authors evaluate.

  Raises:
    UserError: there is no backbone in it, or several, or its names are of
      several layouts; the line names them.
  """
  if layout is not None and layout not in FAMILIES:
    raise unknown("--layout", layout, FAMILIES)
  if network not in (None, "online", "target"):
    raise unknown("--network", network, ("online", "target"))
  names: dict[str, str] = {}
  for real in weights.tensors:
    name = families.unwrapped(real)
    if name in names:
      raise UserError(
        f"{weights.path} has {names[name]} and {real}, which name one thing."
      )
    names[name] = real
  candidates = _candidates(names)
  if prefix is not None:
    wanted = families.unwrapped(prefix.rstrip(".")) + "." if prefix else ""
    candidates = [one for one in candidates if one[0] == wanted]
  if not candidates:
    raise _no_backbone(weights, names, prefix)
  rows = {}
  for one in candidates:
    sincos = foreign_names.has_sincos(weights, names, *one)
    rows[one] = families.matching(names, *one, sincos)
    if layout is not None:
      rows[one] = {k: v for k, v in rows[one].items() if k == layout}
  known = {one: found for one, found in rows.items() if found}
  if not known:
    raise _no_layout(weights, names, candidates, layout)
  chosen = _choose(weights, known, network)
  found = known[chosen]
  if len(found) > 1 and "timm" in found and reader.timm_config(weights.path):
    found = {"timm": found["timm"]}
  if len(found) > 1:
    options = " or ".join(
      f"--layout={name} ({row.title})" for name, row in found.items()
    )
    raise UserError(
      f"{weights.path}: the names at {chosen[0]!r} are of several layouts,"
      f" which differ in what shapes cannot tell; give {options}."
    )
  return Found(weights, names, next(iter(found)), chosen[1], chosen[0])


def _candidates(names: Mapping[str, str]) -> list[tuple[str, str]]:
  """(prefix, kind) of all networks in a file."""
  found = {}
  for name in names:
    for kind, anchors in _ANCHORS.items():
      for first, second in anchors:
        if name == first or name.endswith("." + first):
          prefix = name[: len(name) - len(first)]
          if prefix + second in names:
            found[prefix, kind] = None
  return list(found)


def _choose(
  weights: Weights,
  known: Mapping[tuple[str, str], Mapping[str, Family]],
  network: str | None,
) -> tuple[str, str]:
  """One candidate; of an online network and its average, one."""
  left = list(known)
  for one in known:
    for online, target in families.NETWORKS:
      words = one[0].split(".")
      if online not in words:
        continue
      other = ".".join(target if word == online else word for word in words)
      if (other, one[1]) not in known:
        continue
      preferred = network
      if preferred is None:
        averaged = any(row.target for row in known[one].values())
        preferred = "target" if averaged else "online"
      dropped = one if preferred == "target" else (other, one[1])
      if dropped in left:
        left.remove(dropped)
  if len(left) > 1:
    options = " or ".join(
      f"--prefix={prefix or repr('')}" for prefix, _ in left
    )
    raise UserError(
      f"{weights.path} has {len(left)} backbones; choose one with {options}."
    )
  return left[0]


def _no_backbone(
  weights: Weights, names: Mapping[str, str], prefix: str | None
) -> UserError:
  first, second = _DEEP_STEM
  where = f" at --prefix={prefix}" if prefix is not None else ""
  if any(name.endswith(first) for name in names) and any(
    name.endswith(second) for name in names
  ):
    return UserError(
      f"{weights.path} has a ResNet with a deep stem (conv1.0, conv1.3, ...),"
      " as resnet50d has; there is no such backbone here."
    )
  shown = ", ".join(list(names)[:4])
  more = f" and {len(names) - 4} more" if len(names) > 4 else ""
  hint = ""
  if len(names) <= 12 and all(re.search("weight|bias", name) for name in names):
    hint = "; this looks like a classifier without its backbone"
  return UserError(
    f"{weights.path} ({weights.format}) has no backbone{where} that is known: a"
    f" ResNet, a ViT or big_vision's. It has {shown}{more}{hint}."
  )


def _no_layout(
  weights: Weights,
  names: Mapping[str, str],
  candidates: list[tuple[str, str]],
  layout: str | None,
) -> UserError:
  places = ", ".join(
    f"{prefix or '(top)'} ({kind})" for prefix, kind in candidates
  )
  if layout is not None:
    row = FAMILIES[layout]
    return UserError(
      f"{weights.path} has backbones at {places}, which is not the layout"
      f" {layout!r} of {row.title}; leave --layout out."
    )
  return UserError(
    f"{weights.path} has backbones at {places}, where no layout that is known"
    f" has one; say whose names they are with --layout=, one of"
    f" {', '.join(FAMILIES)}, in a file with the prefix that it has."
  )
