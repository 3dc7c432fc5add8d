"""Line charts: training, blocks, strengths, spectra.

Lines are means over seeds, bands the 95% interval; one seed has none. Each
chart is of the groups of one block and of a result's name, or None where no run
has the result.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cassle_jax.evaluation import spectrum as spectrum_lib
from cassle_jax.report import look, words
from cassle_jax.report.grouping import Group

# More blocks than this are not all named.
_BLOCKS = 6


def training(groups: Sequence[Group]) -> Figure | None:
  """Loss and k-NN accuracy over the steps.

  Thin lines are runs, thick ones their means, over the steps that all of a
  group's runs logged. Long curves are running means over 2% of their points.
  """
  panels = [
    (ylabel, factor, found)
    for name, ylabel, factor in (
      ("loss", "loss", 1.0),
      ("knn_top1", "k-NN accuracy (%)", 100.0),
    )
    if any(found := [_logged(one, name) for one in groups])
  ]
  if not panels:
    return None
  made, axes = look.figure(1, len(panels), width=5.2, height=3.6)
  handles = {}
  for axis, (ylabel, factor, found) in zip(axes[0], panels, strict=True):
    for curves, style in zip(found, look.styles(groups), strict=True):
      steps = sorted(set.intersection(*map(set, curves)) if curves else ())
      if not steps:
        continue
      each = [
        factor * _running_mean(np.array([curve[step] for step in steps]))
        for curve in curves
      ]
      options = {"color": style.color, "linestyle": style.line}
      if len(each) > 1:
        axis.plot(steps, np.transpose(each), lw=0.8, alpha=0.55, **options)
      marker = style.marker if len(steps) <= 20 else None
      axis.plot(
        steps, np.mean(each, axis=0), marker=marker, markersize=5, **options
      )
      handles[style.label] = Line2D([], [], **options)
    axis.set_ylabel(ylabel)
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.xaxis.set_major_formatter("{x:,.0f}")
  look.legend(made, handles)
  return made


def depth(groups: Sequence[Group], name: str) -> Figure | None:
  """InfoNCE of each operation along the blocks, a panel for each operation.

  None, too, where there is one block alone.
  """
  found = [[x["ops"] for x in one.data("sensitivity", name)] for one in groups]
  every = [x for ones in found for x in ones]
  ops = look.keys(every)
  order = look.keys(blocks for x in every for blocks in x.values())
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
      rows = [
        [x[op].get(block, {}).get("infonce", np.nan) for block in order]
        for x in ones
        if op in x
      ]
      if rows:
        handles[style.label] = _band(axis, place, *look.band(rows), style)
    axis.set_title(words.operation(op))
    axis.set_xticks(place[kept], [order[k] for k in kept], **look.SLANTED)
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.08)
  axes[ops[0]].set_ylim(bottom=0)
  look.legend(made, handles)
  return made


def strength(groups: Sequence[Group], name: str) -> Figure | None:
  """Similarity of features as one operation gets stronger.

  A group with one seed has the band of that run, over its images.
  """
  found = [[x["curves"] for x in one.data("strength", name)] for one in groups]
  names = look.keys(x for ones in found for x in ones)
  if not names:
    return None
  made, axes = _panels(
    names, "cosine to x", columns=4, least=2.9, whole=5.2, height=2.9
  )
  handles = {}
  for parameter, axis in axes.items():
    unit, drawn = "", ()
    for ones, style in zip(found, look.styles(groups), strict=True):
      curves = [x[parameter] for x in ones if parameter in x]
      if not curves:
        continue
      first = curves[0]
      unit = first["unit"] or unit
      drawn = first["trained"] if len(first["trained"]) else drawn
      # Curves over another range do not belong to this mean.
      x = first["strength"]
      alike = [c["mean"] for c in curves if np.array_equal(c["strength"], x)]
      mean, half = look.band(alike)
      if len(alike) == 1:
        half = first["interval"]
      handles[style.label] = _band(axis, x, mean, half, style)
    axis.set_title(parameter)
    if len(drawn):
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
  for one, style in zip(groups, look.styles(groups), strict=True):
    found = one.data("spectrum", name)
    lines = [x["eigenvalues"] for x in found]
    lines = [x[x > 0] for x in lines if np.sum(x > 0) > 1]
    if not lines:
      continue
    exponent = look.interval([x["alpha"] for x in found])
    label = style.label
    if exponent.count:
      label += f": alpha {words.spread(exponent, 2)}"
    options = {"color": style.color, "linestyle": style.line, "linewidth": 1.2}
    for values in lines:
      rank = np.arange(1, len(values) + 1)
      axis.plot(rank, values, alpha=0.9, label=label, **options)
      label = None
    shared = min(len(x) for x in lines)
    middle = np.exp(np.mean([np.log(x[:shared]) for x in lines], axis=0))
    law = spectrum_lib.power_law(middle)
    if np.isfinite(law.alpha):
      last = min(spectrum_lib.LAST, shared)
      rank = np.arange(spectrum_lib.FIRST + 1, last + 1)
      fitted = law.scale * rank**-law.alpha
      axis.plot(rank, fitted, color=look.INK, lw=1.2, linestyle=(0, (4, 2)))
  if not axis.lines:
    return None
  axis.set_xscale("log")
  axis.set_yscale("log")
  # Rounding error is no spectrum.
  axis.set_ylim(bottom=max(axis.get_ylim()[0], 1e-8))
  axis.set_xlabel("component")
  axis.set_ylabel("share of the variance")
  axis.legend(loc="lower left")
  return made


def _logged(one: Group, name: str) -> list[dict[int, float]]:
  """{step: value} of the runs that logged it."""
  curves = [run.curves[name] for run in one.runs]
  return [dict(zip(*each, strict=True)) for each in curves if each[0]]


def _running_mean(values: np.ndarray) -> np.ndarray:
  """Mean over about 2% of the points around each; at the ends over fewer."""
  window = np.ones(2 * (len(values) // 100) + 1)
  total, count = (
    np.convolve(each, window, mode="same")
    for each in (values, np.ones(len(values)))
  )
  return total / count


def _panels(
  names: Sequence[str],
  ylabel: str,
  *,
  columns: int,
  least: float,
  whole: float,
  height: float,
  **options: Any,
) -> tuple[Figure, dict[str, Axes]]:
  """A figure and its panels by name, at most so many columns.

  A panel is at least `least` inches wide, and all together `whole`.
  """
  columns = min(len(names), columns)
  made, axes = look.figure(
    -(-len(names) // columns),
    columns,
    width=max(least, whole / columns),
    height=height,
    **options,
  )
  for line in axes:
    line[0].set_ylabel(ylabel)
  shown, spare = np.split(axes.ravel(), [len(names)])
  for axis in spare:
    axis.remove()
  # Where axes are shared, the panels above are now the lowest.
  for axis in shown[-columns:]:
    axis.tick_params(axis="x", labelbottom=True)
  return made, dict(zip(names, shown, strict=True))


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
