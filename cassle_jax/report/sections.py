"""The parts of a report in the order of reading, and what each needs."""

import os
import re
import shlex
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from cassle_jax.report import (
  accuracy,
  bars,
  curves,
  histograms,
  look,
  measures,
  time_spent,
  words,
)
from cassle_jax.report.grouping import Block, Group, blocks
from cassle_jax.report.page import Picture, Section
from cassle_jax.report.tables import Table, slim

_PNG = b"\x89PNG\r\n\x1a\n"
# Columns that a table leaves out where they say the same in every row.
_CONSTANT = ("method", "backbone", "numbers", "data set", "pictures")
# Inches of a chart -> pixels of a page, where 13 points are read well.
_SCALE = 100


class _Chart(NamedTuple):
  """A section of charts, one for each block and data set.

  Attributes:
    file: how the names of its files begin.
    title: heading.
    text: what is to be seen.
    task: whose results it draws.
    draw: (groups of a block, name of the result) -> figure, or None.
  """

  file: str
  title: str
  text: str
  task: str
  draw: Callable[[Sequence[Group], str], Figure | None]


_CHARTS = (
  _Chart(
    "sensitivity",
    "InfoNCE by operation",
    "How well a picture's features single out their own augmented copy's among"
    " a batch, with one operation alone. Higher: the representation keeps more"
    " of the operation. Whiskers: 95% interval over seeds.",
    "sensitivity",
    bars.sensitivity,
  ),
  _Chart(
    "blocks",
    "InfoNCE along the network",
    "The same from the first block to the projector, one panel for each"
    " operation. Bands: 95% interval over seeds.",
    "sensitivity",
    curves.depth,
  ),
  _Chart(
    "wrong_omega",
    "Similarity under a wrong omega",
    "Cosine of the projections of a picture and its augmented copy, by what the"
    " copy's projector is told; all seeds together. A projector that uses omega"
    " loses similarity when it is wrong; one that is told nothing has the same"
    " histogram four times.",
    "wrong_omega",
    histograms.wrong_omega,
  ),
  _Chart(
    "omega_drop",
    "Similarity lost to a wrong omega",
    "The mean of the true histogram minus that of each wrong one. Whiskers:"
    " 95% interval over seeds. Flip and grayscale leave little to draw: when"
    " they are always applied, another image's omega is the same.",
    "wrong_omega",
    bars.drops,
  ),
  _Chart(
    "probe",
    "Omega predicted from features",
    "Bars: linear probe, from what a guess scores (R² 0, AUC 0.5); diamonds:"
    " three layers. Whiskers: 95% interval over seeds. On held-out pictures.",
    "probe",
    bars.probe,
  ),
  _Chart(
    "strength",
    "Similarity along strengths",
    "Cosine of the features of a picture and its copy as one parameter goes"
    " through its range; grey: what training drew from. Lower: features follow"
    " the operation. Bands: 95% interval over seeds; of one seed, over its"
    " pictures.",
    "strength",
    curves.strength,
  ),
  _Chart(
    "spectrum",
    "Spectrum of the features",
    "Eigenvalues of the covariance of test features, a line for each seed."
    " Dashed: the power law fitted to components 6 to 50, whose exponent is"
    " alpha.",
    "spectrum",
    curves.spectrum,
  ),
)


