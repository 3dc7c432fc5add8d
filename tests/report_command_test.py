"""The command and the page it writes, read as a browser does."""

import base64
import html
import html.parser
import os
import stat

import pytest
import report_folder

from cassle_jax.errors import UserError
from cassle_jax.report import command, curves, page, sections, tables

# Elements that have no end tag.
_VOID = {"meta", "img", "br", "link", "hr"}
CHARTS = {
  "blocks_earth.png",
  "omega-drop_earth.png",
  "probe_earth.png",
  "sensitivity_earth.png",
  "spectrum_earth.png",
  "strength_earth.png",
  "time.png",
  "training.png",
  "wrong-omega_earth.png",
}


class Page(html.parser.HTMLParser):
  """Checks that elements nest, and keeps what a test asks for."""

  def __init__(self, text):
    super().__init__()
    self.open, self.images, self.links, self.ids = [], [], [], []
    self.rows, self.scripts, self.headings = [], 0, []
    self.feed(text)
    self.close()
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    if tag not in _VOID:
      self.open.append(tag)
    self.scripts += tag == "script"
    if "src" in attrs:
      self.images.append(attrs["src"])
    if "href" in attrs:
      self.links.append(attrs["href"])
    if "id" in attrs:
      self.ids.append(attrs["id"])
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self.rows[-1].append("")
    if tag == "h2":
      self.headings.append("")

  def handle_endtag(self, tag):
    assert self.open and self.open.pop() == tag, tag

  def handle_data(self, data):
    if self.open and self.open[-1] in ("td", "th"):
      self.rows[-1][-1] += data
    if self.open and self.open[-1] == "h2":
      self.headings[-1] += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The folder of a report over two kinds with two seeds each, whole."""
  root = tmp_path_factory.mktemp("report")
  for awareness, shift in (("vanilla", 0.0), ("cassle", 1.0)):
    for seed in (0, 1):
      folder = report_folder.make(
        root / "runs" / f"{awareness}{seed}", awareness=awareness, seed=seed
      )
      report_folder.measured(folder, shift + 0.5 * seed)
  out = root / "out"
  assert command.main([str(root / "runs"), f"--out={out}"]) == 0
  return out


def test_the_files_and_only_those(made):
  panels = {f"retrieval_earth_{name}.png" for name in ("vanilla", "cassle")}
  assert set(os.listdir(made)) == CHARTS | panels | {"report.html", "tables.md"}
  for name in os.listdir(made):
    # As readable as any other file, not as private as a temporary one.
    assert stat.S_IMODE(os.stat(made / name).st_mode) & 0o400
    if name.endswith(".png"):
      assert (made / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_is_well_formed_and_needs_nothing_else(made):
  text = (made / "report.html").read_text()
  found = Page(text)
  prefix = "data:image/png;base64,"
  assert all(source.startswith(prefix) for source in found.images)
  pictures = {base64.b64decode(s.removeprefix(prefix)) for s in found.images}
  files = {
    (made / n).read_bytes() for n in os.listdir(made) if n[-4:] == ".png"
  }
  assert pictures == files
  assert {link[0] for link in found.links} == {"#"}
  assert {link[1:] for link in found.links} == set(found.ids)
  assert len(found.ids) == len(set(found.ids))
  assert not found.scripts
  for word in ("http:", "https:", "url(", "@import"):
    assert word not in text
  assert "prefers-color-scheme: dark" in text and "viewport" in text


def test_the_page_has_the_numbers(made):
  found = Page((made / "report.html").read_text())
  # 61 and 61.5: mean 61.25, half-width 12.7062 * 0.25.
  assert ["CASSLE", "61.2 ± 3.2"] in found.rows
  assert "Not measured" not in found.headings
  assert "Left out" not in found.headings
  text = (made / "tables.md").read_text()
  assert "| CASSLE | **61.2 ± 3.2** |" in text


def test_what_is_missing_is_named_with_its_command(tmp_path, capsys):
  folder = report_folder.make(tmp_path / "a run")
  report_folder.result(folder, "linear", "cars", 50.0)
  out = tmp_path / "out"
  assert command.main([folder, f"--out={out}"]) == 0
  assert set(os.listdir(out)) == {"report.html", "tables.md"}
  found = Page((out / "report.html").read_text())
  assert found.headings == ["Linear evaluation (%)", "Runs", "Not measured"]
  text = (out / "report.html").read_text()
  for task in ("knn", "few_shot", "sensitivity", "probe", "retrieval"):
    assert f"--config.tasks={task}" in text
  # A folder with a space in it can be pasted into a shell.
  assert f"--workdir='{folder}'" in html.unescape(text)
  assert "wrote" in capsys.readouterr().out


def test_every_text_from_data_is_escaped(tmp_path):
  evil = '"><script>alert(1)</script>'
  folder = report_folder.make(
    tmp_path / "<script>a", method=evil, awareness=evil, backbone=evil
  )
  report_folder.measured(folder)
  os.rename(
    f"{folder}/eval/spectrum/earth.json", f"{folder}/eval/spectrum/<b>.json"
  )
  report_folder.write(folder, "eval/knn/<img src=x>.json", "<script>")
  report_folder.write(folder, "summary.json", {"device": evil})
  out = tmp_path / "out"
  assert command.main([folder, f"--out={out}"]) == 0
  found = Page((out / "report.html").read_text())
  assert not found.scripts
  assert all(source.startswith("data:") for source in found.images)
  assert any(evil in cell for row in found.rows for cell in row)
  assert "<script" not in (out / "tables.md").read_text()
  assert all(name.isascii() and "<" not in name for name in os.listdir(out))


def test_the_same_runs_give_the_same_files(made, tmp_path):
  again = tmp_path / "again"
  folder = made.parent / "runs"
  assert command.main([str(folder), f"--out={again}"]) == 0
  for name in os.listdir(made):
    assert (again / name).read_bytes() == (made / name).read_bytes(), name


def test_damage_is_a_warning_and_the_rest_is_drawn(tmp_path, capsys):
  folder = report_folder.make(tmp_path / "runs" / "a")
  report_folder.result(folder, "linear", "cars", 50.0)
  report_folder.write(folder, "eval/linear/pets.json", "{")
  details = {"k": 8, "panel": "cars.png"}
  report_folder.result(folder, "retrieval", "cars", 5.0, details)
  report_folder.write(folder, "eval/retrieval/cars.png", "no picture")
  report_folder.write(tmp_path / "runs" / "b", "config.json", "{")
  out = tmp_path / "out"
  assert command.main([str(tmp_path / "runs"), f"--out={out}"]) == 0
  lines = capsys.readouterr().err.splitlines()
  for name in ("b/config.json", "pets.json", "cars.png"):
    assert sum(name in line for line in lines) == 1
  found = Page((out / "report.html").read_text())
  assert "Left out" in found.headings
  assert ["CASSLE", "50.0"] in found.rows


def test_mistakes_are_one_line(tmp_path):
  os.makedirs(tmp_path / "empty")
  report_folder.write(tmp_path / "bad", "config.json", "{")
  folder = report_folder.make(tmp_path / "a")
  (tmp_path / "file").write_text("")
  for arguments, text in (
    ([str(tmp_path / "none")], "there is no run"),
    ([str(tmp_path / "empty")], "config.json"),
    ([str(tmp_path / "bad"), f"--out={tmp_path / 'o'}"], "can be read"),
    ([folder, f"--out={tmp_path / 'file'}"], "--out"),
    ([], "DIR"),
    ([folder, "--colour=red"], "--colour"),
  ):
    with pytest.raises(UserError, match=text) as error:
      command.main(arguments)
    assert "\n" not in str(error.value)


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
  folder = report_folder.make(tmp_path / "run")
  out = tmp_path / "out"
  report_folder.write(out, "report.html", "old")

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(command.os, "replace", full)
  with pytest.raises(UserError, match="No space left"):
    command.main([folder, f"--out={out}"])
  assert (out / "report.html").read_text() == "old"
  assert os.listdir(out) == ["report.html"]


def test_help_teaches(capsys):
  with pytest.raises(SystemExit) as stop:
    command.main(["--help"])
  assert stop.value.code == 0
  text = capsys.readouterr().out
  for word in ("report.html", "tables.md", "cassle_jax.evaluate", "--out"):
    assert word in text


def test_long_words_may_be_broken():
  long = "x" * 40
  table = tables.Table("T", ("a",), 1, (tables.Row((long,)),))
  text = page.render("t", "s", [page.Section("T", "", (table,))], [], [])
  assert f'<td class="long">{long}</td>' in text


def test_a_run_without_results_is_named_with_its_command(tmp_path):
  report_folder.measured(report_folder.make(str(tmp_path / "runs" / "a")))
  silent = report_folder.make(str(tmp_path / "runs" / "b"), awareness="vanilla")
  out = str(tmp_path / "out")
  assert command.main([str(tmp_path / "runs"), f"--out={out}"]) == 0
  with open(os.path.join(out, "report.html")) as file:
    text = file.read()
  assert f"Everything of {silent}" in text
  assert f"--workdir={silent}" in text


HUGE = "1" + "0" * 400
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", ["1e999", "-1e999", "Infinity", HUGE, DEEP])
@pytest.mark.parametrize(
  "file",
  ["config.json", "summary.json", "metrics.jsonl", "eval/knn/earth.json"]
  + ["eval/strength/earth.json", "eval/wrong_omega/earth.json"],
)
def test_numbers_that_no_run_writes_end_no_report(tmp_path, file, text):
  """Each number of a file in turn becomes one that is none."""
  good = report_folder.make(str(tmp_path / "runs" / "a"))
  bad = report_folder.make(str(tmp_path / "runs" / "b"), awareness="vanilla")
  for folder in (good, bad):
    report_folder.result(folder, "knn", "earth", 5.0, {"top1": {"20": 5.0}})
  report_folder.write(bad, "metrics.jsonl", '{"step": 1, "loss": 2.0}\n')
  records = {
    "config.json": '{"seed": %s, "method": {"name": "simclr"}, "model":'
    ' {"backbone": "r"}, "awareness": {"name": "cassle"}}',
    "summary.json": '{"step": %s, "loss": %s, "knn_top1": %s}',
    "metrics.jsonl": '{"step": %s, "loss": 2}\n{"step": 2, "loss": %s}\n'
    '{"step": 3, "goodput": %s}',
    "eval/knn/earth.json": '{"value": %s, "step": %s, "details": {"top1":'
    ' {"20": %s}}}',
    "eval/strength/earth.json": '{"value": 1, "step": 1, "details":'
    ' {"curves": {"a": {"strength": [0, %s], "mean": [0, 1],'
    ' "interval": [0, 0]}}}}',
    "eval/wrong_omega/earth.json": '{"value": 1, "step": 1, "details": {"ops":'
    ' {}, "edges": [0, %s]}}',
  }
  report_folder.write(bad, file, records[file].replace("%s", text))
  out = str(tmp_path / "out")
  assert command.main([str(tmp_path / "runs"), f"--out={out}"]) == 0
  with open(os.path.join(out, "tables.md")) as found:
    assert "inf" not in found.read()


def test_names_may_hold_anything(tmp_path, capsys):
  names = ("$\\nosuch{$", "\u6570\u636e" + "x" * 260, "a\nb|c\udcff")
  for place, name in enumerate(names):
    folder = report_folder.make(
      str(tmp_path / "runs" / str(place)),
      awareness=name,
      data={"source": f"folder:/{name}/a", "image_size": 32},
    )
    report_folder.measured(folder)
  out = str(tmp_path / "out")
  assert command.main([str(tmp_path / "runs"), f"--out={out}"]) == 0
  assert "left out" not in capsys.readouterr().err
  files = [name for name in os.listdir(out) if name.startswith("sensitivity")]
  # Each has a chart of its own, under a name that a disk takes.
  assert len(files) == len(names)
  assert all(len(name.encode()) < 200 for name in files)


def test_a_chart_that_cannot_be_drawn_costs_no_other(
  tmp_path, capsys, monkeypatch
):
  report_folder.measured(report_folder.make(str(tmp_path / "runs" / "a")))

  def broken(*_):
    raise OverflowError("beyond all axes\nand more")

  monkeypatch.setattr(curves, "training", broken)
  out = str(tmp_path / "out")
  assert command.main([str(tmp_path / "runs"), f"--out={out}"]) == 0
  assert "training.png is left out (OverflowError: beyond all axes)" in (
    capsys.readouterr().err
  )
  assert "sensitivity_earth.png" in os.listdir(out)


def test_two_pictures_never_share_a_file():
  picture = page.Picture("a.png", "t", b"", 1)
  part = page.Section("s", "", (picture, picture._replace(title="u")))
  found = sections._told_apart([part, part])
  files = [one.file for each in found for one in each.content]
  assert files == ["a.png", "a-2.png", "a-3.png", "a-4.png"]
