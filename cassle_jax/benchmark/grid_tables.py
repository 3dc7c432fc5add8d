"""Tables of trained cells of the grid: means and intervals over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cassle_jax.awareness import AWARENESS
from cassle_jax.evaluation import confidence

# (method, awareness) -> for each seed what `grid_train.train_cell` returns.
Cells = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def page(cells: Cells) -> str:
  """All tables, as grid.md has them.

  Args:
    cells: see `Cells`; at least one.
  """
  before = [100 * r["knn_random_init"] for rows in cells.values() for r in rows]
  return (
    f"{matrix(cells)}\nRandom init: {np.mean(before):.1f} %, the mean over all"
    f" runs.\n\n{table(cells)}"
  )


def matrix(cells: Cells) -> str:
  """The Markdown grid of k-NN accuracies, one row a method.

  Args:
    cells: see `Cells`.
  """
  rows = list(dict.fromkeys(method for method, _ in cells))
  columns = [
    name for name in AWARENESS if any((row, name) in cells for row in rows)
  ]
  lines = [
    "| k-NN % | " + " | ".join(columns) + " |",
    "|---" * (len(columns) + 1) + "|",
  ]
  for row in rows:
    values = [
      [100 * result["knn"] for result in cells.get((row, name), ())]
      for name in columns
    ]
    shown = " | ".join(show(value, 1) for value in values)
    lines.append(f"| {row} | {shown} |")
  return "\n".join(lines) + "\n"


def table(cells: Cells) -> str:
  """The Markdown table of trained cells.

  Args:
    cells: see `Cells`.
  """
  lines = [
    "| method | awareness | k-NN % | over vanilla | loss | seconds |",
    "|---|---|---|---|---|---|",
  ]
  for (method, awareness), results in cells.items():
    knn = [100 * result["knn"] for result in results]
    before = cells.get((method, "vanilla"))
    gain = ""
    if awareness != "vanilla" and before is not None:
      base = {r["seed"]: 100 * r["knn"] for r in before}
      shared = [(r, base[r["seed"]]) for r in results if r["seed"] in base]
      gain = show([100 * r["knn"] - b for r, b in shared], 1, "+")
    lines.append(
      f"| {method} | {awareness} | {show(knn, 1)} | {gain} |"
      f" {show([r['loss'] for r in results], 3)} |"
      f" {np.mean([r['seconds'] for r in results]):.0f} |"
    )
  return "\n".join(lines) + "\n"


def show(values: Sequence[float], digits: int, sign: str = "") -> str:
  """Mean ± half of its interval, to so many digits; "" without values."""
  if not values:
    return ""
  mean, half, _ = confidence.interval(values)
  text = f"{mean:{sign}.{digits}f}"
  return text if math.isnan(half) else f"{text} ± {half:.{digits}f}"
