"""Bar charts: operations or fields side by side, a bar for each awareness.

Bars are means over seeds, whiskers the 95% interval; one seed has none.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cassle_jax.report import look
from cassle_jax.report.grouping import Group
from cassle_jax.report.results import Score

# For each group and each of its seeds {name: number}.
Values = Sequence[Sequence[Mapping[str, float]]]
_FILL = 0.82
_SLANT = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}


def sensitivity(groups: Sequence[Group], name: str) -> Figure | None:
  """InfoNCE of each operation, of features and of projections.

  Args:
    groups: of one block.
    name: of the result.

  Returns:
    None where no run has the result.
  """
  panels = [("features", "Features"), ("projection", "Projections")]
  found = {
    block: [
      [
        {op: x[block] for op, x in result.data.items() if block in x}
        for _, result in one.of("sensitivity", name)
      ]
      for one in groups
    ]
    for block, _ in panels
  }
  panels = [panel for panel in panels if _names(found[panel[0]])]
  if not panels:
    return None
  made, axes = look.figure(1, len(panels), width=5.2, height=3.6, sharey=True)
  for axis, (block, title) in zip(axes[0], panels, strict=True):
    _draw(axis, groups, found[block])
    axis.set_title(title)
  # Shared limits follow the data until they are set.
  axes[0, 0].set_ylim(bottom=0)
  axes[0, 0].set_ylabel("InfoNCE (nats)")
  look.legend(made, _handles(groups, found))
  return made


def drops(groups: Sequence[Group], name: str) -> Figure | None:
  """Cosine that projections lose to a wrong omega, by operation.

  Args:
    groups: of one block.
    name: of the result.

  Returns:
    None where no run has the result.
  """
  panels = [
    ("other", "Told another image's omega"),
    ("neutral", "Told the neutral omega"),
    ("noise", "Told noise"),
  ]
  found = {
    wrong: [
      [
        {
          op: x["true"].mean - x[wrong].mean
          for op, x in result.data.ops.items()
        }
        for _, result in one.of("wrong_omega", name)
      ]
      for one in groups
    ]
    for wrong, _ in panels
  }
  if not _names(found["other"]):
    return None
  made, axes = look.figure(1, 3, width=4.2, height=3.6, sharey=True)
  for axis, (wrong, title) in zip(axes[0], panels, strict=True):
    _draw(axis, groups, found[wrong], slant=True)
    axis.set_title(title)
    axis.axhline(0, color=look.FAINT, linewidth=1)
  axes[0, 0].set_ylabel("cosine lost")
  look.legend(made, _handles(groups, found))
  return made


def probe(groups: Sequence[Group], name: str) -> Figure | None:
  """Probe scores of each field, from one view and from pairs.

  R² has bars from 0, AUC from 0.5: a guess has no bar.

  Args:
    groups: of one block.
    name: of the result.

  Returns:
    None where no run has the result.
  """
  rows = [
    (given, title)
    for given, title in (
      ("single", "omega from one view"),
      ("pairs", "its difference from both views"),
    )
    if any(r.data[given] for one in groups for _, r in one.of("probe", name))
  ]
  scores = [
    score
    for score in ("r2", "auc")
    if any(
      x.score == score
      for one in groups
      for _, r in one.of("probe", name)
      for given, _ in rows
      for x in r.data[given].values()
    )
  ]
  if not rows or not scores:
    return None
  # As wide as its number of fields asks for.
  most = [
    max(len(_names(_scored(groups, name, given, score))) for given, _ in rows)
    for score in scores
  ]
  made, axes = look.figure(
    len(rows),
    len(scores),
    width=10.4 / len(scores),
    height=3.4,
    width_ratios=[count + 0.8 for count in most],
    sharey="col",
  )
  every = {}
  for line, (given, title) in zip(axes, rows, strict=True):
    for axis, score in zip(line, scores, strict=True):
      found = _scored(groups, name, given, score)
      every[given, score] = found
      base = {"r2": 0.0, "auc": 0.5}[score]
      _draw(axis, groups, found, base=base)
      points = _scored(groups, name, given, score, kind="mlp")
      _draw(axis, groups, points, points=True)
      axis.axhline(base, color=look.FAINT, linewidth=1)
      axis.set_ylabel({"r2": "R²", "auc": "AUC"}[score])
    line[0].set_title(title[0].upper() + title[1:])
  handles = _handles(groups, every)
  handles["three layers"] = Line2D(
    [], [], linestyle="", marker="D", color="white", markeredgecolor=look.INK
  )
  look.legend(made, handles)
  return made


def _scored(
  groups: Sequence[Group],
  name: str,
  given: str,
  score: str,
  kind: str = "linear",
) -> Values:
  def number(x: Score) -> float:
    return x.linear if kind == "linear" else x.mlp

  return [
    [
      {f: number(x) for f, x in r.data[given].items() if x.score == score}
      for _, r in one.of("probe", name)
    ]
    for one in groups
  ]


def _names(values: Values) -> list[str]:
  """Names that any seed of any group has, in the order they come in."""
  return list(
    dict.fromkeys(name for seeds in values for one in seeds for name in one)
  )


def _draw(
  axis: Axes,
  groups: Sequence[Group],
  values: Values,
  *,
  base: float = 0.0,
  points: bool = False,
  slant: bool = False,
) -> None:
  """Draws one panel: bars from `base`, or diamonds where the bars end."""
  names = _names(values)
  shown = [place for place, seeds in enumerate(values) if any(seeds)]
  width = _FILL / max(len(shown), 1)
  styles = look.styles(groups)
  for turn, place in enumerate(shown):
    style = styles[place]
    found = [
      look.interval([one[name] for one in values[place] if name in one])
      for name in names
    ]
    x = np.arange(len(names)) + (turn - (len(shown) - 1) / 2) * width
    mean = np.array([bar.mean for bar in found])
    half = np.array([bar.half for bar in found])
    if points:
      axis.plot(
        x,
        mean,
        linestyle="",
        marker="D",
        markersize=5.5,
        color="white",
        markeredgecolor=look.INK,
        markeredgewidth=1.1,
        zorder=4,
      )
      continue
    axis.bar(
      x,
      mean - base,
      0.94 * width,
      bottom=base,
      color=style.color,
      hatch=style.hatch,
      edgecolor="white",
      linewidth=0.8,
    )
    known = ~np.isnan(half)
    axis.errorbar(
      x[known],
      mean[known],
      half[known],
      linestyle="",
      ecolor=look.INK,
      elinewidth=1.3,
      capsize=3,
      zorder=3,
    )
  # Whoever draws points over bars keeps the bars' names.
  if not points:
    axis.set_xticks(
      np.arange(len(names)),
      names,
      **(_SLANT if slant else {}),
    )
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.tick_params(axis="x", length=0)
    axis.grid(axis="x", visible=False)


def _handles(
  groups: Sequence[Group], panels: Mapping[object, Values]
) -> dict[str, Patch]:
  """What the legend explains: the groups that have data."""
  return {
    style.label: Patch(
      facecolor=style.color, hatch=style.hatch, edgecolor="white"
    )
    for place, style in enumerate(look.styles(groups))
    if any(any(values[place]) for values in panels.values())
  }
