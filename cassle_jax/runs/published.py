"""The numbers of CASSLE's tables, to be printed beside one's own.

They are data, in published.json beside this file: tables 1 and 2 of arXiv
2306.06082, as shown in the method's slides. Nothing here was measured by this
project.

Table 1 is linear evaluation on 13 data sets, in percent: top-1 accuracy or,
where a data set asks for it, the mean over classes; for "300w" it is R^2 x
100. None stands for a number that was not published. Table 2 is AP on Pascal
VOC detection, in percent.

A row of table 1 is named METHOD/BACKBONE/AWARENESS, "mocov2/resnet50/augself"
for instance. A config that is the recipe of a row says so in its key
`published`.
"""

import functools
import json
import os
import textwrap
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from cassle_jax.errors import unknown

# The tables' words -> config.model.backbone.
_BACKBONES = {
  "ResNet-50, ImageNet-100": "resnet50",
  "ViT-Small, ImageNet-1k": "vit_small",
}

# Data set -> its name in print, in the order of table 1.
TITLES = {
  "cifar10": "CIFAR-10",
  "cifar100": "CIFAR-100",
  "food101": "Food-101",
  "mit67": "MIT-67",
  "pets": "Pets",
  "flowers102": "Flowers-102",
  "caltech101": "Caltech-101",
  "cars": "Cars",
  "aircraft": "Aircraft",
  "dtd": "DTD",
  "sun397": "SUN-397",
  "cub200": "CUB-200",
  "300w": "300W",
}


class Row(NamedTuple):
  """One row of table 1.

  Attributes:
    name: METHOD/BACKBONE/AWARENESS.
    method: as in `config.method.name`.
    backbone: as in `config.model.backbone`.
    awareness: as in `config.awareness.name`.
    setting: backbone and pretraining data in the table's words.
    values: data set -> percent, or None where nothing was published.
    re_evaluated_by_authors: whether CASSLE's authors evaluated this method
      again; if not, the number is their own method's or the one in the
      method's own paper.
  """

  name: str
  method: str
  backbone: str
  awareness: str
  setting: str
  values: Mapping[str, float | None]
  re_evaluated_by_authors: bool


@functools.cache
def _tables() -> dict[str, Any]:
  path = os.path.join(os.path.dirname(__file__), "published.json")
  with open(path) as file:
    return json.load(file)


def source() -> str:
  """Where the numbers come from."""
  return _tables()["source"]


@functools.cache
def rows() -> tuple[Row, ...]:
  """The 13 rows of table 1, in its order."""
  table = _tables()["table1"]
  return tuple(
    Row(
      name=f"{row['method']}/{_BACKBONES[row['setting']]}/{row['awareness']}",
      method=row["method"],
      backbone=_BACKBONES[row["setting"]],
      awareness=row["awareness"],
      setting=row["setting"],
      values=types.MappingProxyType(
        dict(zip(table["columns"], row["values"], strict=True))
      ),
      re_evaluated_by_authors=row["re_evaluated_by_authors"],
    )
    for row in table["rows"]
  )


def row(name: str) -> Row:
  """The row of that name.

  Raises:
    UserError: table 1 has no such row; the message lists those that it has.
  """
  for known in rows():
    if known.name == name:
      return known
  raise unknown("published row", name, [known.name for known in rows()])


def find(*, method: str, backbone: str, awareness: str) -> Row | None:
  """The row of a kind of run, or None where nothing was published.

  Arguments are named as in the config: `method.name` and so on.
  """
  for known in rows():
    kind = known.method, known.backbone, known.awareness
    if kind == (method, backbone, awareness):
      return known
  return None


def row_of_run(
  name: str | None,
  *,
  conditioning: str = "concat",
  **kind: str,
) -> Row | None:
  """The row that a run may be compared with, or None.

  None where the config names no row, and where the run is of another kind, for
  --config.awareness.name, say, was overridden. Other data or another length are
  not looked at. Where the projector is told omega, the table's is "concat".

  Args:
    name: the config's key `published`.
    conditioning: as in the config, resolved.
    **kind: of `find`.

  Raises:
    UserError: table 1 has no row of that name.
  """
  if name is None:
    return None
  known = row(name)
  usual = conditioning in ("none", "concat")
  return known if known == find(**kind) and usual else None


def record(row: Row | None) -> dict[str, Any] | None:
  """What a run's summary.json keeps of a row: its name, numbers and source."""
  if row is None:
    return None
  return {"row": row.name, "values": dict(row.values), "source": source()}


def text(record: Mapping[str, Any]) -> str:
  """The numbers of a `record` in words, for a terminal."""
  numbers = ", ".join(
    f"{TITLES[name]} {value:.2f}"
    for name, value in record["values"].items()
    if value is not None
  )
  return textwrap.fill(
    f"published for the recipe of {record['row']} ({record['source']}), linear"
    f" evaluation, %: {numbers}",
    width=79,
    subsequent_indent="  ",
  )


def detection(*, method: str, awareness: str) -> float | None:
  """Table 2: AP in percent of a ResNet-50 on Pascal VOC detection, or None.

  Args:
    method: "simclr" or "mocov2"; the table has no other.
    awareness: "vanilla", "augself" or "cassle"; likewise.
  """
  for known in _tables()["table2"]["rows"]:
    if known["awareness"] == awareness:
      return known["values"].get(method)
  return None
