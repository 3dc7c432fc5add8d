"""Where the time of runs went: a table of runs, and a bar for each kind."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cassle_jax.report import look, words
from cassle_jax.report.grouping import Group
from cassle_jax.report.tables import Table, in_blocks
from cassle_jax.runs import goodput, progress

# The parts of a bar, and columns of the table, in their order.
_COLORS = {
  "step": "#009e73",
  "lost": "#d55e00",
  "data": "#e69f00",
  "save": "#cc79a7",
  "evaluation": "#56b4e9",
  "compile": "#0072b2",
  "init": "#767b82",
  "other": "#c9ccd1",
}
# Steps that were taken again stand apart from those that count.
_TITLES = goodput.PHASES | {"lost": "steps repeated"}
_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def table(groups: Sequence[Group]) -> Table | None:
  """Shares of each run's time; None where no run has written any."""
  rows = []
  for one in groups:
    for run in one.runs:
      parts = _parts(run.spent)
      if parts is None:
        continue
      whole = sum(parts.values())
      cells = (
        *words.row(one, groups),
        str(run.seed),
        progress.duration(whole),
        *(f"{100 * part / whole:.1f}" for part in parts.values()),
        str(run.spent["starts"]),
        str(run.spent["lost_steps"]),
      )
      rows.append((one.block, cells))
  if not rows:
    return None
  return Table(
    "Where the time went",
    (
      "method",
      "backbone",
      "awareness",
      "seed",
      "time",
      *(f"{_TITLES[name]} (%)" for name in _COLORS),
      "starts",
      "repeated steps",
    ),
    4,
    in_blocks(rows),
    (
      "Time of all processes of a run, as its host sees it; between them, and"
      " after the last record of one that was killed, nothing is counted.",
    ),
  )


def bars(groups: Sequence[Group]) -> Figure | None:
  """A stacked bar for each group: the mean over its runs.

  Args:
    groups: of one block.

  Returns:
    None where no run has written down its time.
  """
  found = []
  for one in groups:
    each = [parts for run in one.runs if (parts := _parts(run.spent))]
    if each:
      mean = {name: np.mean([x[name] for x in each]) for name in _COLORS}
      found.append((look.short(words.group(one)), mean))
  if not found:
    return None
  longest = max(sum(mean.values()) for _, mean in found)
  size, unit = next(u for u in _UNITS if longest >= u[0] or u[0] == 1.0)
  shown = [name for name in _COLORS if any(mean[name] > 0 for _, mean in found)]
  made, axes = look.figure(
    1, 1, width=10.4, height=1.1 + 0.55 * len(found), legend_rows=2
  )
  (axis,) = axes[0]
  place = np.arange(len(found))
  left = np.zeros(len(found))
  for name in shown:
    values = np.array([mean[name] for _, mean in found]) / size
    color = _COLORS[name]
    axis.barh(place, values, 0.68, left=left, color=color, ec="white", lw=0.8)
    left += values
  for row, (end, (_, mean)) in enumerate(zip(left, found, strict=True)):
    share = mean["step"] / sum(mean.values())
    axis.annotate(
      f"{100 * share:.0f}%",
      (end, row),
      xytext=(6, 0),
      textcoords="offset points",
      va="center",
      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )
  axis.set_yticks(place, [label for label, _ in found])
  axis.invert_yaxis()
  axis.tick_params(axis="y", length=0)
  axis.grid(axis="y", visible=False)
  axis.set_xlim(0, 1.08 * max(left))
  axis.set_xlabel(unit)
  look.legend(
    made,
    {_TITLES[name]: Patch(facecolor=_COLORS[name]) for name in shown},
  )
  return made


def _parts(spent: Mapping | None) -> dict[str, float] | None:
  """Seconds of each part; None where nothing is known."""
  if not spent or sum(spent["seconds"].values()) <= 0:
    return None
  parts = dict(spent["seconds"])
  parts["lost"] = spent["lost_seconds"]
  parts["step"] -= spent["lost_seconds"]
  return {name: float(parts[name]) for name in _COLORS}
