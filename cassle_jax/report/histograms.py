"""Histograms of similarity by what the projector was told."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cassle_jax.report import look, words
from cassle_jax.report.grouping import Group
from cassle_jax.report.results import TOLD

_BINS = 40
# Less than this share of all images is cut off at the left.
_TAIL = 0.005
# That stand beside a panel.
_LETTERS = 18
_LINE = {"color": look.INK, "linewidth": 1.3}
# What t(x) was told -> words and line.
_WRONG = {
  "other": ("another image's", _LINE),
  "neutral": ("neutral", _LINE | {"linestyle": (0, (5, 2))}),
  "noise": ("noise", _LINE | {"linestyle": (0, (1, 1.4))}),
}


def wrong_omega(groups: Sequence[Group], name: str) -> Figure | None:
  """A row for each group, a column for each operation; seeds put together.

  Args:
    groups: of one block.
    name: of the result.

  Returns:
    None where no run has the result.
  """
  shown = [
    (style, found)
    for one, style in zip(groups, look.styles(groups), strict=True)
    if (found := one.data("wrong_omega", name))
  ]
  ops = look.keys(x["ops"] for _, ones in shown for x in ones)
  if not ops:
    return None
  made, axes = look.figure(
    len(shown),
    len(ops),
    width=max(2.35, 5.2 / len(ops)),
    height=2.3,
    sharex="col",
    sharey=True,
    legend_rows=2,
  )
  edges = {op: _edges([x for _, ones in shown for x in ones], op) for op in ops}
  for line, (style, ones) in zip(axes, shown, strict=True):
    for axis, op in zip(line, ops, strict=True):
      found = [x for x in ones if op in x["ops"]]
      if not found:
        axis.set_axis_off()
        continue
      share = {told: _share(found, op, told, edges[op]) for told in TOLD}
      axis.stairs(
        share["true"], edges[op], fill=True, color=style.color, alpha=0.65
      )
      for told, (_, options) in _WRONG.items():
        axis.stairs(share[told], edges[op], **options)
      axis.set_xlim(edges[op][0], edges[op][-1])
      axis.xaxis.set_major_locator(MaxNLocator(3))
      # Most images lie near 1; what a wrong omega does is in the tail.
      axis.set_yscale("log")
      axis.set_ylim(0.04, 100)
      axis.yaxis.set_major_formatter("{x:g}")
      axis.grid(False)
    name = textwrap.wrap(style.label, _LETTERS, max_lines=3, placeholder="...")
    line[0].set_ylabel("\n".join([*name, "images (%)"]))
  for axis, op in zip(axes[0], ops, strict=True):
    axis.set_title(words.operation(op))
  made.supxlabel("cosine of the projections of x and t(x)", fontsize=13)
  handles = {"its own": Patch(facecolor=look.FAINT, alpha=0.65)}
  handles |= {text: Line2D([], [], **line) for text, line in _WRONG.values()}
  look.legend(made, handles, title="The projector of t(x) is told the omega:")
  return made


def rebinned(
  counts: np.ndarray, edges: np.ndarray, new: np.ndarray
) -> np.ndarray:
  """A histogram over other edges; images lie evenly within a bin.

  Args:
    counts: [n].
    edges: [n + 1], rising.
    new: [m + 1], rising.

  Returns:
    [m] float64; what lies outside of `new` is left out.
  """
  below = np.concatenate([[0.0], np.cumsum(counts)])
  return np.diff(np.interp(new, edges, below))


def _share(
  found: Sequence[Mapping], op: str, told: str, edges: np.ndarray
) -> np.ndarray:
  """Percent of all images in each bin, runs put together."""
  counts = [x["ops"][op][told]["histogram"] for x in found]
  total = sum(
    rebinned(each, x["edges"], edges)
    for each, x in zip(counts, found, strict=True)
  )
  return 100 * total / max(np.sum(counts), 1)


def _edges(found: Sequence[Mapping], op: str) -> np.ndarray:
  """Common edges from where the tail of all images begins to the right end."""
  found = [x for x in found if op in x["ops"]]
  low = min(x["edges"][0] for x in found)
  high = max(x["edges"][-1] for x in found)
  fine = np.linspace(low, high, 401)
  total = sum(
    rebinned(told["histogram"], x["edges"], fine)
    for x in found
    for told in x["ops"][op].values()
  )
  begins = np.searchsorted(np.cumsum(total), _TAIL * np.sum(total))
  return np.linspace(fine[min(begins, 380)], high, _BINS + 1)
