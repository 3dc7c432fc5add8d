"""The published numbers, and that configs and README quote them rightly."""

import configparser
import json
import os
import re

import pytest

from cassle_jax import config as config_lib
from cassle_jax.errors import UserError
from cassle_jax.runs import published
from cassle_jax.training import summary as run_summary

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIGS = os.path.join(ROOT, "configs")
FILES = sorted(n for n in os.listdir(CONFIGS) if n.endswith(".py"))


def read(*parts):
  with open(os.path.join(ROOT, *parts)) as file:
    return file.read()


def docstring_of(name):
  return read("configs", name).split('"""')[1]


def variants_of(name):
  """What the docstring of `get_config` promises; not METHOD/AWARENESS."""
  words = re.search(r'"""Variants: ([^.]*)\.', read("configs", name)).group(1)
  return [w for w in re.split(r",\s*", words) if w.islower()]


ALL = [f"{name}:{variant}" for name in FILES for variant in variants_of(name)]


def load(name):
  return config_lib.load(os.path.join(CONFIGS, name))


def test_table_1_has_its_13_rows_of_13_numbers():
  rows = published.rows()
  assert len(rows) == len({row.name for row in rows}) == 13
  for row in rows:
    assert row.name == f"{row.method}/{row.backbone}/{row.awareness}"
    assert tuple(row.values) == tuple(published.TITLES)
    known = [value for value in row.values.values() if value is not None]
    assert known and all(20 < value < 100 for value in known)
  # LooC published one number, AI eight; every other row is complete.
  missing = {
    row.name: sum(value is None for value in row.values.values())
    for row in rows
  }
  assert missing.pop("mocov2/resnet50/looc") == 12
  assert missing.pop("simclr/resnet50/ai") == 5
  assert missing.pop("mocov2/resnet50/ai") == 5
  assert not any(missing.values())


def test_numbers_as_they_are_printed():
  """Corners of the tables, read off by eye."""
  values = published.row("simclr/resnet50/vanilla").values
  assert values["cifar10"] == 84.41 and values["300w"] == 88.59
  values = published.row("mocov3/vit_small/cassle").values
  assert values["cifar10"] == 85.13 and values["300w"] == 88.53
  assert published.row("mocov2/resnet50/looc").values["cub200"] == 39.6
  assert published.row("mocov2/resnet50/ai").values["cars"] is None
  assert published.row("mocov2/resnet50/ifm").re_evaluated_by_authors
  assert not published.row("mocov2/resnet50/ai").re_evaluated_by_authors
  assert published.detection(method="mocov2", awareness="vanilla") == 45.12
  assert published.detection(method="simclr", awareness="cassle") == 45.6
  assert "2306.06082" in published.source()


def test_what_was_not_published_is_none_and_a_wrong_name_an_error():
  kind = dict(method="mocov2", backbone="resnet50", awareness="ifm")
  row = published.find(**kind)
  assert row is published.row("mocov2/resnet50/ifm")
  assert row.setting == "ResNet-50, ImageNet-100"
  assert published.find(**kind | dict(method="byol")) is None
  assert published.find(**kind | dict(backbone="resnet18")) is None
  assert published.detection(method="mocov3", awareness="cassle") is None
  assert published.detection(method="mocov2", awareness="ifm") is None
  assert published.detection(method="awareness", awareness="cassle") is None
  with pytest.raises(UserError, match="Did you mean 'mocov2/resnet50/ifm'"):
    published.row("mocov2/resnet50/imf")
  with pytest.raises(TypeError):
    row.values["cars"] = 100.0


def test_a_run_has_a_row_only_while_it_is_of_its_kind():
  kind = dict(method="simclr", backbone="resnet50", awareness="cassle")
  name = "simclr/resnet50/cassle"
  assert published.row_of_run(name, **kind).values["cars"] == 39.86
  assert published.row_of_run(None, **kind) is None
  # As after --config.awareness.name=vanilla: other published numbers, but
  # not those that the config names.
  changed = kind | dict(awareness="vanilla")
  assert published.row_of_run(name, **changed) is None
  with pytest.raises(UserError, match="published row 'simclr'"):
    published.row_of_run("simclr", **kind)


