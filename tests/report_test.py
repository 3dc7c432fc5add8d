"""The report: runs that are read, tables by hand, the page as browsers do."""

import html.parser
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from cassle_jax import published
from cassle_jax.errors import UserError
from cassle_jax.report import __main__ as report
from cassle_jax.report import charts, page, runs, tables


def make_run(folder, *, awareness="cassle", seed=0, results=(), **config):
  """Writes a run's folder; results: {(task, name): (value, details)}."""
  os.makedirs(folder)
  values = {
    "method": {"name": "simclr"},
    "model": {"backbone": "resnet50"},
    "awareness": {"name": awareness},
    "seed": seed,
    "published": None,
  }
  (folder / "config.json").write_text(json.dumps(values | config))
  for (task, name), (value, details) in dict(results).items():
    os.makedirs(folder / "eval" / task, exist_ok=True)
    record = {"task": task, "dataset": name, "value": value, "details": details}
    path = folder / "eval" / task / f"{name}.json"
    path.write_text(json.dumps(record))
  return folder


def groups_of(*folders):
  found = [runs.read(path, pytest.fail) for path in runs.find(folders)]
  return runs.by_kind(found)


def full_details(shift):
  """Details of every task with a chart."""
  told = {
    name: {"mean": 0.5, "histogram": [1, 2, 3]}
    for name in ("true", "other", "neutral", "noise")
  }
  block = {"infonce": 1.0 + shift, "positive": 0.9, "negative": 0.1}
  return {
    ("linear", "earth"): (60.0 + shift, {}),
    ("knn", "earth"): (50.0 + shift, {}),
    ("sensitivity", "earth"): (
      1.0 + shift,
      {"ops": {"crop": {"features": block, "projection": block}}},
    ),
    ("wrong_omega", "earth"): (
      0.1 * shift,
      {"ops": {"crop": told}, "edges": [-1.0, 0.0, 0.5, 1.0]},
    ),
    ("probe", "earth"): (
      0.2 + 0.1 * shift,
      {
        given: {"flip": {"linear": 0.5, "mlp": 0.6, "score": "auc"}}
        for given in ("single", "pairs")
      },
    ),
    ("strength", "earth"): (
      0.8,
      {
        "curves": {
          "hue": {"strength": [0.0, 0.5], "mean": [1.0, 0.5], "unit": "turns"}
        }
      },
    ),
    ("spectrum", "earth"): (
      3.0,
      {"eigenvalues": [0.6, 0.3, 0.1], "alpha": 1.5, "rankme": 3.0},
    ),
    ("retrieval", "earth"): (70.0, {"panel": "earth.png"}),
  }


def test_runs_are_found_grouped_and_sorted_by_seed(tmp_path):
  for seed in (1, 0):
    make_run(tmp_path / "all" / f"c{seed}", seed=seed)
  single = make_run(tmp_path / "v", awareness="vanilla")
  os.makedirs(tmp_path / "empty")
  groups = groups_of(tmp_path / "all", single, tmp_path / "all" / "c0")
  assert [kind.awareness for kind in groups] == ["cassle", "vanilla"]
  assert [[run.seed for run in group] for group in groups.values()] == [
    [0, 1],
    [0],
  ]
  with pytest.raises(UserError, match="no folder '/nowhere'"):
    runs.find(["/nowhere"])
  with pytest.raises(UserError, match="is no run's folder and has none"):
    runs.find([str(tmp_path / "empty")])


