"""Tables in the layout of the paper's table 1: awareness by data sets."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cassle_jax.evaluation import confidence
from cassle_jax.evaluation.confidence import Interval
from cassle_jax.report import words
from cassle_jax.report.grouping import (
  Block,
  Group,
  blocks,
  headline,
  measurements,
)
from cassle_jax.report.results import Result
from cassle_jax.report.tables import Row, Table
from cassle_jax.runs import published

# So many data sets are shown at every k.
_SETS = 3


class _Column(NamedTuple):
  """A column: its title, the results that it is of, and their number."""

  title: str
  name: str
  read: Callable[[Result], float] = headline


class _Line(NamedTuple):
  """A row before it is text: its numbers, by column."""

  block: Block
  awareness: str
  numbers: str
  # With the mean over data sets at the end, where there are several.
  cells: tuple[Interval, ...]
  # Columns whose interval is the one of a single run, over episodes.
  within: frozenset[int] = frozenset()

  @property
  def published(self) -> bool:
    return self.numbers == "published"


def linear(groups: Sequence[Group]) -> Table | None:
  """Linear evaluation, with the published rows of the same recipes.

  Mean and rank are over the columns of table 1 that are shown, or, of fewer
  than two, over all data sets. A row that lacks one of them has neither. Ranks
  and best numbers are among the rows of a block; published rows are blocks of
  their own.

  Args:
    groups: from `grouping.group`.

  Returns:
    None where there is no result.
  """
  names = words.datasets(groups, "linear")
  shared = [name for name in names if name in published.TITLES]
  over = shared if len(shared) > 1 else names
  # Landmarks have a second score, of which nothing was published.
  landmarks = {
    name
    for name in names
    for one in groups
    if any(not np.isnan(x["r2"]) for x in one.data("linear", name))
  }
  columns = []
  for name in names:
    title = words.dataset(name)
    columns.append(_Column(title, name))
    if name in landmarks:
      title += ", standard\u00a0R²"
      columns.append(_Column(title, name, lambda result: result.data["r2"]))
  lines = []
  for block, members in blocks(groups).items():
    lines += _lines(members, "linear", columns, over)
    lines += _published(block, members, columns, over)
  notes = []
  if landmarks:
    notes.append(
      "Landmarks: 100 times the squared correlation of all numbers with their"
      " predictions, the published score, and 100 times the standard R²"
      " averaged over the landmarks' coordinates."
    )
  if any(line.published for line in lines):
    notes.append(
      f"Published: {published.source()}. Nobody measured these numbers with"
      " this library; they stand beside the runs that repeat their recipes."
    )
  return _table("Linear evaluation (%)", columns, lines, over, groups, notes)


def few_shot(groups: Sequence[Group]) -> Table | None:
  """Few-shot accuracy; None where there is no result."""
  names = words.datasets(groups, "few_shot")
  columns = [_Column(words.dataset(name), name) for name in names]
  lines = _lines(groups, "few_shot", columns)
  title = "Few-shot classification, 5 ways (%)"
  return _table(title, columns, lines, [], groups)


def nearest(groups: Sequence[Group]) -> Table | None:
  """k-NN accuracy; None where there is no result.

  At every k for up to `_SETS` data sets, at the headline's k for more.
  """
  names = words.datasets(groups, "knn")
  title = "k nearest neighbours (%)"
  if len(names) > _SETS:
    columns = [_Column(words.dataset(name), name) for name in names]
    lines = _lines(groups, "knn", columns, names)
    note = "At the k of each result's protocol, 20 unless it was set."
    return _table(title, columns, lines, names, groups, [note])
  columns = []
  for name in names:
    ks = {k for one in groups for x in one.data("knn", name) for k in x["top1"]}
    where = "" if len(names) == 1 else f"{words.dataset(name)}, "
    for k in sorted(ks):
      columns.append(
        _Column(
          f"{where}k = {k}",
          name,
          lambda result, k=k: result.data["top1"].get(k, np.nan),
        )
      )
  if len(names) == 1:
    title = f"k nearest neighbours, {words.dataset(names[0])} (%)"
  lines = _lines(groups, "knn", columns)
  return _table(title, columns, lines, [], groups)


def _lines(
  groups: Sequence[Group],
  task: str,
  columns: Sequence[_Column],
  over: Sequence[str] = (),
) -> list[_Line]:
  """A row for each group, which says where it was measured in another way."""
  apart = measurements(groups, task)
  return [
    _measured(one, task, columns, over, apart=apart[id(one)]) for one in groups
  ]


def _measured(
  one: Group,
  task: str,
  columns: Sequence[_Column],
  over: Sequence[str] = (),
  *,
  apart: str = "",
) -> _Line:
  found = [one.values(task, column.name, column.read) for column in columns]
  cells = [confidence.interval(list(values.values())) for values in found]
  within = set()
  for place, values in enumerate(found):
    if len(values) == 1:
      results = dict(one.of(task, columns[place].name))
      half = results[next(iter(values))].interval
      if not np.isnan(half):
        cells[place] = cells[place]._replace(half=half)
        within.add(place)
  counts = {cell.count for cell in cells if cell.count} or {0}
  seeds = f"{words.span(counts, 'seed')}, measured"
  if apart:
    seeds += f" at {apart}"
  if len(over) > 1:
    # The mean is taken in each run: its interval is one of runs.
    averaged = [one.values(task, name) for name in over]
    shared = set.intersection(*map(set, averaged))
    means = [np.mean([x[seed] for x in averaged]) for seed in sorted(shared)]
    cells.append(confidence.interval(means))
  return _Line(
    one.block, words.group(one), seeds, tuple(cells), frozenset(within)
  )


def _published(
  block: Block,
  members: Sequence[Group],
  columns: Sequence[_Column],
  over: Sequence[str],
) -> list[_Line]:
  """The rows of table 1 beside a block with a run of one of its recipes."""
  known = {row.name: row for row in published.rows()}
  repeats = any(
    run.published in known
    and known[run.published]
    == published.find(
      method=run.method, backbone=run.backbone, awareness=run.awareness
    )
    for one in members
    for run in one.runs
  )
  lines = []
  for row in known.values() if repeats else ():
    if (row.method, row.backbone) != (block.method, block.backbone):
      continue
    values = [
      row.values.get(column.name) if column.read is headline else None
      for column in columns
    ]
    if len(over) > 1:
      means = [row.values.get(name) for name in over]
      values.append(None if None in means else np.mean(means))
    cells = [confidence.interval([] if x is None else [x]) for x in values]
    lines.append(
      _Line(block, words.awareness(row.awareness), "published", tuple(cells))
    )
  return lines


def _table(
  title: str,
  columns: Sequence[_Column],
  lines: Sequence[_Line],
  over: Sequence[str],
  groups: Sequence[Group],
  further: Sequence[str] = (),
) -> Table | None:
  lines = [line for line in lines if any(cell.count for cell in line.cells)]
  if not lines:
    return None
  averaged = len(over) > 1
  headlines = {
    column.name: place
    for place, column in enumerate(columns)
    if column.read is headline
  }
  places = [headlines[name] for name in over]
  lead, rows = 4, []
  for (block, theirs), members in itertools.groupby(
    lines, lambda line: (line.block, line.published)
  ):
    members = list(members)
    numbers = np.array([[cell.mean for cell in x.cells] for x in members])
    ranks = np.full(len(members), np.nan)
    if averaged:
      if len(members) > 1:
        whole = ~np.isnan(numbers[:, -1:])
        ranked = np.where(whole, numbers[:, places], np.nan)
        ranks = confidence.mean_ranks(ranked)
      numbers = np.column_stack([numbers, -ranks])
    first = bool(rows)
    for line, best, rank in zip(members, _best(numbers), ranks, strict=True):
      texts = [
        words.spread(cell, 2 if theirs else 1)
        + ("*" if column in line.within else "")
        for column, cell in enumerate(line.cells)
      ]
      if averaged:
        texts.append("" if np.isnan(rank) else f"{rank:.1f}")
      names = words.method(block.method), words.backbone(block, groups)
      rows.append(
        Row(
          (*names, line.awareness, line.numbers, *texts),
          frozenset((lead + np.flatnonzero(best)).tolist()),
          theirs,
          first,
        )
      )
      first = False
  head = ["method", "backbone", "awareness", "numbers"]
  head += [column.title for column in columns]
  if averaged:
    head += ["mean", "rank"]
  notes = [
    "Mean ± half-width of the 95% interval over seeds (Student's t); one seed"
    " has none. Bold: the best of its column among rows of one method, backbone"
    " and training."
  ]
  if any(line.within for line in lines):
    notes.append(
      "* of one seed: the interval is over its test pictures, or episodes."
    )
  if averaged:
    which = "all" if len(over) == len(headlines) else "table 1's"
    notes.append(
      f"Mean and rank are over {which} data sets and left empty where a row"
      " lacks one; rank 1 is the best."
    )
  return Table(title, tuple(head), lead, tuple(rows), (*notes, *further))


def _best(numbers: np.ndarray) -> np.ndarray:
  """Where [rows, columns] has the highest of several numbers of a column."""
  known = ~np.isnan(numbers)
  highest = np.max(np.where(known, numbers, -np.inf), axis=0)[None]
  return known & (np.sum(known, axis=0) > 1)[None] & (numbers == highest)
