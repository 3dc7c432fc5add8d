"""A table, ready to be printed, and its Markdown."""

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple


class Row(NamedTuple):
  """A row of a table.

  Attributes:
    cells: text, "" where there is nothing.
    best: columns whose cell is the best among comparable rows.
    published: whether its numbers are somebody else's.
    first: whether a new block of comparable rows begins.
  """

  cells: tuple[str, ...]
  best: frozenset[int] = frozenset()
  published: bool = False
  first: bool = False


class Table(NamedTuple):
  """A table.

  Attributes:
    title: what it shows.
    head: names of the columns.
    lead: so many columns are words; numbers follow, set to the right.
    rows: from top to bottom.
    notes: sentences below it.
  """

  title: str
  head: tuple[str, ...]
  lead: int
  rows: tuple[Row, ...]
  notes: tuple[str, ...] = ()


def in_blocks(
  rows: Iterable[tuple[Hashable, Sequence[str]]],
) -> tuple[Row, ...]:
  """Rows of (block, cells); the first of every block but one is marked."""
  found, previous = [], None
  for block, cells in rows:
    found.append(Row(tuple(cells), first=previous not in (None, block)))
    previous = block
  return tuple(found)


def slim(table: Table, columns: Sequence[str]) -> Table:
  """Says once, in a note, what is the same in all rows.

  Args:
    table: with one row at least.
    columns: the names among the leading ones that may be taken out.
  """
  same = [
    i
    for i, name in enumerate(table.head[: table.lead])
    if name in columns and len({row.cells[i] for row in table.rows}) == 1
  ]
  if not same:
    return table
  kept = [i for i in range(len(table.head)) if i not in same]
  rows = tuple(
    row._replace(
      cells=tuple(row.cells[i] for i in kept),
      best=frozenset(kept.index(i) for i in row.best),
    )
    for row in table.rows
  )
  common = "; ".join(
    f"{table.head[i]}: {table.rows[0].cells[i] or 'none'}" for i in same
  )
  return Table(
    table.title,
    tuple(table.head[i] for i in kept),
    table.lead - len(same),
    rows,
    (f"In all rows {common}.", *table.notes),
  )


def markdown(table: Table) -> str:
  """The table in Markdown, its best cells bold, published rows in italics."""
  rule = ["---"] * table.lead + ["---:"] * (len(table.head) - table.lead)
  cells = [map(_escaped, table.head), rule]
  for row in table.rows:
    cells.append([_cell(row, i) for i in range(len(row.cells))])
  lines = [f"| {' | '.join(each)} |" for each in cells]
  for note in table.notes:
    lines += ["", _escaped(note)]
  return "\n".join([f"## {table.title}", "", *lines, ""])


def _cell(row: Row, column: int) -> str:
  text = _escaped(row.cells[column])
  if text and column in row.best:
    return f"**{text}**"
  return f"_{text}_" if text and row.published else text


def _escaped(text: str) -> str:
  """Text as it stands, without Markdown's or HTML's meaning."""
  for sign in "\\|*`[]":
    text = text.replace(sign, f"\\{sign}")
  text = text.replace("&", "&amp;").replace("<", "&lt;")
  return " ".join(text.split())
