"""Names as a table or a chart prints them, and numbers as text."""

import math
from collections.abc import Iterable, Sequence

from cassle_jax.augment import OPERATIONS
from cassle_jax.awareness import AWARENESS
from cassle_jax.data.downstream import DATASETS
from cassle_jax.evaluation import confidence
from cassle_jax.methods import METHODS
from cassle_jax.report.grouping import Block, Group, blocks


def method(name: str) -> str:
  """A method's name in print."""
  return METHODS[name].title if name in METHODS else name


def awareness(name: str) -> str:
  """An awareness's name in print, with what represents pictures."""
  base, comma, learned = name.partition(", ")
  plus = base.endswith("++")
  base = base.removesuffix("++")
  title = AWARENESS[base].title if base in AWARENESS else base
  shown = " descriptor" if learned == "learned" else ""
  return title + "++" * plus + comma + learned + shown


def operation(name: str) -> str:
  """An operation's title in print: "jitter" is the "colour jitter"."""
  return OPERATIONS[name].title if name in OPERATIONS else name


def dataset(name: str) -> str:
  """A result's data set in print: "cars", or "cub200-5shot" with its shots."""
  if name in DATASETS:
    return DATASETS[name].title
  base, _, shots = name.rpartition("-")
  number = shots.removesuffix("shot")
  if base in DATASETS and number.isdigit() and number != shots:
    # No line ends between a number and what it counts.
    shown = count(int(number), "shot").replace(" ", "\u00a0")
    return f"{DATASETS[base].title}, {shown}"
  return name


def by_table(names: Iterable[str]) -> list[str]:
  """Data sets in the order of the method's table; others at the end."""
  places = {name: place for place, name in enumerate(DATASETS)}

  def key(name: str) -> tuple[int, str]:
    base = name if name in places else name.rpartition("-")[0]
    return (places.get(base, len(places)), name)

  return sorted(set(names), key=key)


def datasets(groups: Iterable[Group], task: str) -> list[str]:
  """Names of a task's results, in the order of `by_table`."""
  return by_table(
    name
    for one in groups
    for run in one.runs
    for found, name in run.results
    if found == task
  )


def row(one: Group, groups: Sequence[Group]) -> tuple[str, str, str]:
  """Method, backbone and awareness: how a group's row begins."""
  return method(one.block.method), backbone(one.block, groups), group(one)


def backbone(one: Block, groups: Sequence[Group]) -> str:
  """A block's backbone, with its training where that tells blocks apart."""
  twins = [b for b in blocks(groups) if b[:2] == one[:2]]
  return f"{one.backbone} ({one.training})" if len(twins) > 1 else one.backbone


def block(one: Block, groups: Sequence[Group]) -> str:
  """A block's name among those of all groups."""
  return f"{method(one.method)}, {backbone(one, groups)}"


def group(one: Group) -> str:
  """A group's name within its block."""
  name = awareness(one.awareness)
  return f"{name}, {one.variant}" if one.variant else name


def count(number: int, noun: str) -> str:
  """'1 seed', '3 seeds'."""
  return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def span(counts: Iterable[int], noun: str) -> str:
  """'3 seeds', and '1 to 3 seeds' where counts differ."""
  low, high = min(counts), max(counts)
  return f"{low} to {count(high, noun)}" if low < high else count(high, noun)


def spread(found: confidence.Interval, digits: int, sign: str = "") -> str:
  """Mean ± half; "" without values, the mean alone for one."""
  if not found.count:
    return ""
  text = f"{found.mean:{sign}.{digits}f}"
  if float(text) == 0:
    text = text.replace("-", "+" if sign else "")
  return text if math.isnan(found.half) else f"{text} ± {found.half:.{digits}f}"
