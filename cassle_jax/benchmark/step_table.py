"""The tables of the step benchmark, as text."""

from typing import Any

from cassle_jax.benchmark import common


def heading(cells: dict[str, dict], rounds: int) -> str:
  """One line on what was timed on what; "/" between values that differ."""

  def of(figure: str) -> str:
    values = dict.fromkeys(str(cell[figure]) for cell in cells.values())
    return "/".join(values)

  return (
    f"{of('backbone')}, {of('image_size')} px, {of('precision')},"
    f" {of('batch')} images a step, {rounds} rounds; {common.place()}"
  )


# Column -> (figure, divisor, digits); the second table has figures that are not
# always there.
_COLUMNS = {
  "CPU ms": ("cpu_ms", 1, 1),
  "wall ms": ("wall_ms", 1, 1),
  "images/s": ("images_per_second", 1, 1),
  "MiB": ("peak_bytes", 2**20, 1),
  "GFLOP": ("flops", 1e9, 2),
  "params M": ("parameters", 1e6, 2),
  "compile s": ("compile_seconds", 1, 1),
}
_MORE = {
  "views/s": ("views_per_second", 1, 1),
  "model GFLOP": ("model_flops", 1e9, 2),
  "% of peak": ("mfu", 0.01, 1),
  "cached s": ("compile_cached_seconds", 1, 1),
}
_RATIOS = {
  "CPU": "cpu_ms",
  "wall": "wall_ms",
  "memory": "peak_bytes",
  "FLOPs": "flops",
  "params": "parameters",
}


def table(cells: dict[str, dict[str, Any]]) -> str:
  """Figures of every program, then what each costs relative to the first."""
  lines = []
  for columns in (_COLUMNS, _MORE):
    known = {
      title: column
      for title, column in columns.items()
      if columns is _COLUMNS
      or any(cell.get(column[0]) is not None for cell in cells.values())
    }
    rows = [["", *known]]
    for name, cell in cells.items():
      values = [(cell.get(f), by, digits) for f, by, digits in known.values()]
      rows.append(
        [name]
        + [common.number(v and v / by, digits) for v, by, digits in values]
      )
    if known:
      lines += ["", common.aligned(rows, width=11)]
  first, *others = cells
  if others:
    lines.append(f"relative to {first}:")
  width = max(map(len, cells)) + 2
  for name in others:
    ratio = cells[name]["ratio"]
    shown = [f"{title} {_ratio(ratio[key])}" for title, key in _RATIOS.items()]
    lines.append(f"{name:<{width}}{'  '.join(shown)}")
  return "\n".join(lines)


def stages(label: str, cell: dict[str, Any], clock: str) -> str:
  """Where the time of a step goes, a line a stage.

  Args:
    label: of the program.
    cell: its figures, from `program.measure`.
    clock: "CPU" or "wall".
  """
  rows = [
    [f"  {name}", _shown(stage["ms"], stage["margin_ms"], 1)]
    + [f"{stage['share']:.0%}"]
    for name, stage in cell["stages"].items()
  ]
  heading = f"\n{label}, {clock} ms of a stage (medians)\n"
  return heading + common.aligned(rows)


def _ratio(value: dict[str, float | None] | float | None) -> str:
  if isinstance(value, dict):
    return _shown(value["value"], value["margin"], 3)
  return common.number(value, 4)


def _shown(value: float, margin: float | None, digits: int) -> str:
  text = f"{value:,.{digits}f}"
  return text if margin is None else f"{text} +- {margin:.{digits}f}"
