"""The parts of a report in the order of reading, and what each needs."""

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image

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
from cassle_jax.report.page import Content, Picture, Section
from cassle_jax.report.tables import Table, slim

# Columns that a table leaves out where they say the same in every row.
_CONSTANT = ("method", "backbone", "numbers", "data set", "pictures")
# Letters of a file's name.
_LONGEST = 120
# Inches of a chart -> pixels of a page, where 13 points are read well.
_SCALE = 100


class _Chart(NamedTuple):
  """A section of a task's charts, one for each block and data set.

  The names of its files begin with `file`; `draw` gets the groups of a block
  and the name of a result.
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

# Of which each has a row a group: heading, task, table.
_TABLES = (
  ("Linear evaluation", "linear", accuracy.linear),
  ("k nearest neighbours", "knn", accuracy.nearest),
  ("Few-shot classification", "few_shot", accuracy.few_shot),
)
_RETRIEVAL = (
  "Each row: a test picture, then the nearest training pictures; the first seed"
  " of each kind of run."
)
_TRAINING = (
  "Losses of different awareness are different sums: AugSelf's, say, has"
  " further terms. Thin: runs; thick: their mean. Long curves are running means"
  " over 2% of their points."
)
_TIME = (
  "Means over the runs of a kind; the number is the share of steps that count,"
  " the goodput."
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
  # Charts are of networks, whatever represents the pictures.
  networks = [one for one in groups if not one.represented]
  first = groups[0].runs[0].folder
  sections: list[Section] = []
  missing: list[tuple[str, str]] = []

  def add(
    title: str,
    content: Iterable[Content | None],
    text: str = "",
    hint: str = "",
  ) -> None:
    shown = [
      slim(one, _CONSTANT) if isinstance(one, Table) else one
      for one in content
      if one is not None
    ]
    if shown:
      # A table alone says more exactly what the section is of.
      alone = len(shown) == 1 and isinstance(shown[0], Table)
      title = shown[0].title if alone else title
      sections.append(Section(title, text, tuple(shown)))
    elif hint:
      missing.append((title, hint))

  add("Differences to vanilla", measures.differences(groups))
  for title, task, table in _TABLES:
    add(title, [table(groups)], hint=_command(first, task))
  add("What the representation keeps", [measures.headlines(groups)])
  for chart in _CHARTS:
    found = _drawn(chart.file, chart.draw, networks, warn, chart.task)
    add(chart.title, found, chart.text, _command(first, chart.task))
  found = _panels(networks, warn)
  add("Retrieval", found, _RETRIEVAL, _command(first, "retrieval"))
  hint = "python -m cassle_jax.main --config=CONFIG --workdir=RUN"
  found = _drawn("training", curves.training, networks, warn)
  add("Training", found, _TRAINING, hint)
  found = _drawn("time", time_spent.bars, networks, warn)
  add("Where the time went", [*found, time_spent.table(networks)], _TIME)
  add("Runs", [measures.runs(groups)])
  silent = [run.folder for one in groups for run in one.runs if not run.results]
  if len(silent) < sum(len(one.runs) for one in groups):
    missing += [(f"Everything of {run}", _command(run)) for run in silent]
  return _told_apart(sections), missing


def _told_apart(sections: Sequence[Section]) -> list[Section]:
  """The sections, each picture with a file of its own name."""
  taken: dict[str, int] = {}

  def named(one: Content) -> Content:
    if isinstance(one, Table):
      return one
    count = taken[one.file] = taken.get(one.file, 0) + 1
    name = one.file.removesuffix(".png")
    return one if count == 1 else one._replace(file=f"{name}-{count}.png")

  return [
    each._replace(content=tuple(map(named, each.content))) for each in sections
  ]


def _command(folder: str, task: str = "") -> str:
  """What measures a task of a run, or everything."""
  command = "python -m cassle_jax.evaluate --config=configs/eval/all.py"
  command += f" --workdir={shlex.quote(folder)}"
  return f"{command} --config.tasks={task}" if task else command


def _drawn(
  file: str,
  draw: Callable[..., Figure | None],
  groups: Sequence[Group],
  warn: Callable[[str], None],
  task: str = "",
) -> list[Picture]:
  """A chart for each block, and with a task for each of its results.

  `draw` gets the groups of a block, and with a task the name of a result.
  """
  found = []
  for block, members in blocks(groups).items():
    for name in words.datasets(members, task) if task else [""]:
      path = _file(file, name, _block(block, groups))
      try:
        with look.context():
          figure = draw(members, *filter(None, [name]))
          if figure is None:
            continue
          png = look.png(figure)
      except Exception as error:
        # Numbers that no run of ours wrote must not cost the other charts.
        kind = type(error).__name__
        warn(f"the chart {path} is left out ({kind}: {first_line(error)})")
        continue
      title = words.block(block, groups)
      if name:
        title += f": {words.dataset(name)}{_without(members, task, name)}"
      width = round(_SCALE * figure.get_figwidth())
      found.append(Picture(path, title, png, width))
  return found


def _panels(
  groups: Sequence[Group], warn: Callable[[str], None]
) -> list[Picture]:
  """The panel of each group's first seed that has one."""
  found = []
  for one in groups:
    for name in words.datasets([one], "retrieval"):
      for seed, result in one.of("retrieval", name):
        panel = result.data["panel"]
        path = os.path.join(os.path.dirname(result.path), panel)
        png, width = _read_png(path, warn) if panel else (b"", 0)
        if not png:
          continue
        title = (
          f"{words.block(one.block, groups)}, {words.group(one)}, seed {seed}:"
          f" {words.dataset(name)}, {result.value:.0f}% of the neighbours are"
          " of the query's class"
        )
        block = _block(one.block, groups)
        file = _file("retrieval", name, block, one.awareness, one.variant)
        found.append(Picture(file, title, png, width))
        break
  return found


def _without(groups: Sequence[Group], task: str, name: str) -> str:
  """The groups of a chart that it has nothing of, in words."""
  absent = [words.group(one) for one in groups if not one.of(task, name)]
  return f"; not measured: {', '.join(absent)}" if absent else ""


def _block(block: Block, groups: Sequence[Group]) -> str:
  """What tells a block's files from another's; "" for the only one."""
  return words.block(block, groups) if len(blocks(groups)) > 1 else ""


def _file(*parts: str) -> str:
  """A file name of words that may hold anything.

  Words of other scripts, and long ones, are told apart by a hash.
  """
  names = [re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts]
  name = "_".join(name for name in names if name).lower()
  whole = "_".join(parts)
  if len(name) > _LONGEST or not whole.isascii():
    mark = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()
    name = f"{name[:_LONGEST]}-{mark[:8]}"
  return name + ".png"


def first_line(error: Exception) -> str:
  """An error's text, its first line."""
  return (str(error).splitlines() or [""])[0][:200]


def _read_png(path: str, warn: Callable[[str], None]) -> tuple[bytes, int]:
  """A picture's bytes, none where it is damaged, and its width."""
  try:
    with Image.open(path, formats=["PNG"]) as image, open(path, "rb") as file:
      return file.read(), image.width
  except OSError as error:
    reason = error.strerror or "it is no PNG"
  except (Image.DecompressionBombError, ValueError, SyntaxError) as error:
    reason = str(error)
  warn(f"{path} is left out: {reason}")
  return b"", 0
