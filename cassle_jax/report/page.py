"""The report as one HTML file: pictures inside, no network, light and dark.

Every text that comes from data is escaped here, and nowhere else.
"""

import base64
import html
import re
from collections.abc import Sequence
from typing import NamedTuple

from cassle_jax.report.tables import Row, Table

_STYLE = """
:root { color-scheme: light dark; --ink: #202124; --paper: #ffffff;
  --faint: #5b6067; --line: #dadce0; --card: #f5f6f8; --link: #0b57b7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb;
  --paper: #16181b; --faint: #a4aab3; --line: #3a3e45; --card: #202328;
  --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1.5rem 1rem 4rem;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "DejaVu Sans", sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.8rem 0 .5rem;
  scroll-margin-top: 1rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; color: var(--faint); }
p, ul { margin: .4rem 0; max-width: 46rem; }
ul { padding-left: 1.2rem; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { margin: 1.2rem 0; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; }
code { font-size: .88em; overflow-wrap: anywhere; }
.faint { color: var(--faint); font-size: .9rem; }
.left-out { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line);
  border-radius: 8px; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; min-width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); vertical-align: bottom; }
th { background: var(--card); font-weight: 600; }
th:first-child, td:first-child { position: sticky; left: 0; }
td:first-child { background: var(--paper); }
th.number { white-space: normal; min-width: 5.5rem; }
.number { text-align: right; }
tbody tr:last-child td { border-bottom: 0; }
tr.first td { border-top: 2px solid var(--line); }
td.long { white-space: normal; min-width: 14rem;
  overflow-wrap: anywhere; }
td.best { font-weight: 700; }
tr.published td { color: var(--faint); font-style: italic; }
figure { margin: .6rem 0 1.2rem; }
.chart { overflow-x: auto; background: #ffffff; border-radius: 8px;
  border: 1px solid var(--line); padding: .5rem; }
.chart img { display: block; height: auto; width: 100%; min-width: 660px;
  margin: 0 auto; }
figcaption { color: var(--faint); font-size: .85rem; margin-top: .35rem; }
@media (max-width: 500px) { th, td { padding: .34rem .42rem; }
  table { font-size: .84rem; } td.long { min-width: 7rem; }
  th:not(.number), td:not(.number) { white-space: normal; }
  h2 { margin-top: 2.2rem; } }
@media print { body { max-width: none; } .scroll, .chart { overflow: visible; }
  figure { break-inside: avoid; } nav { display: none; } }
"""


# Cells of more letters may be broken into lines.
_LONG = 30


class Picture(NamedTuple):
  """A picture of the report, which is a file beside it too.

  Attributes:
    file: its name.
    title: what it is of: method, data set.
    png: its bytes.
    width: in pixels at which a page shows it.
  """

  file: str
  title: str
  png: bytes
  width: int


class Section(NamedTuple):
  """A part of the report.

  Attributes:
    title: its heading.
    text: what is to be seen, a sentence or two; "" for none.
    content: tables and pictures from top to bottom. A table of the section's
      own title gets no second heading.
  """

  title: str
  text: str
  content: tuple[Table | Picture, ...]


def render(
  title: str,
  subtitle: str,
  sections: Sequence[Section],
  missing: Sequence[tuple[str, str]],
  warnings: Sequence[str],
) -> str:
  """The whole page.

  Args:
    title: of the page.
    subtitle: a line below it.
    sections: in the order of reading.
    missing: (heading, what makes the data) of the sections without data.
    warnings: what was left out, and why.
  """
  parts = [_section(section) for section in sections]
  headings = [section.title for section in sections]
  if missing:
    headings.append("Not measured")
    lines = "\n".join(
      f"<li>{_text(name)}: <code>{_text(hint)}</code></li>"
      for name, hint in missing
    )
    parts.append(f'{_heading("Not measured")}\n<ul class="faint">{lines}</ul>')
  if warnings:
    headings.append("Left out")
    lines = "\n".join(f"<li>{_text(line)}</li>" for line in warnings)
    parts.append(
      f'{_heading("Left out")}\n<ul class="faint left-out">{lines}</ul>'
    )
  links = "\n".join(
    f'<a href="#{_anchor(heading)}">{_text(heading)}</a>'
    for heading in headings
  )
  body = "\n".join(parts)
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{_text(title)}</h1>
<p class="faint">{_text(subtitle)}</p>
<nav>
{links}
</nav>
{body}
</body>
</html>
"""


def _text(text: str) -> str:
  return html.escape(text, quote=True)


def _anchor(text: str) -> str:
  return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _heading(text: str) -> str:
  return f'<h2 id="{_anchor(text)}">{_text(text)}</h2>'


def _section(section: Section) -> str:
  parts = [_heading(section.title)]
  if section.text:
    parts.append(f"<p>{_text(section.text)}</p>")
  for one in section.content:
    if isinstance(one, Picture):
      parts.append(_picture(one))
    else:
      if one.title != section.title:
        parts.append(f"<h3>{_text(one.title)}</h3>")
      parts.append(_table(one))
  return "\n".join(parts)


def _picture(one: Picture) -> str:
  data = base64.b64encode(one.png).decode("ascii")
  return (
    '<figure>\n<div class="chart">'
    f'<img alt="{_text(one.title)}" style="max-width: {one.width:d}px"'
    f' src="data:image/png;base64,{data}"></div>\n'
    f"<figcaption>{_text(one.title)}; {_text(one.file)}</figcaption>\n</figure>"
  )


def _table(table: Table) -> str:
  head = "".join(
    f'<th scope="col"{_classes(i, table)}>{_text(cell)}</th>'
    for i, cell in enumerate(table.head)
  )
  rows = "\n".join(_row(row, table) for row in table.rows)
  notes = "\n".join(
    f'<p class="faint">{_text(note)}</p>' for note in table.notes
  )
  return (
    f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
    f"<tbody>\n{rows}\n</tbody></table></div>\n{notes}"
  )


def _row(row: Row, table: Table) -> str:
  flags = {"published": row.published, "first": row.first}
  names = [name for name, holds in flags.items() if holds]
  kind = f' class="{" ".join(names)}"' if names else ""
  cells = "".join(
    f"<td{_classes(i, table, i in row.best, len(cell) > _LONG)}>"
    f"{_text(cell)}</td>"
    for i, cell in enumerate(row.cells)
  )
  return f"<tr{kind}>{cells}</tr>"


def _classes(
  column: int, table: Table, best: bool = False, long: bool = False
) -> str:
  number = column >= table.lead
  flags = {"number": number, "best": best, "long": long and not number}
  names = [name for name, holds in flags.items() if holds]
  return f' class="{" ".join(names)}"' if names else ""
