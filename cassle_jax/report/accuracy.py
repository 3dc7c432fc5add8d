"""Tables in the layout of the paper's table 1: awareness by data sets."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cassle_jax.evaluation import confidence
from cassle_jax.evaluation.confidence import Interval
from cassle_jax.report import words
from cassle_jax.report.grouping import Block, Group, blocks
from cassle_jax.report.results import Result
from cassle_jax.report.tables import Row, Table
from cassle_jax.runs import published

# So many data sets are shown at every k.
_SETS = 3
_NONE = Interval(float("nan"), float("nan"), 0)


class _Line(NamedTuple):
  """A row before it is text: its numbers, by column."""

  block: Block
  awareness: str
  published: bool
  seeds: str
  cells: tuple[Interval, ...]
  # Columns whose interval is the one of a single run, over episodes.
  within: frozenset[int]
  mean: Interval


def linear(groups: Sequence[Group]) -> Table | None:
  """Linear evaluation, with the published rows of the same recipes.

  Mean and rank are over the columns of table 1 that are shown, or, of fewer
  than two, over all columns. A row that lacks one of them has neither. Ranks
  and best numbers are among the rows of a block; published rows are blocks of
  their own.

  Args:
    groups: from `grouping.group`.

  Returns:
    None where there is no result.
  """
  names = _names(groups, "linear")
  if not names:
    return None
  shared = [name for name in names if name in published.TITLES]
  over = shared if len(shared) > 1 else names
  # Landmarks have a second score, of which nothing was published.
  standard = {_standard(name): name for name in names if _has_r2(groups, name)}
  for column, name in standard.items():
    names.insert(names.index(name) + 1, column)
  lines = []
  for block, members in blocks(groups).items():
    for one in members:
      found = {name: dict(one.of("linear", name)) for name in names}
      for column, name in standard.items():
        found[column] = {
          seed: result._replace(value=result.data)
          for seed, result in found[name].items()
        }
      lines.append(_measured(one, names, found, over))
    lines += _published(block, members, names, over)
  notes = []
  if standard:
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
  return _table("Linear evaluation (%)", names, lines, over, groups, notes)


def few_shot(groups: Sequence[Group]) -> Table | None:
  """Few-shot accuracy; None where there is no result."""
  names = _names(groups, "few_shot")
  if not names:
    return None
  lines = [
    _measured(
      one, names, {name: dict(one.of("few_shot", name)) for name in names}, []
    )
    for one in groups
  ]
  return _table("Few-shot classification, 5 ways (%)", names, lines, [], groups)


def nearest(groups: Sequence[Group]) -> Table | None:
  """k-NN accuracy; None where there is no result.

  At every k for up to `_SETS` data sets, at the headline's k for more.
  """
  names = _names(groups, "knn")
  if not names:
    return None
  title = "k nearest neighbours (%)"
  if len(names) > _SETS:
    lines = [
      _measured(one, names, {n: dict(one.of("knn", n)) for n in names}, names)
      for one in groups
    ]
    note = "At the k of each result's protocol, 20 unless it was set."
    return _table(title, names, lines, names, groups, [note])
  headings: list[str] = []
  for name in names:
    ks = {k for one in groups for _, r in one.of("knn", name) for k in r.data}
    headings += [_heading(name, k, names) for k in sorted(ks)]
  lines = []
  for one in groups:
    found: dict[str, dict[int, Result]] = {text: {} for text in headings}
    for name in names:
      for seed, result in one.of("knn", name):
        for k, value in result.data.items():
          text = _heading(name, k, names)
          found[text][seed] = result._replace(value=value)
    lines.append(_measured(one, headings, found, []))
  if len(names) == 1:
    title = f"k nearest neighbours, {words.dataset(names[0])} (%)"
  return _table(title, headings, lines, [], groups)


def _heading(name: str, k: int, names: Sequence[str]) -> str:
  return f"k = {k}" if len(names) == 1 else f"{words.dataset(name)}, k = {k}"


def _standard(name: str) -> str:
  return f"{words.dataset(name)}, standard\u00a0R²"


def _has_r2(groups: Sequence[Group], name: str) -> bool:
  return any(
    not np.isnan(result.data)
    for one in groups
    for _, result in one.of("linear", name)
  )


def _names(groups: Sequence[Group], task: str) -> list[str]:
  """Names of a task's results, in the order of table 1."""
  return words.by_table(
    name
    for one in groups
    for run in one.runs
    for found, name in run.results
    if found == task
  )