def compose(
  groups: Sequence[Group], warn: Callable[[str], None]
) -> tuple[list[Section], list[tuple[str, str]]]:
  """Draws all that the runs have data for.

  Args:
    groups: from `grouping.group`; at least one.
    warn: is told of pictures that are left out.

  Returns:
    The sections, and (heading, command) of those without data and of the runs
    without any result.
  """
  first = groups[0].runs[0].folder

  def command(task: str = "", folder: str = first) -> str:
    return (
      "python -m cassle_jax.evaluate --config=configs/eval/all.py"
      f" --workdir={shlex.quote(folder)}"
    ) + (f" --config.tasks={task}" if task else "")

  # Charts are of networks, whatever represents the pictures.
  networks = [one for one in groups if not one.represented]
  sections: list[Section] = []
  missing: list[tuple[str, str]] = []

  def add(title: str, text: str, content: Sequence, hint: str) -> None:
    if content:
      sections.append(Section(title, text, tuple(content)))
    elif hint:
      missing.append((title, hint))

  def table(found: Table | None, title: str, hint: str) -> None:
    if found is None:
      add(title, "", [], hint)
    else:
      add(found.title, "", [slim(found, _CONSTANT)], hint)

  found = [slim(one, _CONSTANT) for one in measures.differences(groups)]
  title = found[0].title if len(found) == 1 else "Differences to vanilla"
  add(title, "", found, "")
  table(accuracy.linear(groups), "Linear evaluation", command("linear"))
  table(accuracy.nearest(groups), "k nearest neighbours", command("knn"))
  few = command("few_shot")
  table(accuracy.few_shot(groups), "Few-shot classification", few)
  table(measures.headlines(groups), "", "")
  for chart in _CHARTS:
    add(chart.title, chart.text, _drawn(chart, networks), command(chart.task))
  text = "Each row: a test picture, then the nearest training pictures; the"
  text += " first seed of each kind of run."
  found = _panels(networks, warn)
  add("Retrieval", text, found, command("retrieval"))
  text = "Losses of different awareness are different sums: AugSelf's, say, has"
  text += (
    " further terms. Thin: runs; thick: their mean. Long curves are running"
  )
  text += " means over 2% of their points."
  hint = "python -m cassle_jax.main --config=CONFIG --workdir=RUN"
  add("Training", text, _by_block("training", curves.training, networks), hint)
  text = "Means over the runs of a kind; the number is the share of steps that"
  text += " count, the goodput."
  found = [slim(x, _CONSTANT) for x in [time_spent.table(networks)] if x]
  content = found and [*_by_block("time", time_spent.bars, networks), *found]
  add("Where the time went", text, content, "")
  table(measures.runs(groups), "Runs", "")
  silent = [run.folder for one in groups for run in one.runs if not run.results]
  if len(silent) < sum(len(one.runs) for one in groups):
    missing += [(f"Everything of {x}", command(folder=x)) for x in silent]
  return sections, missing


def _names(groups: Sequence[Group], task: str) -> list[str]:
  return words.by_table(
    name
    for one in groups
    for run in one.runs
    for other, name in run.results
    if other == task
  )


def _drawn(chart: _Chart, groups: Sequence[Group]) -> list[Picture]:
  found = []
  for block, members in blocks(groups).items():
    for name in _names(members, chart.task):
      with look.context():
        figure = chart.draw(members, name)
        if figure is None:
          continue
        title = f"{words.block(block, groups)}: {words.dataset(name)}"
        title += _without(members, chart.task, name)
        file = _file(chart.file, name, _block(block, groups))
        found.append(_picture(file, title, figure))
  return found


def _by_block(
  name: str,
  draw: Callable[[Sequence[Group]], Figure | None],
  groups: Sequence[Group],
) -> list[Picture]:
  """A chart for each block, in files that begin with a name."""
  found = []
  for block, members in blocks(groups).items():
    with look.context():
      figure = draw(members)
      if figure is not None:
        file = _file(name, _block(block, groups))
        found.append(_picture(file, words.block(block, groups), figure))
  return found


def _panels(
  groups: Sequence[Group], warn: Callable[[str], None]
) -> list[Picture]:
  """The panel of each group's first seed that has one."""
  found = []
  for one in groups:
    for name in _names([one], "retrieval"):
      for seed, result in one.of("retrieval", name):
        if not result.data:
          continue
        path = os.path.join(os.path.dirname(result.path), result.data)
        png = _read_png(path, warn)
        if png is None:
          continue
        title = (
          f"{words.block(one.block, groups)}, {words.group(one)}, seed {seed}:"
          f" {words.dataset(name)}, {result.value:.0f}% of the neighbours are"
          " of the query's class"
        )
        file = _file(
          "retrieval",
          name,
          _block(one.block, groups),
          one.awareness,
          one.variant,
        )
        (width,) = struct.unpack(">I", png[16:20])
        found.append(Picture(file, title, png, width))
        break
  return found


def _picture(file: str, title: str, figure: Figure) -> Picture:
  width = round(_SCALE * figure.get_figwidth())
  return Picture(file, title, look.png(figure), width)


def _without(groups: Sequence[Group], task: str, name: str) -> str:
  """The groups of a chart that it has nothing of, in words."""
  absent = [words.group(one) for one in groups if not one.of(task, name)]
  return f"; not measured: {', '.join(absent)}" if absent else ""


def _block(block: Block, groups: Sequence[Group]) -> str:
  """What tells a block's files from another's; "" for the only one."""
  return words.block(block, groups) if len(blocks(groups)) > 1 else ""


def _file(*parts: str) -> str:
  """A file name of words that may hold anything."""
  names = [re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts]
  return "_".join(name for name in names if name).lower() + ".png"


def _read_png(path: str, warn: Callable[[str], None]) -> bytes | None:
  try:
    with open(path, "rb") as file:
      data = file.read()
  except OSError as error:
    warn(f"{path} cannot be read and is left out: {error.strerror}")
    return None
  if len(data) < 24 or not data.startswith(_PNG):
    warn(f"{path} is no PNG and is left out")
    return None
  return data