@pytest.mark.parametrize("name", ALL)
def test_a_config_that_names_a_row_is_its_recipe(name):
  config = load(name)
  if config.published is not None:
    row = published.row(config.published)
    assert row.method == config.method.name
    assert row.backbone == config.model.backbone
    assert row.awareness == config.awareness.name
    data = "ImageNet-100" if "imagenet100" in config.data.source else "1k"
    assert row.setting.endswith(data)
  if name.endswith(":tiny"):
    assert config.published is None


def test_every_row_of_table_1_has_a_config():
  where = {row.name: [] for row in published.rows()}
  for name in ALL:
    row = load(name).published
    if row is not None:
      where[row].append(name)
  for row, names in where.items():
    print(f"{row:28} {', '.join(names)}")
  missing = [row for row, names in where.items() if not names]
  assert not missing


def quoted(text):
  """{awareness: {title: number or None}} of a docstring's table."""
  lines = text.split("\n")
  heads = [i for i, line in enumerate(lines) if "  published, %" in line]
  table = {}
  for head in heads:
    titles = lines[head].split()[2:]
    for line in lines[head + 1 :]:
      if not line.strip():
        break
      awareness, *cells = line.split()
      values = [None if cell == "-" else float(cell) for cell in cells]
      table[awareness] = dict(zip(titles, values, strict=True))
  return table


@pytest.mark.parametrize("name", FILES)
def test_docstrings_quote_the_published_numbers(name):
  table = quoted(docstring_of(name))
  rows = {}
  for variant in variants_of(name):
    row = load(f"{name}:{variant}").published
    if row is not None:
      rows[published.row(row).awareness] = published.row(row)
  # Neither a row without its numbers nor numbers without their row.
  assert set(table) == set(rows)
  for awareness, values in table.items():
    for title, value in values.items():
      (key,) = (k for k, word in published.TITLES.items() if word == title)
      assert value == rows[awareness].values[key], (awareness, title)


def test_the_readme_quotes_the_published_numbers():
  cell = re.compile(r"([\d.]+) / ([\d.]+) \(([\d.]+) / ([\d.]+)\), published$")
  head = "CIFAR-10 / Cars, CASSLE (vanilla)"
  _, _, rest = read("README.md").partition(head)
  assert rest, f"the table {head!r} is gone"
  checked = []
  for line in rest.split("\n")[2:]:
    if not line.startswith("|"):
      break
    name, _, numbers = (part.strip() for part in line.strip("|").split("|"))
    found = cell.match(numbers)
    file = re.match(r"`(\w+)", name).group(1)
    row = load(f"{file}.py").published
    # A number is published if and only if its config has a row.
    assert bool(found) == (row is not None), line
    if found:
      row = published.row(row)
      assert row.awareness == "cassle"
      vanilla = row.name.removesuffix("cassle") + "vanilla"
      wanted = [
        row_.values[key]
        for row_ in (row, published.row(vanilla))
        for key in ("cifar10", "cars")
      ]
      assert [float(number) for number in found.groups()] == wanted, line
      checked.append(name)
  assert len(checked) == 3


def test_the_numbers_are_installed_with_the_package():
  setup = configparser.ConfigParser()
  setup.read(os.path.join(ROOT, "setup.cfg"))
  files = setup["options.package_data"]["cassle_jax"].split()
  assert "runs/published.json" in files


def test_what_a_run_prints_and_keeps_of_its_row():
  row = published.row("mocov2/resnet50/ai")
  record = json.loads(json.dumps(published.record(row)))
  assert record["values"]["cars"] is None
  text = published.text(record)
  assert max(map(len, text.splitlines())) <= 79
  assert f"Caltech-101 {row.values['caltech101']:.2f}" in " ".join(text.split())
  assert "Cars" not in text and "2306.06082" in text
  assert published.record(None) is None
  summary = dict.fromkeys(
    "loss images_per_second knn_top1 knn_top1_random_init linear_top1"
    " linear_top1_random_init skipped_images".split()
  )
  summary |= {"step": 1, "wall_seconds": 2, "devices": 1, "device": "cpu"}
  summary["published"] = record
  assert text in run_summary.text(summary, "runs/a")


def test_a_control_is_not_compared_with_the_table():
  kind = dict(method="simclr", backbone="resnet50", awareness="cassle")
  name = "simclr/resnet50/cassle"
  row = published.row_of_run(name, **kind, conditioning="concat")
  assert row is published.row(name)
  assert published.row_of_run(name, **kind, conditioning="random") is None