def test_damaged_files_are_named_and_left_out(tmp_path):
  folder = make_run(tmp_path / "a", results={("knn", "earth"): (50.0, {})})
  (folder / "eval" / "knn" / "dtd.json").write_text('{"value": 3')
  (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"st')
  warnings = []
  run = runs.read(str(folder), warnings.append)
  assert set(run.results) == {("knn", "earth")}
  assert run.curves == [{"step": 1, "loss": 2.0}]
  assert "dtd.json cannot be read" in warnings[0]
  assert "metrics.jsonl, line 2" in warnings[1]
  (folder / "config.json").write_text("[]")
  with pytest.raises(UserError, match="not the config of a run"):
    runs.read(str(folder), warnings.append)


def test_accuracies_by_hand(tmp_path):
  """Two seeds of CASSLE, one of vanilla, and the row that it repeats."""
  row = "simclr/resnet50/vanilla"
  for seed, value in ((0, 80.0), (1, 84.0)):
    make_run(
      tmp_path / f"c{seed}",
      seed=seed,
      results={
        ("linear", "cifar10"): (value, {}),
        ("linear", "cars"): (30.0, {}),
        ("linear", "dtd"): (60.0, {}),
      },
    )
  make_run(
    tmp_path / "v",
    awareness="vanilla",
    published=row,
    results={
      ("linear", "cifar10"): (83.0, {}),
      ("linear", "cars"): (20.0, {}),
    },
  )
  table = tables.accuracy(groups_of(tmp_path), "linear", "Linear")
  assert table.head[3:] == (
    *("origin", "CIFAR-10", "Stanford Cars", "DTD", "mean", "rank"),
  )
  cassle, vanilla, paper = (cells[3:] for cells in table.rows)
  # 12.706 * 2 points; mean and rank over CIFAR-10 and Cars, which both have.
  assert cassle[:2] == ("measured, 2 seeds", "82.0 ± 25.4")
  assert cassle[2:] == ("30.0 ± 0.0", "60.0 ± 0.0", "56.0", "1.5")
  assert vanilla == ("measured, 1 seed", "83.0", "20.0", "", "51.5", "1.5")
  known = published.row(row).values
  assert paper[:2] == ("published", f"{known['cifar10']:.2f}")
  assert paper[2] == f"{known['cars']:.2f}"
  assert table.best == {(1, 4), (0, 5), (0, 6)}
  text = tables.markdown(table)
  assert "**83.0**" in text and "not measured here" in text
  assert tables.accuracy(groups_of(tmp_path), "knn", "k-NN") is None


def test_a_published_row_needs_the_recipe_it_is_of(tmp_path):
  make_run(
    tmp_path / "a",
    published="mocov2/resnet50/cassle",
    results={("linear", "cars"): (30.0, {})},
  )
  table = tables.accuracy(groups_of(tmp_path), "linear", "Linear")
  assert len(table.rows) == 1 and "mean" not in table.head


def test_findings_are_paired_by_seed(tmp_path):
  """k-NN: +1 and +2, so 1.5 +- 12.706 * 0.5; linear: +2, +2.02, +1.98."""
  values = {"cassle": ((61, 32), (72, 22.02), (83, 41.98))}
  values["vanilla"] = ((60, 30), (70, 20), (90, 40))
  for awareness, numbers in values.items():
    for seed, (knn, linear) in enumerate(numbers):
      results = {("linear", "earth"): (linear, {})}
      if seed < 2:
        results["knn", "earth"] = (knn, {})
      name = tmp_path / f"{awareness}{seed}"
      make_run(name, awareness=awareness, seed=seed, results=results)
  table = tables.findings(groups_of(tmp_path))
  assert table.rows == (
    ("simclr", "linear accuracy is higher", "+2.0 ± 0.0 points", "holds"),
    ("simclr", "k-NN accuracy is higher", "+1.5 ± 6.4 points", "undecided"),
  )
  assert tables.findings(groups_of(tmp_path / "cassle0")) is None


def test_verdicts():
  interval = tables.confidence.Interval
  assert tables.verdict(interval(2.0, 1.9, 3)) == "holds"
  assert tables.verdict(interval(-2.0, 1.9, 3)) == "does not hold"
  assert tables.verdict(interval(2.0, 2.1, 3)) == "undecided"
  assert tables.verdict(interval(2.0, np.nan, 1)).startswith("one seed")


class Reader(html.parser.HTMLParser):
  """Collects a page's tags and checks that they close."""

  def __init__(self):
    super().__init__()
    self.open, self.sources, self.texts = [], [], []

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.sources += [attributes[k] for k in ("src", "href") if k in attributes]
    if tag not in ("meta", "img", "br"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


def test_command_makes_one_page_of_everything(tmp_path, capsys):
  for seed in (0, 1):
    for awareness, shift in (("vanilla", 0.0), ("cassle", 1.0 + seed)):
      folder = make_run(
        tmp_path / "runs" / f"{awareness}{seed}",
        awareness=awareness,
        seed=seed,
        results=full_details(shift),
      )
      Image.new("RGB", (8, 8)).save(folder / "eval" / "retrieval" / "earth.png")
      lines = [{"step": s, "loss": 3.0 - s, "knn_top1": 0.5} for s in (1, 2)]
      text = "\n".join(json.dumps(line) for line in lines)
      (folder / "metrics.jsonl").write_text(text)
  out = tmp_path / "out"
  assert report.main([str(tmp_path / "runs"), f"--out={out}"]) == 0
  printed = capsys.readouterr().out
  assert printed.startswith((out / "tables.md").read_text())
  drawn = {chart.file + ".png" for chart in report.charts_of()}
  assert {p.name for p in out.iterdir()} == {*drawn, "report.html", "tables.md"}
  for name in drawn:
    with Image.open(out / name) as image:
      assert image.size[0] > 400
  text = (out / "report.html").read_text()
  reader = Reader()
  reader.feed(text)
  assert not reader.open
  # Six charts and two panels, all inside the file.
  assert len(reader.sources) == 8
  assert all(s.startswith("data:image/png;base64,") for s in reader.sources)
  assert "Findings: CASSLE minus vanilla, seed by seed" in reader.texts
  assert not re.search(r"https?://(?!arxiv)", text)
  # The same runs give the same page.
  report.main([str(tmp_path / "runs"), f"--out={tmp_path / 'again'}"])
  assert (tmp_path / "again" / "report.html").read_text() == text


def test_parts_without_data_name_the_command(tmp_path):
  make_run(tmp_path / "run")
  report.main([str(tmp_path / "run"), f"--out={tmp_path / 'out'}"])
  text = (tmp_path / "out" / "report.html").read_text()
  assert text.count("python -m cassle_jax.evaluate") == 7
  assert "<img" not in text


def test_text_from_data_is_escaped():
  table = tables.Table("<b>", ("a&b",), (("<script>",),), notes=('"x"',))
  text = page.render("t", "s", [table], ["<folder>"])
  assert "<script>" not in text and "&lt;script&gt;" in text
  assert "&lt;folder&gt;" in text and "a&amp;b" in text


def test_every_awareness_has_a_colour_of_its_own():
  from cassle_jax.awareness import AWARENESS

  assert set(charts.COLORS) == set(AWARENESS)
  assert len(set(charts.COLORS.values())) == len(AWARENESS)
