"""Tables of a report: rows of cells with text, and what a cell stands for."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cassle_jax import published
from cassle_jax.data.downstream import DATASETS
from cassle_jax.evaluation import confidence
from cassle_jax.report.runs import Kind, Run

Groups = Mapping[Kind, Sequence[Run]]


class Table(NamedTuple):
  """A table, ready to be printed.

  Attributes:
    title: what it shows.
    head: names of the columns.
    rows: cells as text, "" where there is no number.
    best: (row, column) of the cells that are the best of theirs among
      comparable rows.
    notes: sentences below the table.
  """

  title: str
  head: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  best: frozenset[tuple[int, int]] = frozenset()
  notes: tuple[str, ...] = ()


# Task -> (what its number is, digits).
MEASURES = {
  "sensitivity": ("InfoNCE of pairs (nats)", 3),
  "wrong_omega": ("similarity lost to another's omega", 3),
  "probe": ("omega predicted from features (R²)", 3),
  "strength": ("cosine along strengths", 3),
  "spectrum": ("RankMe", 1),
  "retrieval": ("same class among neighbours (%)", 1),
}


def accuracy(groups: Groups, task: str, title: str) -> Table | None:
  """The layout of the paper's table 1: kinds by data sets, in percent.

  Published numbers stand in rows of their own, below the runs that repeat
  their recipe. Means and ranks are over the columns that every row of the same
  origin has.

  Args:
    groups: runs of each kind.
    task: "linear" or "knn".
    title: of the table.

  Returns:
    None where no run has a result of that task.
  """
  columns = [
    name
    for name in DATASETS
    if any(
      (task, name) in run.results for runs in groups.values() for run in runs
    )
  ]
  if not columns:
    return None
  origins, labels, values = [], [], []
  for kind, runs in groups.items():
    cells = [
      confidence.interval(
        [
          run.results[task, name]["value"]
          for run in runs
          if (task, name) in run.results
        ]
      )
      for name in columns
    ]
    if not any(cell.count for cell in cells):
      continue
    origins.append("measured")
    labels.append((*kind, f"measured, {_seeds(cells)}"))
    values.append(cells)
    row = _published_row(runs) if task == "linear" else None
    if row is not None and any(row.values.get(name) for name in columns):
      origins.append("published")
      labels.append((*kind, "published"))
      numbers = [row.values.get(name) for name in columns]
      values.append(
        [confidence.interval([] if n is None else [n]) for n in numbers]
      )
  return _with_means(title, columns, origins, labels, values)


def measures(groups: Groups) -> Table | None:
  """One column for each measurement of the networks themselves, or None."""
  names = {
    (task, name)
    for runs in groups.values()
    for run in runs
    for task, name in run.results
    if task in MEASURES
  }
  columns = sorted(
    names, key=lambda key: (list(MEASURES).index(key[0]), key[1])
  )
  if not columns:
    return None
  several = len({name for _, name in columns}) > 1
  head = [
    MEASURES[task][0] + (f", {name}" if several else "")
    for task, name in columns
  ]
  rows = []
  for kind, runs in groups.items():
    cells = []
    for key in columns:
      found = confidence.interval(
        [run.results[key]["value"] for run in runs if key in run.results]
      )
      cells.append(number(found, MEASURES[key[0]][1]))
    if any(cells):
      rows.append((*kind, *cells))
  return Table(
    "What the representation keeps",
    ("method", "backbone", "awareness", *head),
    tuple(rows),
    notes=(
      "Higher InfoNCE and higher probe scores mean that more of the"
      " augmentation is kept.",
    ),
  )


class Claim(NamedTuple):
  """What the paper says of CASSLE beside the vanilla method.

  Attributes:
    text: the claim.
    task: whose result tells.
    value: of a result's record, the number that is to be higher.
    unit: of the number.
  """

  text: str
  task: str
  value: Callable[[Mapping[str, Any]], float] = lambda record: record["value"]
  unit: str = ""


def _projected(record: Mapping[str, Any]) -> float:
  """Mean InfoNCE of projections over the operations."""
  blocks = record["details"]["ops"].values()
  return float(np.mean([block["projection"]["infonce"] for block in blocks]))


CLAIMS = (
  Claim("the projector loses similarity when omega is wrong", "wrong_omega"),
  Claim("InfoNCE of augmented pairs' features is higher", "sensitivity"),
  Claim(
    "InfoNCE of augmented pairs' projections is higher",
    "sensitivity",
    _projected,
  ),
  Claim("features predict omega better", "probe"),
  Claim("linear accuracy is higher", "linear", unit="points"),
  Claim("k-NN accuracy is higher", "knn", unit="points"),
)


def findings(groups: Groups, name: str = "earth") -> Table | None:
  """The paper's findings: CASSLE minus vanilla, seed by seed.

  Args:
    groups: runs of each kind.
    name: of the data set.

  Returns:
    None where no method has both.
  """
  rows = []
  for kind, runs in groups.items():
    vanilla = groups.get(kind._replace(awareness="vanilla"))
    if kind.awareness != "cassle" or vanilla is None:
      continue
    for claim in CLAIMS:
      found = confidence.difference(
        *(_by_seed(group, claim, name) for group in (runs, vanilla))
      )
      if found.count:
        shown = number(found, 1 if claim.unit else 3, "+")
        row = (kind.method, claim.text, f"{shown} {claim.unit}".rstrip())
        rows.append((*row, verdict(found)))
  if not rows:
    return None
  return Table(
    "Findings: CASSLE minus vanilla, seed by seed",
    ("method", "claim", "difference", "seen here"),
    tuple(rows),
    notes=(
      "Mean and 95 % interval over seeds that both have; a claim holds where"
      " the interval is above 0.",
    ),
  )


def verdict(found: confidence.Interval) -> str:
  """Whether a difference is above 0, in a word or two."""
  if math.isnan(found.half):
    return "one seed, undecided"
  if found.mean - found.half > 0:
    return "holds"
  if found.mean + found.half < 0:
    return "does not hold"
  return "undecided"


def number(found: confidence.Interval, digits: int, sign: str = "") -> str:
  """Mean ± half; "" without values, the mean alone for one."""
  if not found.count:
    return ""
  text = f"{found.mean:{sign}.{digits}f}"
  return text if math.isnan(found.half) else f"{text} ± {found.half:.{digits}f}"


def markdown(table: Table) -> str:
  """The table in Markdown, its best cells bold."""

  def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

  lines = [f"## {table.title}", "", row(table.head)]
  lines.append("|---" * len(table.head) + "|")
  for r, cells in enumerate(table.rows):
    lines.append(
      row(
        [f"**{c}**" if (r, i) in table.best else c for i, c in enumerate(cells)]
      )
    )
  lines += [text for note in table.notes for text in ("", note)]
  return "\n".join(lines) + "\n"


def _with_means(
  title: str,
  columns: Sequence[str],
  origins: Sequence[str],
  labels: Sequence[tuple[str, ...]],
  values: Sequence[Sequence[confidence.Interval]],
) -> Table:
  numbers = np.array([[cell.mean for cell in cells] for cells in values])
  means, ranks = np.full((2, len(values)), np.nan)
  best = set()
  lead = len(labels[0])
  for origin in dict.fromkeys(origins):
    rows = np.array([i for i, each in enumerate(origins) if each == origin])
    part = numbers[rows]
    # Columns that all these rows have.
    shared = part[:, ~np.isnan(part).any(axis=0)]
    if shared.shape[1]:
      means[rows] = np.mean(shared, axis=1)
      ranks[rows] = confidence.mean_ranks(shared)
    if len(rows) > 1:
      for column in range(len(columns)):
        if not np.isnan(part[:, column]).all():
          top = np.nanmax(part[:, column])
          best |= {
            (r, lead + column) for r in rows if numbers[r, column] == top
          }
  several = len(columns) > 1
  cells = tuple(
    (
      *label,
      *(number(cell, 1 if origin == "measured" else 2) for cell in row),
      *(
        ("" if np.isnan(x) else f"{x:.1f}" for x in (mean, rank))
        if several
        else ()
      ),
    )
    for label, origin, row, mean, rank in zip(
      labels, origins, values, means, ranks, strict=True
    )
  )
  titles = [DATASETS[name].title for name in columns]
  notes = [
    "Percent; mean and 95 % interval over seeds where there are several."
  ]
  if several:
    notes.append(
      "Mean and rank are over the columns that all rows of one origin have."
    )
  if "published" in origins:
    notes.append(f"Published: {published.source()}; not measured here.")
  return Table(
    title,
    ("method", "backbone", "awareness", "origin", *titles)
    + (("mean", "rank") if several else ()),
    cells,
    frozenset(best),
    tuple(notes),
  )


def _by_seed(runs: Sequence[Run], claim: Claim, name: str) -> dict[int, float]:
  """{seed: value} of the runs that have the result."""
  key = (claim.task, name)
  return {
    run.seed: claim.value(run.results[key])
    for run in runs
    if key in run.results
  }


def _published_row(runs: Sequence[Run]) -> published.Row | None:
  for run in runs:
    known = {row.name: row for row in published.rows()}.get(run.published)
    if known is not None:
      found = published.find(**run.kind._asdict())
      return known if found == known else None
  return None


def _seeds(cells: Sequence[confidence.Interval]) -> str:
  counts = sorted({cell.count for cell in cells if cell.count})
  text = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
  return f"{text} seed{'' if counts == [1] else 's'}"
