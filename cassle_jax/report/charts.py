"""Charts of a report, one colour for each awareness throughout.

Each takes runs by kind and returns a figure, or None where there are no data.
The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cassle_jax.evaluation import confidence
from cassle_jax.report.runs import Kind, Run

Groups = Mapping[Kind, Sequence[Run]]

COLORS = {
  "vanilla": "#5f6368",
  "cassle": "#d55e00",
  "augself": "#0072b2",
  "cassle+augself": "#cc79a7",
  "ifm": "#e69f00",
  "looc": "#009e73",
  "ai": "#56b4e9",
}
_STYLES = ("-", "--", ":", "-.")
_LOOK = {
  "font.size": 12,
  "axes.titlesize": 12,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": "#e4e6ea",
  "axes.axisbelow": True,
  "figure.dpi": 130,
}
# What t(x) was told -> colour and words.
_TOLD = {
  "true": ("#d55e00", "its own"),
  "other": ("#0072b2", "another image's"),
  "neutral": ("#009e73", "neutral"),
  "noise": ("#5f6368", "noise"),
}


def training(groups: Groups) -> Figure | None:
  """Loss and k-NN accuracy over the steps, a line for each run."""
  panels = [
    ("loss", "loss", 1.0),
    ("knn_top1", "k-NN accuracy on the way (%)", 100.0),
  ]
  panels = [
    panel
    for panel in panels
    if any(_curve(run, panel[0])[0] for runs in groups.values() for run in runs)
  ]
  if not panels:
    return None
  figure, axes = _figure(len(panels))
  for axis, (key, title, factor) in zip(axes, panels, strict=True):
    for kind, runs in groups.items():
      for number, run in enumerate(runs):
        steps, values = _curve(run, key)
        axis.plot(
          steps,
          factor * np.array(values),
          color=_color(kind),
          linestyle=_style(kind, groups),
          marker="o" if key == "knn_top1" else None,
          markersize=3,
          linewidth=1.3,
          label=_label(kind, groups) if number == 0 else None,
        )
    axis.set_title(title, loc="left")
    axis.set_xlabel("step")
  _legend(figure, axes)
  return figure


def sensitivity(groups: Groups) -> Figure | None:
  """InfoNCE for each operation, at the backbone's and projector's output."""
  panels = [
    ("features", "InfoNCE of features (nats)"),
    ("projection", "InfoNCE of projections (nats)"),
  ]

  def value(block: str) -> Callable[[dict], dict[str, float]]:
    return lambda record: {
      operation: blocks[block]["infonce"]
      for operation, blocks in record["details"]["ops"].items()
      if block in blocks
    }

  return _bars(groups, "sensitivity", [(t, value(b)) for b, t in panels])


def probe(groups: Groups) -> Figure | None:
  """Scores of linear probes for each field, single and of pairs."""

  words = {"r2": "R²", "auc": "AUC"}

  def value(given: str) -> Callable[[dict], dict[str, float]]:
    return lambda record: {
      f"{field}\n({words[scores['score']]})": scores["linear"]
      for field, scores in record["details"].get(given, {}).items()
    }

  return _bars(
    groups,
    "probe",
    [
      ("omega predicted from one view's features", value("single")),
      ("difference of omegas, from both views", value("pairs")),
    ],
  )


def wrong_omega(groups: Groups) -> Figure | None:
  """Histograms of similarity by what the projector is told, all operations."""
  shown = {
    kind: records
    for kind, runs in groups.items()
    if (records := _records(runs, "wrong_omega"))
  }
  if not shown:
    return None
  figure, axes = _figure(len(shown))
  for axis, (kind, records) in zip(axes, shown.items(), strict=True):
    for told, (color, words) in _TOLD.items():
      low = min(record["details"]["edges"][0] for record in records)
      edges = np.linspace(low, 1.0, 41)
      counts = np.zeros(40)
      for record in records:
        own = np.array(record["details"]["edges"])
        for operation in record["details"]["ops"].values():
          middle = (own[1:] + own[:-1]) / 2
          counts += np.histogram(
            middle, edges, weights=operation[told]["histogram"]
          )[0]
      axis.stairs(
        counts / max(counts.sum(), 1),
        edges,
        color=color,
        linewidth=1.8,
        label=words,
      )
    axis.set_title(_label(kind, groups), loc="left")
    axis.set_xlabel("cosine of projections of x and t(x)")
    axis.set_yscale("log")
  axes[0].set_ylabel("share of the images")
  figure.legend(
    *axes[0].get_legend_handles_labels(),
    loc="outside upper center",
    ncols=4,
    title="t(x)'s projector is told",
    frameon=False,
  )
  return figure


def strength(groups: Groups) -> Figure | None:
  """Similarity of features along each parameter, bands over seeds."""
  curves = [
    name
    for runs in groups.values()
    for record in _records(runs, "strength")
    for name in record["details"]["curves"]
  ]
  names = list(dict.fromkeys(curves))
  if not names:
    return None
  figure, axes = _figure(len(names), columns=4, width=3.2, height=2.7)
  for axis, name in zip(axes, names, strict=False):
    for kind, runs in groups.items():
      found = [
        record["details"]["curves"][name]
        for record in _records(runs, "strength")
        if name in record["details"]["curves"]
      ]
      if not found:
        continue
      x, unit = np.array(found[0]["strength"]), found[0].get("unit", "")
      bands = [
        confidence.interval(values)
        for values in zip(*(one["mean"] for one in found), strict=True)
      ]
      mean = np.array([band.mean for band in bands])
      half = np.nan_to_num([band.half for band in bands])
      axis.plot(
        x,
        mean,
        color=_color(kind),
        linestyle=_style(kind, groups),
        linewidth=1.8,
        label=_label(kind, groups),
      )
      axis.fill_between(
        x, mean - half, mean + half, color=_color(kind), alpha=0.18, linewidth=0
      )
      axis.set_xlabel(unit)
    axis.set_title(name, loc="left")
    low = axis.get_ylim()[0]
    # A curve that hardly falls should look like one.
    axis.set_ylim(min(low, 0.9), 1.0 + 0.05 * (1.0 - min(low, 0.9)))
  for axis in axes[:: min(4, len(names))]:
    axis.set_ylabel("cosine to x")
  _legend(figure, axes)
  return figure


def spectrum(groups: Groups) -> Figure | None:
  """Eigenvalues of the features' covariance, of each run's first seed."""
  figure, axes = _figure(1, width=9.0, height=3.8)
  empty = True
  for kind, runs in groups.items():
    for record in _records(runs, "spectrum")[:1]:
      values = np.array(record["details"]["eigenvalues"], np.float64)
      values = values[values > 1e-9]
      label = _label(kind, groups)
      alpha = record["details"].get("alpha")
      if alpha is not None and math.isfinite(alpha):
        label += f", alpha {alpha:.2f}"
      axes[0].loglog(
        np.arange(1, len(values) + 1),
        values,
        color=_color(kind),
        linestyle=_style(kind, groups),
        linewidth=1.8,
        label=label,
      )
      empty = False
  if empty:
    return None
  axes[0].set_xlabel("component")
  axes[0].set_ylabel("share of the variance")
  axes[0].legend(frameon=False)
  return figure


def _bars(
  groups: Groups,
  task: str,
  panels: Sequence[tuple[str, Callable[[dict], dict[str, float]]]],
) -> Figure | None:
  """Grouped bars with intervals over seeds, a panel for each value."""
  shown = {
    kind: records
    for kind, runs in groups.items()
    if (records := _records(runs, task))
  }
  if not shown:
    return None
  figure, axes = _figure(len(panels), columns=1, width=9.0, height=3.1)
  for axis, (title, value) in zip(axes, panels, strict=True):
    found = {
      kind: [value(record) for record in records]
      for kind, records in shown.items()
    }
    names = list(
      dict.fromkeys(
        name for ones in found.values() for one in ones for name in one
      )
    )
    width = 0.8 / len(found)
    for place, (kind, ones) in enumerate(found.items()):
      bars = [
        confidence.interval(
          [one[name] for one in ones if one.get(name) is not None]
        )
        for name in names
      ]
      axis.bar(
        np.arange(len(names)) + (place - (len(found) - 1) / 2) * width,
        [bar.mean for bar in bars],
        0.92 * width,
        yerr=[bar.half for bar in bars],  # nan, for one seed, draws none.
        error_kw={"elinewidth": 1, "ecolor": "#202124", "capsize": 2},
        color=_color(kind),
        hatch="" if _style(kind, groups) == "-" else "//",
        edgecolor="white",
        label=_label(kind, groups),
      )
    axis.set_xticks(range(len(names)), names)
    axis.set_title(title, loc="left")
    axis.grid(axis="x", visible=False)
  _legend(figure, axes)
  return figure


def _figure(
  count: int, *, columns: int = 2, width: float = 5.2, height: float = 3.4
) -> tuple[Figure, list[Any]]:
  """A figure of so many panels, the last row's spare ones left out."""
  columns = min(columns, count)
  rows = math.ceil(count / columns)
  with matplotlib.rc_context(_LOOK):
    figure = Figure(
      figsize=(columns * width, rows * height + 0.5), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for axis in axes[count:]:
    axis.remove()
  return figure, list(axes[:count])


def _legend(figure: Figure, axes: Sequence[Any]) -> None:
  """One legend above all panels."""
  entries = {}
  for axis in axes:
    handles, labels = axis.get_legend_handles_labels()
    entries |= dict(zip(labels, handles, strict=True))
  figure.legend(
    entries.values(),
    entries.keys(),
    loc="outside upper center",
    ncols=min(4, len(entries)),
    frameon=False,
  )


def _records(runs: Sequence[Run], task: str) -> list[dict[str, Any]]:
  """A task's first result of each run that has one."""
  found = []
  for run in runs:
    records = [r for (name, _), r in run.results.items() if name == task]
    found += records[:1]
  return found


def _curve(run: Run, key: str) -> tuple[list[int], list[float]]:
  points = [(r["step"], r[key]) for r in run.curves if r.get(key) is not None]
  return [step for step, _ in points], [value for _, value in points]


def _color(kind: Kind) -> str:
  return COLORS.get(kind.awareness, "#000000")


def _style(kind: Kind, groups: Groups) -> str:
  """A line for each method and backbone beside the colour."""
  bases = list(dict.fromkeys((k.method, k.backbone) for k in groups))
  return _STYLES[bases.index((kind.method, kind.backbone)) % len(_STYLES)]


def _label(kind: Kind, groups: Groups) -> str:
  """As short as it can be told apart."""
  words = [kind.awareness]
  if len({k.method for k in groups}) > 1:
    words.insert(0, kind.method)
  if len({k.backbone for k in groups}) > 1:
    words.append(f"({kind.backbone})")
  return " ".join(words)
