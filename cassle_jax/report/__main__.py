"""Draws what runs were found to keep: one page, tables and pictures.

  python -m cassle_jax.report runs/cassle runs/vanilla --out=report
  python -m cassle_jax.report runs/findings --out=report

Each folder is a run's, or holds several. Runs that differ in their seed alone
are repetitions: numbers get a mean and a 95 % interval. What is drawn comes
from the runs' own log and from `python -m cassle_jax.evaluate`; a part without
data says what makes it. OUT/report.html is one file without links to others;
OUT/tables.md and OUT/*.png hold the same for papers and talks.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cassle_jax import cli, errors

_HINT = "No data: python -m cassle_jax.evaluate --config=configs/eval/all.py"


class Chart(NamedTuple):
  """A chart of the report: file name, heading, caption, and what draws it."""

  file: str
  title: str
  caption: str
  draw: Callable[[Any], Any]


def main(arguments: Sequence[str]) -> int:
  """Reads the runs, draws the report, says where it is."""
  flags = cli.parser("cassle_jax.report", __doc__)
  flags.add_argument("folders", nargs="+", metavar="DIR", help="runs")
  flags.add_argument("--out", default="report", help="folder (report)")
  values = flags.parse_args(arguments)
  try:
    os.makedirs(values.out, exist_ok=True)
  except OSError as error:
    raise errors.UserError(f"--out={values.out}: {error.strerror}.") from error

  from cassle_jax import logs
  from cassle_jax.report import page, runs, tables

  found = [runs.read(path, logs.say) for path in runs.find(values.folders)]
  groups = runs.by_kind(found)
  parts, text = [], []
  for table in (
    tables.findings(groups),
    tables.accuracy(groups, "linear", "Linear evaluation"),
    tables.accuracy(groups, "knn", "k-NN"),
    tables.measures(groups),
  ):
    if table is not None:
      parts.append(table)
      text.append(tables.markdown(table))
  if not text:
    parts.append(page.Missing("Tables", f"{_HINT} --workdir=RUN makes them."))
  for chart in charts_of():
    figure = chart.draw(groups)
    if figure is None:
      parts.append(
        page.Missing(
          chart.title, f"{_HINT} --workdir=RUN --config.tasks={chart.file}"
        )
      )
      continue
    png = page.png_of(figure)
    _write(os.path.join(values.out, f"{chart.file}.png"), png)
    parts.append(page.Picture(chart.title, chart.caption, png))
  parts += panels(groups)
  subtitle = f"{len(found)} runs of {len(groups)} kinds, cassle_jax"
  path = os.path.join(values.out, "report.html")
  folders = [run.folder for run in found]
  logs.atomic_write_text(
    path, page.render("What the representations keep", subtitle, parts, folders)
  )
  logs.atomic_write_text(os.path.join(values.out, "tables.md"), "\n".join(text))
  print("\n".join(text))
  print(f"wrote {path}")
  return 0


def charts_of() -> tuple[Chart, ...]:
  """The charts in the order of reading."""
  from cassle_jax.report import charts

  return (
    Chart(
      "sensitivity",
      "InfoNCE of pairs that differ by one operation",
      "Higher: more of the operation is kept. Bars are means, whiskers 95 %"
      " intervals over seeds.",
      charts.sensitivity,
    ),
    Chart(
      "wrong_omega",
      "What a wrong omega does to the projector",
      "Similarity of projections of a picture and its augmented copy, by what"
      " the copy's projector is told; all operations and seeds together. A"
      " projector that is told nothing draws one line.",
      charts.wrong_omega,
    ),
    Chart(
      "probe",
      "How well features predict the augmentation",
      "Linear probes on held-out pictures: R² of numbers, AUC of yes and no (a"
      " guess has 0 and 0.5).",
      charts.probe,
    ),
    Chart(
      "strength",
      "Similarity as one operation gets stronger",
      "Mean cosine of features of a picture and its copy; bands are 95 %"
      " intervals over seeds.",
      charts.strength,
    ),
    Chart(
      "spectrum",
      "Spectrum of the features",
      "Eigenvalues of the covariance of test features, first seed; alpha is the"
      " slope over components 5 to 50.",
      charts.spectrum,
    ),
    Chart(
      "training",
      "Training",
      "A line for each run.",
      charts.training,
    ),
  )


def panels(groups: Any) -> list[Any]:
  """The retrieval panel of each kind's first run that has one."""
  from cassle_jax.report import page

  found = []
  for kind, group in groups.items():
    for run in group:
      paths = [
        os.path.join(run.folder, "eval", task, record["details"]["panel"])
        for (task, _), record in run.results.items()
        if task == "retrieval"
        and os.path.basename(record["details"].get("panel", "/"))
        == record["details"].get("panel")
      ]
      paths = [path for path in paths if os.path.isfile(path)]
      if paths:
        with open(paths[0], "rb") as file:
          png = file.read()
        title = f"Nearest neighbours: {kind.method}, {kind.awareness}"
        caption = f"{run.folder}; the first picture of a row is the query."
        found.append(page.Picture(title, caption, png))
        break
  return found


def _write(path: str, data: bytes) -> None:
  with open(f"{path}.partial", "wb") as file:
    file.write(data)
  os.replace(f"{path}.partial", path)


if __name__ == "__main__":
  cli.run(main)
