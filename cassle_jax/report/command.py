"""Draws what runs were found to keep: one page, tables and pictures.

  python -m cassle_jax.report runs/a --out=report
  python -m cassle_jax.report runs/cassle-0 runs/vanilla-0 --out=report
  python -m cassle_jax.report runs/findings --out=report

Each DIR is the --workdir of a run, or a folder of them. Runs of the same
config but for the seed are repetitions: their numbers get a mean and a 95%
interval. The numbers come from `python -m cassle_jax.evaluate` and from the
runs' own logs; what has not been measured is left out, and the page ends with
the commands that would measure it. Nothing in DIR is changed.

  OUT/report.html   all of it in one file: open it, mail it, print it
  OUT/tables.md     the tables in Markdown, also printed here
  OUT/*.png         the charts, for talks
"""

import os
import sys
from collections.abc import Sequence

from cassle_jax import errors
from cassle_jax.config import cli

_TITLE = "What the representations keep"


def main(arguments: Sequence[str]) -> int:
  """Reads the runs, draws the report, says where it is."""
  flags = cli.parser("cassle_jax.report", __doc__)
  flags.add_argument("folders", nargs="+", metavar="DIR", help="runs")
  flags.add_argument("--out", default="report", help="folder (report)")
  values = flags.parse_args(list(arguments))

  # Imported here: --help and a mistyped flag need no charts.
  from cassle_jax.report import grouping, page, sections, tables, words
  from cassle_jax.report import runs as runs_lib
  from cassle_jax.runs import folder

  values.out = folder.expanded(values.out, flag="--out")
  folders = runs_lib.find(values.folders)
  _make(values.out)
  warnings: list[str] = []

  def warn(text: str) -> None:
    warnings.append(_plain(text))
    print(f"warning: {_plain(text)}", file=sys.stderr)

  runs = list(filter(None, (runs_lib.read(each, warn) for each in folders)))
  if not runs:
    raise errors.UserError(
      f"no run in {', '.join(values.folders)} can be read; the warnings say why"
    )
  groups = grouping.group(runs, warn)
  parts, missing = sections.compose(groups, warn)
  content = [one for part in parts for one in part.content]
  pictures = [one for one in content if isinstance(one, page.Picture)]
  text = _plain(
    "\n".join(
      tables.markdown(one) for one in content if isinstance(one, tables.Table)
    )
  )
  kept = words.count(len({run.folder for x in groups for run in x.runs}), "run")
  kinds = words.count(len(groups), "kind")
  subtitle = f"{kept} of {kinds}; cassle_jax.report"
  html = _plain(page.render(_TITLE, subtitle, parts, missing, warnings))
  for one in pictures:
    _write(values.out, one.file, one.png)
  _write(
    values.out, "tables.md", f"# {_TITLE}\n\n{subtitle}\n\n{text}".encode()
  )
  # Last: whoever sees a new page finds its pictures beside it.
  _write(values.out, "report.html", html.encode())
  print(text)
  print(
    f"wrote {os.path.join(values.out, 'report.html')}, tables.md and"
    f" {words.count(len(pictures), 'picture')}: {kept} of {kinds}"
  )
  return 0


def _plain(text: str) -> str:
  """Text that can be written: names of files may be no text at all."""
  return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _make(folder: str) -> None:
  try:
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
      raise PermissionError(0, "it is write-protected")
  except OSError as error:
    raise errors.UserError(
      f"--out={folder} cannot be used ({error.strerror}); name a folder that"
      " you can write to"
    ) from error


def _write(folder: str, name: str, data: bytes) -> None:
  """Replaces a file in one move."""
  from cassle_jax.runs import files

  try:
    files.write(os.path.join(folder, name), data)
  except OSError as error:
    raise errors.UserError(
      f"--out={folder}: cannot write {name} ({error.strerror})"
    ) from error
