"""One HTML file: pictures inside it, no network, readable on a phone."""

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from cassle_jax.report.tables import Table

_STYLE = """
:root { color-scheme: light dark; --ink: #202124; --paper: #ffffff;
  --faint: #5f6368; --line: #dadce0; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed;
  --paper: #17181b; --faint: #a6abb3; --line: #3c4043; --card: #202227; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 1.5rem 1rem 4rem;
  font: 16px/1.55 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
p { margin: .4rem 0; }
.faint { color: var(--faint); font-size: .9rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line);
  border-radius: 8px; }
table { border-collapse: collapse; font-size: .9rem; min-width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { background: var(--card); font-weight: 600; }
tr:last-child td { border-bottom: 0; }
td.best { font-weight: 700; }
tr.published td { color: var(--faint); font-style: italic; }
img { display: block; width: 100%; height: auto; background: #ffffff;
  border-radius: 8px; border: 1px solid var(--line); }
figure { margin: .6rem 0; }
figcaption { color: var(--faint); font-size: .9rem; margin-top: .4rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""


class Picture(NamedTuple):
  """A picture of the report.

  Attributes:
    title: heading.
    caption: what is to be seen, in a sentence or two.
    png: the file's bytes.
  """

  title: str
  caption: str
  png: bytes


class Missing(NamedTuple):
  """A part that has no data.

  Attributes:
    title: heading.
    hint: what makes the data.
  """

  title: str
  hint: str


def png_of(figure: Figure) -> bytes:
  """A figure as a PNG file."""
  buffer = io.BytesIO()
  # Without its date and version the same numbers give the same bytes.
  figure.savefig(buffer, format="png", metadata={"Software": None})
  return buffer.getvalue()


def render(
  title: str,
  subtitle: str,
  parts: Sequence[Table | Picture | Missing],
  folders: Sequence[str],
) -> str:
  """The whole page.

  Args:
    title: of the page.
    subtitle: a line below it.
    parts: in the order of reading.
    folders: of the runs, listed at the end.
  """
  body = "\n".join(_part(part) for part in parts)
  runs = "<br>\n".join(html.escape(folder) for folder in folders)
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p class="faint">{html.escape(subtitle)}</p>
{body}
<h2>Runs</h2>
<p class="faint">{runs}</p>
</body>
</html>
"""


def _part(part: Table | Picture | Missing) -> str:
  heading = f"<h2>{html.escape(part.title)}</h2>"
  if isinstance(part, Missing):
    return f'{heading}\n<p class="faint">{html.escape(part.hint)}</p>'
  if isinstance(part, Picture):
    data = base64.b64encode(part.png).decode("ascii")
    caption = html.escape(part.caption)
    return (
      f"{heading}\n<figure>\n"
      f'<img alt="{html.escape(part.title, quote=True)}"'
      f' src="data:image/png;base64,{data}">\n'
      f"<figcaption>{caption}</figcaption>\n</figure>"
    )
  return f"{heading}\n{_table(part)}"


def _table(table: Table) -> str:
  head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
  rows, best = [], ' class="best"'
  for r, cells in enumerate(table.rows):
    shown = "".join(
      f"<td{best if (r, c) in table.best else ''}>{html.escape(cell)}</td>"
      for c, cell in enumerate(cells)
    )
    kind = ' class="published"' if "published" in cells else ""
    rows.append(f"<tr{kind}>{shown}</tr>")
  notes = "\n".join(
    f'<p class="faint">{html.escape(note)}</p>' for note in table.notes
  )
  return (
    f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
    + "\n".join(rows)
    + f"\n</tbody></table></div>\n{notes}"
  )
