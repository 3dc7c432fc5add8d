"""Tables of what networks keep, of differences to vanilla, and of the runs."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cassle_jax.evaluation import confidence
from cassle_jax.report import grouping, words
from cassle_jax.report.grouping import Group, blocks, headline, nearest
from cassle_jax.report.results import Result, number
from cassle_jax.report.tables import Row, Table, in_blocks

# The row that says why groups are not paired.
_SETTINGS = ("settings beside awareness", "")
# Below every table of differences, and below those that need it.
_DIFFERENCES = (
  "Awareness minus vanilla over the seeds that both have: mean ± half-width of"
  " the 95% interval. Arrow: the interval leaves out 0; intervals are not"
  " corrected for the number of rows."
)
_NOT_PAIRED = (
  "Not paired: the runs differ in more than their awareness, or were measured"
  " at another step or with other settings; train or evaluate both alike."
)
# So many reasons are given in full.
_REASONS = 4
# Task -> (what its headline number is, digits).
_HEADLINES = {
  "sensitivity": ("InfoNCE, features (nats)", 3),
  "wrong_omega": ("cosine lost to another's omega", 3),
  "probe": ("linear probe of omega (R²)", 3),
  "strength": ("cosine along strengths", 3),
  "retrieval": ("neighbours of the query's class (%)", 1),
  "spectrum": ("RankMe (dimensions)", 1),
}


def headlines(groups: Sequence[Group]) -> Table | None:
  """The headline number of each measurement; None where there is none."""
  columns = [
    (task, name) for task in _HEADLINES for name in words.datasets(groups, task)
  ]
  if not columns:
    return None
  rows = []
  for one in groups:
    found = [
      confidence.interval([*one.values(*key).values()]) for key in columns
    ]
    cells = [
      words.spread(each, _HEADLINES[task][1])
      for each, (task, _) in zip(found, columns, strict=True)
    ]
    if any(cells):
      rows.append((one.block, (*words.row(one, groups), *cells)))
  names = list(dict.fromkeys(name for _, name in columns))
  several = len(names) > 1
  head = [
    _HEADLINES[task][0] + (f", {words.dataset(name)}" if several else "")
    for task, name in columns
  ]
  where = "" if several else f", {words.dataset(names[0])}"
  return Table(
    f"What the representation keeps{where}",
    ("method", "backbone", "awareness", *head),
    3,
    in_blocks(rows),
    (
      "Mean ± half-width of the 95% interval over seeds. Higher InfoNCE,"
      " higher probe scores and lower cosines along strengths: more of the"
      " augmentation is kept. The probe's number is the mean R² over fields.",
    ),
  )


class _Quantity(NamedTuple):
  """A number in which awareness is held against vanilla."""

  text: str
  task: str
  digits: int
  read: Callable[[Result], float] = headline


def _projected(result: Result) -> float:
  """Mean InfoNCE of projections over the operations of the headline."""
  ops = result.data["ops"]
  found = [ops.get(name, {}) for name in result.data["mean_of"] or ops]
  if not found or not all("projection" in blocks for blocks in found):
    return math.nan
  return float(np.mean([x["projection"]["infonce"] for x in found]))


def _pairs(result: Result) -> float:
  """Mean R² of the linear probe of differences over the fields."""
  fields = result.data["pairs"].values()
  values = [x["linear"] for x in fields if x["score"] == "r2"]
  return float(np.mean(values)) if values else math.nan


_QUANTITIES = (
  _Quantity("cosine lost to another's omega", "wrong_omega", 3),
  _Quantity("InfoNCE of features (nats)", "sensitivity", 3),
  _Quantity("InfoNCE of projections (nats)", "sensitivity", 3, _projected),
  _Quantity("linear probe of omega (R²)", "probe", 3),
  _Quantity("linear probe of differences (R²)", "probe", 3, _pairs),
  _Quantity("linear accuracy (points)", "linear", 1),
  _Quantity("k-NN accuracy (points)", "knn", 1),
  _Quantity("few-shot accuracy (points)", "few_shot", 1),
)


def differences(groups: Sequence[Group]) -> list[Table]:
  """Every awareness minus vanilla, seed by seed.

  Args:
    groups: from `grouping.group`.

  Returns:
    A table for each block that has both, a column for each awareness.
  """
  tables = []
  for block, members in blocks(groups).items():
    pairs = [(x, found) for x in members if (found := nearest(x, members))]
    # {(quantity, what it is the mean of): {column: text}}
    cells: dict[tuple[str, str], dict[int, str]] = {}
    counts: dict[int, set[int]] = {}
    unpaired = False
    for column, (_, (_, apart)) in enumerate(pairs):
      if apart:
        text, unpaired = f"not paired: {_some(apart)}", True
        cells.setdefault(_SETTINGS, {})[column] = text
        counts.setdefault(column, set()).add(0)
    for quantity in _QUANTITIES:
      for column, (one, (vanilla, apart)) in enumerate(pairs):
        if apart:
          continue
        names, mine, theirs, unlike = _shared(one, vanilla, quantity)
        found = confidence.difference(mine, theirs)
        if not found.count and not unlike:
          continue
        where = f"mean of {len(names)}"
        if len(names) == 1:
          where = words.dataset(names[0])
        text = f"{words.spread(found, quantity.digits, '+')} {arrow(found)}"
        if not found.count:
          where = ", ".join(map(words.dataset, unlike))
          reasons = dict.fromkeys(x for each in unlike.values() for x in each)
          text, unpaired = f"not paired: {_some(list(reasons))}", True
        row = (quantity.text, where)
        cells.setdefault(row, {})[column] = text.rstrip()
        counts.setdefault(column, set()).add(found.count)
    if not cells:
      continue
    head = [
      f"{words.group(pairs[column][0])}, {words.span(counts[column], 'seed')}"
      for column in sorted(counts)
    ]
    rows = tuple(
      Row((*row, *(texts.get(column, "") for column in sorted(counts))))
      for row, texts in cells.items()
    )
    tables.append(
      Table(
        f"Differences to vanilla: {words.block(block, groups)}",
        ("quantity", "data set", *head),
        2,
        rows,
        (_DIFFERENCES, _NOT_PAIRED) if unpaired else (_DIFFERENCES,),
      )
    )
  return tables


def arrow(found: confidence.Interval) -> str:
  """Which way a difference goes, where its interval leaves out 0."""
  if math.isnan(found.half) or abs(found.mean) <= found.half:
    return ""
  return "\u2191" if found.mean > 0 else "\u2193"


def runs(groups: Sequence[Group]) -> Table:
  """The runs themselves: what the numbers were measured on."""
  rows = [
    (
      one.block,
      (
        *words.row(one, groups),
        str(run.settings.get("data.source", "")),
        run.folder,
        str(run.seed),
        _number(run.summary.get("step"), 0),
        _number(run.summary.get("loss"), 3),
        _number(run.summary.get("knn_top1"), 1, 100.0),
        _number(run.summary.get("images_per_second"), 0),
        str(run.summary.get("device") or ""),
      ),
    )
    for one in groups
    for run in one.runs
    if run.representation == "backbone"
  ]
  return Table(
    "Runs",
    (
      "method",
      "backbone",
      "awareness",
      "pictures",
      "folder",
      "seed",
      "steps",
      "last loss",
      "k-NN on the way (%)",
      "images/s",
      "device",
    ),
    5,
    in_blocks(rows),
    ("Empty: training has not ended, or did not measure it.",),
  )


def _number(value: object, digits: int, factor: float = 1.0) -> str:
  try:
    known = number(value)
  except (TypeError, ValueError):  # Somebody else's summary.
    return ""
  return "" if math.isnan(known) else f"{factor * known:.{digits}f}"


def _some(reasons: Sequence[str]) -> str:
  """Reasons in words, the first few in full."""
  more = len(reasons) - _REASONS
  text = "; ".join(reasons[:_REASONS])
  return f"{text} and {more} more" if more > 0 else text


def _shared(
  one: Group, vanilla: Group, quantity: _Quantity
) -> tuple[list[str], dict[int, float], dict[int, float], dict[str, list[str]]]:
  """Names of results that both groups have, and each one's {seed: mean}.

  A seed counts where the run has all of these results. Results that were
  measured differently are left out: {name: how they differ}.
  """
  held = [set(words.datasets([each], quantity.task)) for each in (one, vanilla)]
  names, unlike = [], {}
  for name in words.by_table(held[0] & held[1]):
    mine, theirs = (dict(x.of(quantity.task, name)) for x in (one, vanilla))
    reasons = [
      reason
      for seed in sorted(set(mine) & set(theirs))
      for reason in grouping.unlike(mine[seed], theirs[seed])
    ]
    if reasons:
      unlike[name] = list(dict.fromkeys(reasons))
    else:
      names.append(name)
  means = []
  for each in (one, vanilla):
    found = [each.values(quantity.task, name, quantity.read) for name in names]
    seeds = set.intersection(*map(set, found)) if found else set()
    mean = {seed: float(np.mean([x[seed] for x in found])) for seed in seeds}
    means.append(mean)
  return names, *means, unlike
