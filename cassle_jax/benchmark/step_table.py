"""The tables of the step benchmark, as text."""

from typing import Any

from cassle_jax.benchmark import common

UNKNOWN = "not known"


def heading(cells: dict[str, dict], rounds: int) -> str:
  """One line on what was timed on what; "/" between values that differ."""

  def of(figure: str) -> str:
    values = dict.fromkeys(str(cell[figure]) for cell in cells.values())
    return "/".join(values)

  on = common.machine()
  return (
    f"{of('backbone')}, {of('image_size')} px, {of('precision')},"
    f" {of('batch')} images a step, {rounds} rounds; {on['devices']} x"
    f" {on['device']} ({on['processor']}, {on['cores']} cores)"
  )


# Column -> (figure, divisor, digits).
_COLUMNS = {
  "CPU ms": ("cpu_ms", 1, 1),
  "wall ms": ("wall_ms", 1, 1),
  "images/s": ("images_per_second", 1, 1),
  "MiB": ("peak_bytes", 2**20, 1),
  "GFLOP": ("flops", 1e9, 2),
  "params M": ("parameters", 1e6, 2),
  "compile s": ("compile_seconds", 1, 1),
}


# The same, for figures that are not always there.
_MORE = {
  "views/s": ("views_per_second", 1, 1),
  "model GFLOP": ("model_flops", 1e9, 2),
  "% of peak": ("mfu", 0.01, 1),
  "cached s": ("compile_cached_seconds", 1, 1),
}


def table(cells: dict[str, dict[str, Any]]) -> str:
  """Figures of every program, then what each costs relative to the first."""
  width = max(map(len, cells)) + 2
  lines = _block(cells, width, _COLUMNS)
  known = {
    title: column
    for title, column in _MORE.items()
    if any(cell.get(column[0]) is not None for cell in cells.values())
  }
  if known:
    lines += _block(cells, width, known)
  first, *others = cells
  if others:
    lines.append(f"relative to {first}:")
  for name in others:
    ratio = cells[name]["ratio"]
    shown = [f"{title} {_ratio(ratio[key])}" for title, key in _RATIOS.items()]
    lines.append(f"{name:<{width}}  {'  '.join(shown)}")
  return "\n".join(lines)


def _block(
  cells: dict[str, dict[str, Any]],
  width: int,
  columns: dict[str, tuple[str, float, int]],
) -> list[str]:
  lines = ["", " " * width + "".join(f"{name:>13}" for name in columns)]
  for name, cell in cells.items():
    row = f"{name:<{width}}"
    for figure, divisor, digits in columns.values():
      value = cell.get(figure)
      shown = UNKNOWN if value is None else f"{value / divisor:,.{digits}f}"
      row += f"{shown:>13}"
    lines.append(row)
  return lines


def stages(label: str, cell: dict[str, Any], clock: str) -> str:
  """Where the time of a step goes, a line a stage.

  Args:
    label: of the program.
    cell: its figures, from `program.measure`.
    clock: "CPU" or "wall".
  """
  lines = [f"\n{label}, {clock} ms of a stage (medians)"]
  for name, stage in cell["stages"].items():
    margin = ""
    if stage["margin_ms"] is not None:
      margin = f" +- {stage['margin_ms']:.1f}"
    lines.append(
      f"  {name:<16}{stage['ms']:>10,.1f}{margin:<10}{stage['share']:>6.0%}"
    )
  return "\n".join(lines)


_RATIOS = {
  "CPU": "cpu_ms",
  "wall": "wall_ms",
  "memory": "peak_bytes",
  "FLOPs": "flops",
  "params": "parameters",
}


def _ratio(value: dict[str, float | None] | float | None) -> str:
  if value is None:
    return UNKNOWN
  if not isinstance(value, dict):
    return f"{value:.4f}"
  margin = "" if value["margin"] is None else f" +- {value['margin']:.3f}"
  return f"{value['value']:.3f}{margin}"
