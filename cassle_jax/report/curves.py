"""Line charts: training, blocks, strengths, spectra.

Lines are means over seeds, bands the 95% interval; one seed has none.
"""

from collections.abc import Sequence

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

  Args:
    groups: of one block.

  Returns:
    None where no run has logged any.
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

  Args:
    groups: of one block.
    name: of the result.

  Returns:
    None where no run has the result, or where there is one block alone.
  """
  found = [[r.data for _, r in one.of("sensitivity", name)] for one in groups]
  ops = list(dict.fromkeys(op for ones in found for x in ones for op in x))
  order = list(
    dict.fromkeys(
      block for ones in found for x in ones for op in x.values() for block in op
    )
  )
  # What only some runs measured comes late above, wherever it belongs.
  last = [block for block in ("features", "projection") if block in order]
  order = [block for block in order if block not in last] + last
  if not ops or len(order) < 2:
    return None
  many = len(order) > _BLOCKS
  columns = min(len(ops), 3 if many else 5)
  rows = -(-len(ops) // columns)
  place = np.arange(len(order), dtype=np.float64)
  kept = list(range(len(order)))
  if many:
    # The outputs stand apart, and not every block before them is named.
    gap = len(order) / 10
    place[len(order) - len(last) :] += gap * np.arange(1, len(last) + 1)
    inner = len(order) - len(last)
    step = -(-inner // _BLOCKS)
    kept = [*range(0, inner, step), *range(inner, len(order))]
  made, axes = look.figure(
    rows,
    columns,
    width=max(2.3, 5.2 / columns, 10.4 / columns if many else 0),
    height=3.5,
    sharex=True,
    sharey=True,
  )
  handles = {}
  for axis, op in zip(axes.ravel(), ops, strict=False):
    for ones, style in zip(found, look.styles(groups), strict=True):
      rows_of = [[x[op].get(b, np.nan) for b in order] for x in ones if op in x]
      if rows_of:
        _band(axis, place, *look.band(rows_of), style)
        handles[style.label] = _line(style)
    axis.set_title(op)
    axis.set_xticks(
      place[kept],
      [order[k] for k in kept],
      rotation=40,
      ha="right",
      rotation_mode="anchor",
    )
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.08)
  axes[0, 0].set_ylim(bottom=0)
  _spare(axes, len(ops))
  for line in axes:
    line[0].set_ylabel("InfoNCE (nats)")
  look.legend(made, handles)
  return made


def strength(groups: Sequence[Group], name: str) -> Figure | None:
  """Similarity of features as one operation gets stronger.

  A group with one seed has the band of that run, over its images.

  Args:
    groups: of one block.
    name: of the result.

  Returns:
    None where no run has the result.
  """
  found = [[r.data for _, r in one.of("strength", name)] for one in groups]
  names = list(dict.fromkeys(n for ones in found for x in ones for n in x))
  if not names:
    return None
  columns = min(len(names), 4)
  rows = -(-len(names) // columns)
  made, axes = look.figure(
    rows, columns, width=max(2.9, 5.2 / columns), height=2.9
  )
  handles = {}
  for axis, parameter in zip(axes.ravel(), names, strict=False):
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
      _band(axis, first.strength, mean, half, style)
      handles[style.label] = _line(style)
    if drawn is not None:
      axis.axvspan(*drawn, color=look.BAND, zorder=0, linewidth=0)
    axis.set_title(parameter)
    axis.set_xlabel(unit)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_locator(MaxNLocator(4))
    # A curve that hardly falls should look like one.
    low = min(axis.get_ylim()[0], 0.9)
    axis.set_ylim(low, 1.0 + 0.04 * (1.0 - low))
  _spare(axes, len(names))
  for line in axes:
    line[0].set_ylabel("cosine to x")
  look.legend(made, handles)
  return made


def spectrum(groups: Sequence[Group], name: str) -> Figure | None:
  """Eigenvalues of the features' covariance, their decay fitted.

  A line for each run; dashed, over the components of the fit, the power law of
  their geometric mean. The legend has the mean of the runs' own exponents.

  Args:
    groups: of one block.
    name: of the result.

  Returns:
    None where no run has the result.
  """
  made, axes = look.figure(1, 1, width=8.4, height=4.4, legend_rows=0)
  (axis,) = axes[0]
  empty = True
  for one, style in zip(groups, look.styles(groups), strict=True):
    found = [r.data for _, r in one.of("spectrum", name)]
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


def _band(
  axis: Axes,
  x: np.ndarray,
  mean: np.ndarray,
  half: np.ndarray,
  style: look.Style,
) -> None:
  axis.plot(
    x,
    mean,
    color=style.color,
    linestyle=style.line,
    marker=style.marker if len(x) <= 8 else None,
    markersize=5,
  )
  if np.isfinite(half).any():
    axis.fill_between(
      x, mean - half, mean + half, color=style.color, alpha=0.2, linewidth=0
    )


def _line(style: look.Style) -> Line2D:
  return Line2D([], [], color=style.color, linestyle=style.line)


def _spare(axes: np.ndarray, used: int) -> None:
  """Takes away the panels that the last row does not need."""
  for axis in axes.ravel()[used:]:
    axis.remove()
  # Where axes are shared, the panels above are now the lowest.
  for axis in axes.ravel()[max(used - axes.shape[1], 0) : used]:
    axis.tick_params(axis="x", labelbottom=True)