def _measured(
  one: Group,
  names: Sequence[str],
  found: Mapping[str, Mapping[int, Result]],
  over: Sequence[str],
) -> _Line:
  cells, within, counts = [], set(), set()
  for column, name in enumerate(names):
    values = {s: r for s, r in found[name].items() if not np.isnan(r.value)}
    cell = confidence.interval([r.value for r in values.values()])
    if cell.count == 1:
      (result,) = values.values()
      if not np.isnan(result.interval):
        cell = cell._replace(half=result.interval)
        within.add(column)
    if cell.count:
      counts.add(cell.count)
    cells.append(cell)
  # The mean over data sets is taken in each run: its interval is one of runs.
  by_seed = [
    [found[name][run.seed].value for name in over]
    for run in one.runs
    if over and all(run.seed in found[name] for name in over)
  ]
  means = [float(np.mean(values)) for values in by_seed]
  mean = confidence.interval([x for x in means if not np.isnan(x)])
  low, high = min(counts, default=0), max(counts, default=0)
  seeds = f"{words.count(high, 'seed')}, measured"
  return _Line(
    one.block,
    words.group(one),
    False,
    f"{low} to {seeds}" if low < high else seeds,
    tuple(cells),
    frozenset(within),
    mean,
  )


def _published(
  block: Block,
  members: Sequence[Group],
  names: Sequence[str],
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
    values = [row.values.get(name) for name in names]
    if all(value is None for value in values):
      continue
    means = [row.values.get(name) for name in over]
    whole = bool(over) and None not in means
    lines.append(
      _Line(
        block,
        words.awareness(row.awareness),
        True,
        "",
        tuple(
          _NONE if value is None else confidence.interval([value])
          for value in values
        ),
        frozenset(),
        confidence.interval([float(np.mean(means))] if whole else []),
      )
    )
  return lines


def _table(
  title: str,
  names: Sequence[str],
  lines: Sequence[_Line],
  over: Sequence[str],
  groups: Sequence[Group],
  further: Sequence[str] = (),
) -> Table:
  lines = [line for line in lines if any(cell.count for cell in line.cells)]
  averaged = len(over) > 1
  places = [names.index(name) for name in over]
  lead, rows, previous = 4, [], None
  for key in dict.fromkeys((line.block, line.published) for line in lines):
    members = [line for line in lines if (line.block, line.published) == key]
    numbers = np.array([[cell.mean for cell in x.cells] for x in members])
    ranks = np.full(len(members), np.nan)
    if len(members) > 1 and averaged:
      whole = np.array([[line.mean.count > 0] for line in members])
      ranks = confidence.mean_ranks(np.where(whole, numbers[:, places], np.nan))
    columns = np.concatenate(
      [numbers, [[x.mean.mean] for x in members], -ranks[:, None]], axis=1
    )
    best = _best(columns if averaged else numbers)
    for place, line in enumerate(members):
      digits = 2 if line.published else 1
      texts = [
        words.spread(cell, digits) + ("*" if column in line.within else "")
        for column, cell in enumerate(line.cells)
      ]
      if averaged:
        rank = "" if np.isnan(ranks[place]) else f"{ranks[place]:.1f}"
        texts += [words.spread(line.mean, digits), rank]
      rows.append(
        Row(
          (
            words.method(line.block.method),
            words.backbone(line.block, groups),
            line.awareness,
            line.seeds if line.seeds else "published",
            *texts,
          ),
          frozenset(lead + column for column in best[place]),
          line.published,
          place == 0 and previous is not None,
        )
      )
    previous = key
  head = ("method", "backbone", "awareness", "numbers")
  titles = [words.dataset(name) for name in names]
  if averaged:
    titles += ["mean", "rank"]
  notes = [
    "Mean ± half-width of the 95% interval over seeds (Student's t); one seed"
    " has none. Bold: the best of its column among rows of one method, backbone"
    " and training."
  ]
  if any(line.within for line in lines):
    notes.append("* of one seed: the interval is over its test episodes.")
  if averaged:
    which = "all columns" if len(over) == len(names) else "table 1's data sets"
    notes.append(
      f"Mean and rank are over {which} and left empty where a row lacks one;"
      " rank 1 is the best."
    )
  return Table(title, (*head, *titles), lead, tuple(rows), (*notes, *further))


def _best(numbers: np.ndarray) -> list[list[int]]:
  """For each row the columns in which it has the highest of several numbers."""
  best: list[list[int]] = [[] for _ in numbers]
  for column in range(numbers.shape[1]):
    values = numbers[:, column]
    if np.sum(~np.isnan(values)) > 1:
      for row in np.flatnonzero(values == np.nanmax(values)):
        best[row].append(column)
  return best
