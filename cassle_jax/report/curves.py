"""Line charts: training, blocks, strengths, spectra.

Lines are means over seeds, bands the 95% interval; one seed has none. Each
chart is of the groups of one block and of a result's name, or None where no run
has the result.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cassle_jax.evaluation import spectrum as spectrum_lib
from cassle_jax.report import look
from cassle_jax.report.grouping import Group

# More blocks than this are not all named.
_BLOCKS = 6


def training(groups: Sequence[Group]) -> Figure | None:
  """Loss and k-NN accuracy over the steps.

  Thin lines are runs, thick ones their means, over the steps that all of a
  group's runs logged. Long curves are running means over 2% of their points.
  """
  panels = [
    (name, title, factor)
    for name, title, factor in (
      ("loss", "loss", 1.0),
      ("knn_top1", "k-NN accuracy (%)", 100.0),
    )
    if any(run.curves[name][0] for one in groups for run in one.runs)
  ]
  if not panels:
    return None
  made, axes = look.figure(1, len(panels), width=5.2, height=3.6)
  handles = {}
  for axis, (name, title, factor) in zip(axes[0], panels, strict=True):
    for one, style in zip(groups, look.styles(groups), strict=True):
      found = [
        dict(zip(*run.curves[name], strict=True))
        for run in one.runs
        if run.curves[name][0]
      ]
      if not found:
        continue
      shared = sorted(set.intersection(*(set(curve) for curve in found)))
      each = [
        factor * _running_mean(np.array([curve[s] for s in shared]))
        for curve in found
      ]
      options = {"color": style.color, "linestyle": style.line}
      if len(found) > 1:
        for values in each:
          axis.plot(shared, values, linewidth=0.8, alpha=0.55, **options)
      few = len(shared) <= 20
      axis.plot(
        shared,
        np.mean(each, axis=0),
        marker=style.marker if few else None,
        markersize=5,
        **options,
      )
      handles[style.label] = Line2D([], [], **options)
    axis.set_ylabel(title)
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.xaxis.set_major_formatter("{x:,.0f}")
  look.legend(made, handles)
  return made


def depth(groups: Sequence[Group], name: str) -> Figure | None:
  """InfoNCE of each operation along the blocks, a panel for each operation.

  None, too, where there is one block alone.
  """
  found = [one.data("sensitivity", name) for one in groups]
  ops = _keys(x for ones in found for x in ones)
  order = _keys(op for ones in found for x in ones for op in x.values())
  # What only some runs measured comes late above, wherever it belongs.
  last = [block for block in ("features", "projection") if block in order]
  order = [block for block in order if block not in last] + last
  if not ops or len(order) < 2:
    return None
  many = len(order) > _BLOCKS
  place = np.arange(len(order), dtype=np.float64)
  kept = list(range(len(order)))
  if many:
    # The outputs stand apart, and not every block before them is named.
    inner = len(order) - len(last)
    place[inner:] += len(order) / 10 * np.arange(1, len(last) + 1)
    kept = [*range(0, inner, -(-inner // _BLOCKS)), *range(inner, len(order))]
  made, axes = _panels(
    ops,
    "InfoNCE (nats)",
    columns=3 if many else 5,
    least=2.3,
    whole=10.4 if many else 5.2,
    height=3.5,
    sharex=True,
    sharey=True,
  )
  handles = {}
  for op, axis in axes.items():
    for ones, style in zip(found, look.styles(groups), strict=True):
      rows = [[x[op].get(b, np.nan) for b in order] for x in ones if op in x]
      if rows:
        handles[style.label] = _band(axis, place, *look.band(rows), style)
    axis.set_xticks(
      place[kept],
      [order[k] for k in kept],
      rotation=40,
      ha="right",
      rotation_mode="anchor",
    )
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.08)
  axes[ops[0]].set_ylim(bottom=0)
  look.legend(made, handles)
  return made


def strength(groups: Sequence[Group], name: str) -> Figure | None:
  """Similarity of features as one operation gets stronger.

  A group with one seed has the band of that run, over its images.
  """
  found = [one.data("strength", name) for one in groups]
  names = _keys(x for ones in found for x in ones)
  if not names:
    return None
  made, axes = _panels(
    names, "cosine to x", columns=4, least=2.9, whole=5.2, height=2.9
  )
  handles = {}
  for parameter, axis in axes.items():
    unit, drawn = "", None
    for ones, style in zip(found, look.styles(groups), strict=True):
      curves = [x[parameter] for x in ones if parameter in x]
      if not curves:
        continue
      first = curves[0]
      unit, drawn = first.unit or unit, first.trained or drawn
      # Curves over another range do not belong to this mean.
      alike = [x for x in curves if np.array_equal(x.strength, first.strength)]
      mean, half = look.band([x.mean for x in alike])
      if len(alike) == 1:
        half = first.interval
      handles[style.label] = _band(axis, first.strength, mean, half, style)
    if drawn is not None:
      axis.axvspan(*drawn, color=look.BAND, zorder=0, linewidth=0)
    axis.set_xlabel(unit)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_locator(MaxNLocator(4))
    # A curve that hardly falls should look like one.
    low = min(axis.get_ylim()[0], 0.9)
    axis.set_ylim(low, 1.0 + 0.04 * (1.0 - low))
  look.legend(made, handles)
  return made


def spectrum(groups: Sequence[Group], name: str) -> Figure | None:
  """Eigenvalues of the features' covariance, their decay fitted.

  A line for each run; dashed, over the components of the fit, the power law of
  their geometric mean. The legend has the mean of the runs' own exponents.
  """
  made, axes = look.figure(1, 1, width=8.4, height=4.4, legend_rows=0)
  (axis,) = axes[0]
  empty = True
  for one, style in zip(groups, look.styles(groups), strict=True):
    found = one.data("spectrum", name)
    lines = [x.eigenvalues[x.eigenvalues > 0] for x in found]
    lines = [x for x in lines if len(x) > 1]
    if not lines:
      continue
    empty = False
    exponent = look.interval([x.alpha for x in found])
    label = style.label
    if exponent.count:
      label += f": alpha {exponent.mean:.2f}"
      if exponent.count > 1:
        label += f" ± {exponent.half:.2f}"
    for place, values in enumerate(lines):
      axis.plot(
        np.arange(1, len(values) + 1),
        values,
        color=style.color,
        linestyle=style.line,
        linewidth=1.2,
        alpha=0.9,
        label=label if place == 0 else None,
      )
    shared = min(len(x) for x in lines)
    middle = np.exp(np.mean([np.log(x[:shared]) for x in lines], axis=0))
    law = spectrum_lib.power_law(middle)
    if np.isfinite(law.alpha):
      rank = np.arange(
        spectrum_lib.FIRST + 1, min(spectrum_lib.LAST, shared) + 1
      )
      axis.plot(
        rank,
        law.scale * rank**-law.alpha,
        color=look.INK,
        linewidth=1.2,
        linestyle=(0, (4, 2)),
      )
  if empty:
    return None
  axis.set_xscale("log")
  axis.set_yscale("log")
  # Rounding error is no spectrum.
  axis.set_ylim(bottom=max(axis.get_ylim()[0], 1e-8))
  axis.set_xlabel("component")
  axis.set_ylabel("share of the variance")
  axis.legend(loc="lower left")
  return made


def _running_mean(values: np.ndarray) -> np.ndarray:
  """Mean over about 2% of the points around each; at the ends over fewer."""
  half = len(values) // 100
  total = np.concatenate([[0.0], np.cumsum(values)])
  place = np.arange(len(values))
  first = np.maximum(place - half, 0)
  last = np.minimum(place + half + 1, len(values))
  return (total[last] - total[first]) / (last - first)


def _keys(found: Iterable[Mapping[str, Any]]) -> list[str]:
  """Keys that any of them has, in the order they come in."""
  return list(dict.fromkeys(key for one in found for key in one))


def _panels(
  titles: Sequence[str],
  ylabel: str,
  *,
  columns: int,
  least: float,
  whole: float,
  height: float,
  **options: Any,
) -> tuple[Figure, dict[str, Axes]]:
  """A figure and its panels by title, at most so many columns.

  A panel is at least `least` inches wide, and all together `whole`.
  """
  columns = min(len(titles), columns)
  made, axes = look.figure(
    -(-len(titles) // columns),
    columns,
    width=max(least, whole / columns),
    height=height,
    **options,
  )
  for line in axes:
    line[0].set_ylabel(ylabel)
  shown, spare = np.split(axes.ravel(), [len(titles)])
  for axis in spare:
    axis.remove()
  # Where axes are shared, the panels above are now the lowest.
  for axis in shown[-columns:]:
    axis.tick_params(axis="x", labelbottom=True)
  for axis, title in zip(shown, titles, strict=True):
    axis.set_title(title)
  return made, dict(zip(titles, shown, strict=True))


def _band(
  axis: Axes,
  x: np.ndarray,
  mean: np.ndarray,
  half: np.ndarray,
  style: look.Style,
) -> Line2D:
  """Draws a mean and its interval; what the legend shows of it."""
  options = {"color": style.color, "linestyle": style.line}
  marker = style.marker if len(x) <= 8 else None
  axis.plot(x, mean, marker=marker, markersize=5, **options)
  if np.isfinite(half).any():
    axis.fill_between(
      x, mean - half, mean + half, color=style.color, alpha=0.2, linewidth=0
    )
  return Line2D([], [], **options)
