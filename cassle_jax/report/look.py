"""How charts look: one colour for each awareness, type that a talk can show.

The colours are those of `awareness.AWARENESS`. Variants of one awareness differ
in hatching and dashes, not in colour.
"""

import collections
import functools
import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cassle_jax.awareness import AWARENESS
from cassle_jax.evaluation import confidence
from cassle_jax.report import words
from cassle_jax.report.grouping import Group

INK, FAINT, GRID, BAND = "#202124", "#5f6368", "#e3e5e9", "#f0f1f4"
_OTHER = "#3c3c3c"
# Of a label.
_LETTERS = 60
# Dashes, hatching and marker.
_VARIANTS = (
  ("-", "", "o"),
  ("--", "///", "s"),
  (":", "...", "^"),
  ("-.", "xxx", "D"),
)
_RC = {
  "font.family": "DejaVu Sans",
  # Names of runs may hold anything, dollar signs too.
  "text.parse_math": False,
  "font.size": 13,
  "axes.titlesize": 13,
  "axes.titlelocation": "left",
  "axes.labelsize": 13,
  "axes.edgecolor": FAINT,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": GRID,
  "text.color": INK,
  "axes.labelcolor": INK,
  "xtick.color": FAINT,
  "ytick.color": FAINT,
  "xtick.labelcolor": INK,
  "ytick.labelcolor": INK,
  "xtick.labelsize": 12,
  "ytick.labelsize": 12,
  "legend.frameon": False,
  "legend.fontsize": 13,
  "hatch.linewidth": 1.2,
  "lines.linewidth": 2.2,
}
# The look holds for what is drawn, and saved, inside `with look.context():`.
context = functools.partial(matplotlib.rc_context, _RC)
# Of labels below an axis that are too long to stand beside each other.
SLANTED = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}


class Style(NamedTuple):
  """How a group is drawn in every chart.

  Attributes:
    color: of its awareness.
    line: dashes of its variant.
    hatch: hatching of its variant.
    marker: of its variant.
    label: its name in the legend.
  """

  color: str
  line: str
  hatch: str
  marker: str
  label: str


def styles(groups: Sequence[Group]) -> list[Style]:
  """Styles of the groups of one block, in their order."""
  found: list[Style] = []
  turns = collections.Counter()
  for one in groups:
    row = AWARENESS.get(one.awareness)
    color = _OTHER if row is None else row.color
    variant = _VARIANTS[turns[one.awareness] % len(_VARIANTS)]
    found.append(Style(color, *variant, short(words.group(one))))
    turns[one.awareness] += 1
  return found


def short(label: str) -> str:
  """A label that leaves room for the chart."""
  label = " ".join(label.split())
  return label if len(label) <= _LETTERS else f"{label[:_LETTERS]}..."


def figure(
  rows: int,
  columns: int,
  *,
  width: float,
  height: float,
  legend_rows: int = 1,
  **options: Any,
) -> tuple[Figure, np.ndarray]:
  """A figure of panels of width x height inches, with room for a legend.

  Args:
    rows: of panels.
    columns: of panels.
    width: of a panel, in inches.
    height: of a panel, in inches.
    legend_rows: lines of the legend above the panels.
    **options: of `Figure.subplots`.

  Returns:
    The figure and its axes, [rows, columns].
  """
  made = Figure(
    figsize=(columns * width, rows * height + 0.35 * legend_rows),
    layout="constrained",
  )
  made.get_layout_engine().set(h_pad=0.09, w_pad=0.07)
  return made, made.subplots(rows, columns, squeeze=False, **options)


def legend(
  made: Figure, handles: Mapping[str, Any], *, title: str | None = None
) -> None:
  """One legend above all panels, from {label: what it explains}."""
  if not handles:
    return
  # As many beside each other as fit: about 0.11 inches a letter, and a handle.
  longest = max(len(label) for label in handles)
  fit = int(made.get_figwidth() / (0.11 * longest + 0.7))
  made.legend(
    list(handles.values()),
    list(handles),
    loc="outside upper left",
    ncols=max(1, min(len(handles), fit)),
    title=title,
    alignment="left",
    handlelength=1.6,
    columnspacing=1.6,
    borderpad=0.1,
  )


def keys(found: Iterable[Mapping[str, Any]]) -> list[str]:
  """Keys that any of them has, in the order they come in."""
  return list(dict.fromkeys(key for one in found for key in one))


def png(made: Figure) -> bytes:
  """The figure as a PNG; the same figure gives the same bytes."""
  buffer = io.BytesIO()
  with warnings.catch_warnings():
    # Names in scripts that the font lacks are drawn as boxes.
    warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
    made.savefig(
      buffer, dpi=160, facecolor="white", metadata={"Software": None}
    )
  return buffer.getvalue()


def interval(values: Sequence[float]) -> confidence.Interval:
  """Mean and interval over seeds, of the values that are known."""
  return confidence.interval([x for x in values if not math.isnan(x)])


def band(rows: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
  """Mean and half-width at each point of curves, one a seed; nan unknown."""
  found = [interval(values) for values in zip(*rows, strict=True)]
  return np.array([x.mean for x in found]), np.array([x.half for x in found])
