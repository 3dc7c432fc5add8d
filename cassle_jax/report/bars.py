"""Bar charts: operations or fields side by side, a bar for each awareness.

Bars are means over seeds, whiskers the 95% interval; one seed has none. Each
chart is of the groups of one block and of a result's name, or None where no run
has the result.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cassle_jax.report import look, words
from cassle_jax.report.grouping import Group

# For each group and each of its seeds {name: number}.
Values = Sequence[Sequence[Mapping[str, float]]]
# Of the data of one result.
Read = Callable[[Any], Mapping[str, float]]
_FILL = 0.82
_DIAMOND = {
  "linestyle": "",
  "marker": "D",
  "color": "white",
  "markeredgecolor": look.INK,
  "markeredgewidth": 1.1,
}
# What a guess scores, where the bars begin.
_GUESS = {"r2": 0.0, "auc": 0.5}


def sensitivity(groups: Sequence[Group], name: str) -> Figure | None:
  """InfoNCE of each operation, of features and of projections."""

  def of(block: str) -> Read:
    return lambda found: {
      op: x[block]["infonce"] for op, x in found["ops"].items() if block in x
    }

  reads = {"Features": of("features"), "Projections": of("projection")}
  made = _by_operation(
    groups, "sensitivity", name, reads, "InfoNCE (nats)", width=5.2
  )
  if made is not None:
    # Shared limits follow the data until they are set.
    made.axes[0].set_ylim(bottom=0)
  return made


def drops(groups: Sequence[Group], name: str) -> Figure | None:
  """Cosine that projections lose to a wrong omega, by operation."""

  def to(wrong: str) -> Read:
    return lambda found: {
      op: x["true"]["mean"] - x[wrong]["mean"] for op, x in found["ops"].items()
    }

  reads = {
    "Told another image's omega": to("other"),
    "Told the neutral omega": to("neutral"),
    "Told noise": to("noise"),
  }
  made = _by_operation(
    groups, "wrong_omega", name, reads, "cosine lost", width=4.2
  )
  for axis in made.axes if made is not None else ():
    axis.axhline(0, color=look.FAINT, linewidth=1)
  return made


def probe(groups: Sequence[Group], name: str) -> Figure | None:
  """Probe scores of each field, from one view and from pairs.

  R² has bars from 0, AUC from 0.5: a guess has no bar.
  """

  def scored(given: str, score: str, kind: str) -> Values:
    return _values(
      groups,
      "probe",
      name,
      lambda found: {
        field: x[kind]
        for field, x in found[given].items()
        if x["score"] == score
      },
    )

  titles = {
    "single": "Omega from one view",
    "pairs": "Its difference from both views",
  }
  panels = {(g, s): scored(g, s, "linear") for g in titles for s in _GUESS}
  counts = {key: len(_names(values)) for key, values in panels.items()}
  rows = [g for g in titles if any(counts[g, s] for s in _GUESS)]
  scores = [s for s in _GUESS if any(counts[g, s] for g in rows)]
  if not rows:
    return None
  made, axes = look.figure(
    len(rows),
    len(scores),
    width=10.4 / len(scores),
    height=3.4,
    # As wide as its number of fields asks for.
    width_ratios=[max(counts[g, s] for g in rows) + 0.8 for s in scores],
    sharey="col",
  )
  for line, given in zip(axes, rows, strict=True):
    for axis, score in zip(line, scores, strict=True):
      _bars(axis, groups, panels[given, score], _GUESS[score])
      for _, x, mean, _ in _placed(groups, scored(given, score, "mlp")):
        axis.plot(x, mean, **_DIAMOND, markersize=5.5, zorder=4)
      axis.axhline(_GUESS[score], color=look.FAINT, linewidth=1)
      axis.set_ylabel({"r2": "R²", "auc": "AUC"}[score])
    line[0].set_title(titles[given])
  handles = _handles(groups, panels.values())
  handles["three layers"] = Line2D([], [], **_DIAMOND)
  look.legend(made, handles)
  return made


def _values(
  groups: Sequence[Group], task: str, name: str, read: Read
) -> Values:
  return [[read(x) for x in one.data(task, name)] for one in groups]


def _names(values: Values) -> list[str]:
  """Names that any seed of any group has, in the order they come in."""
  return look.keys(one for seeds in values for one in seeds)


def _by_operation(
  groups: Sequence[Group],
  task: str,
  name: str,
  reads: Mapping[str, Read],
  ylabel: str,
  *,
  width: float,
) -> Figure | None:
  """A panel for each title that has data, all of one height."""
  panels = {
    title: _values(groups, task, name, read) for title, read in reads.items()
  }
  panels = {title: values for title, values in panels.items() if _names(values)}
  if not panels:
    return None
  made, axes = look.figure(1, len(panels), width=width, height=4.0, sharey=True)
  for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
    _bars(axis, groups, values)
    axis.set_xticks(
      axis.get_xticks(), map(words.operation, _names(values)), **look.SLANTED
    )
    axis.set_title(title)
  axes[0, 0].set_ylabel(ylabel)
  look.legend(made, _handles(groups, panels.values()))
  return made


def _placed(
  groups: Sequence[Group], values: Values
) -> Iterator[tuple[look.Style, np.ndarray, np.ndarray, np.ndarray]]:
  """Style, places, means and half-widths of the groups that have data."""
  names = _names(values)
  shown = [
    (style, seeds)
    for style, seeds in zip(look.styles(groups), values, strict=True)
    if any(seeds)
  ]
  for turn, (style, seeds) in enumerate(shown):
    shift = (turn - (len(shown) - 1) / 2) * _FILL / len(shown)
    rows = [[one.get(name, np.nan) for name in names] for one in seeds]
    yield style, np.arange(len(names)) + shift, *look.band(rows)


def _bars(
  axis: Axes, groups: Sequence[Group], values: Values, base: float = 0.0
) -> None:
  """Draws one panel: bars from `base`, named below."""
  width = _FILL / max(sum(map(any, values)), 1)
  for style, x, mean, half in _placed(groups, values):
    axis.bar(
      x, mean - base, 0.94 * width, bottom=base, linewidth=0.8, **_filled(style)
    )
    known = ~np.isnan(half)
    axis.errorbar(
      x[known],
      mean[known],
      half[known],
      fmt="none",
      capsize=3,
      zorder=3,
      ecolor=look.INK,
      elinewidth=1.3,
    )
  names = _names(values)
  axis.set_xticks(np.arange(len(names)), names)
  axis.set_xlim(-0.6, len(names) - 0.4)
  axis.tick_params(axis="x", length=0)
  axis.grid(axis="x", visible=False)


def _filled(style: look.Style) -> dict[str, str]:
  return {"facecolor": style.color, "hatch": style.hatch, "edgecolor": "white"}


def _handles(
  groups: Sequence[Group], panels: Iterable[Values]
) -> dict[str, Any]:
  """What the legend explains: the groups that have data."""
  return {
    style.label: Patch(**_filled(style))
    for style, *each in zip(look.styles(groups), *panels, strict=True)
    if any(map(any, each))
  }
