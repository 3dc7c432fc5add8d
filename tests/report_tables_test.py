"""The numbers in the tables, computed again by hand."""

import math

import pytest
import report_folder

from cassle_jax.report import accuracy, grouping, measures, runs, tables
from cassle_jax.runs import published

# Two-sided 95% quantiles of Student's t for 1 and 2 degrees of freedom.
T1, T2 = 12.7062, 4.3027


def groups_of(root):
  warnings = []
  found = [runs.read(f, warnings.append) for f in runs.find([str(root)])]
  groups = grouping.group(found, warnings.append)
  assert not warnings
  return groups


def cells(table):
  """{(awareness, numbers): {column: text}}."""
  place = {name: i for i, name in enumerate(table.head)}
  return {
    (row.cells[place["awareness"]], row.cells[place["numbers"]]): dict(
      zip(table.head, row.cells, strict=True)
    )
    for row in table.rows
  }


def best(table):
  """{column: awareness and numbers of the rows whose cell is marked}."""
  marked = {}
  for row in table.rows:
    for column in row.best:
      marked.setdefault(table.head[column], []).append(row.cells[2:4])
  return marked


def linear(root, awareness, seed, values, **more):
  folder = report_folder.make(
    root / f"{awareness}{seed}{more.get('backbone', '')}",
    awareness=awareness,
    seed=seed,
    **more,
  )
  for name, value in values.items():
    report_folder.result(folder, "linear", name, value)


def test_linear_means_intervals_and_ranks_by_hand(tmp_path):
  for seed, (a, b) in enumerate([(80, 50), (82, 53), (84, 53)]):
    linear(tmp_path, "cassle", seed, {"cars": b, "cifar10": a})
  for seed, (a, b) in enumerate([(83, 40), (85, 42)]):
    linear(tmp_path, "vanilla", seed, {"cifar10": a, "cars": b})
  linear(tmp_path, "ifm", 0, {"cifar10": 99.0})
  table = accuracy.linear(groups_of(tmp_path))
  # The order of the paper's table.
  assert table.head[4:] == ("CIFAR-10", "Stanford Cars", "mean", "rank")
  found = cells(table)
  # 80 82 84: deviation 2; 50 53 53: sqrt(3); means 65 67.5 68.5.
  row = found["CASSLE", "3 seeds, measured"]
  assert row["CIFAR-10"] == f"82.0 ± {T2 * 2 / math.sqrt(3):.1f}"
  assert row["Stanford Cars"] == f"52.0 ± {T2:.1f}"
  spread = math.sqrt((2**2 + 0.5**2 + 1.5**2) / 2)
  assert row["mean"] == f"67.0 ± {T2 * spread / math.sqrt(3):.1f}"
  assert row["rank"] == "1.5"
  row = found["vanilla", "2 seeds, measured"]
  assert row["CIFAR-10"] == f"84.0 ± {T1:.1f}"
  assert row["mean"] == f"62.5 ± {T1:.1f}" and row["rank"] == "1.5"
  # One seed has no interval; what it lacks is empty, and not in the mean.
  row = found["IFM", "1 seed, measured"]
  assert row["CIFAR-10"] == "99.0"
  assert row["Stanford Cars"] == row["mean"] == row["rank"] == ""
  assert best(table) == {
    "CIFAR-10": [("IFM", "1 seed, measured")],
    "Stanford Cars": [("CASSLE", "3 seeds, measured")],
    "mean": [("CASSLE", "3 seeds, measured")],
    "rank": [
      ("vanilla", "2 seeds, measured"),
      ("CASSLE", "3 seeds, measured"),
    ],
  }


def test_landmarks_have_the_standard_score_beside_the_published_one(tmp_path):
  for seed, shift in enumerate((0, 2)):
    folder = report_folder.make(tmp_path / f"run{seed}", seed=seed)
    for name, value in (("cars", 40), ("300w", 88), ("earth", 60)):
      details = {"r2": 81 + shift} if name == "300w" else {}
      report_folder.result(folder, "linear", name, value + shift, details)
  table = accuracy.linear(groups_of(tmp_path))
  assert table.head[4:8] == (
    "Stanford Cars",
    "300-W",
    "300-W, standard\u00a0R²",
    "Earth tiles",
  )
  row = cells(table)["CASSLE", "2 seeds, measured"]
  assert row["300-W"] == f"89.0 ± {T1:.1f}"
  assert row["300-W, standard\u00a0R²"] == f"82.0 ± {T1:.1f}"
  # The mean is over table 1's columns: 40 and 88, 42 and 90.
  assert row["mean"] == f"65.0 ± {T1:.1f}"
  assert any("squared correlation" in note for note in table.notes)


def test_other_representations_have_rows_of_their_own(tmp_path):
  """LooC++ and learned descriptors are no columns, and no further runs."""
  for awareness, kind in (("looc", "looc++"), ("ai", "learned")):
    folder = report_folder.make(tmp_path / awareness, awareness=awareness)
    report_folder.result(folder, "linear", "cars", 40)
    for task, name in (("linear", "cars"), ("few_shot", "cub200-1shot")):
      report_folder.result(
        folder, task, f"{name}-{kind}", 50, representation=kind
      )
  groups = groups_of(tmp_path)
  table = accuracy.linear(groups)
  assert table.head[4:] == ("Stanford Cars",)
  values = [(row.cells[2], row.cells[4]) for row in table.rows]
  assert values == [
    ("LooC", "40.0"),
    ("LooC++", "50.0"),
    ("AI", "40.0"),
    ("AI, learned descriptor", "50.0"),
  ]
  few = accuracy.few_shot(groups)
  assert few.head[4:] == ("CUB-200, 1\u00a0shot",)
  assert [row.cells[2] for row in few.rows] == [
    "LooC++",
    "AI, learned descriptor",
  ]
  assert len(measures.runs(groups).rows) == 2


def test_published_rows_stand_apart(tmp_path):
  recipe = "simclr/resnet50/cassle"
  values = {"cifar10": 1.0, "cars": 2.0, "earth": 3.0}
  linear(tmp_path, "cassle", 0, values, published=recipe)
  linear(tmp_path, "vanilla", 0, {"cifar10": 0.5, "cars": 2.5, "earth": 9.0})
  table = accuracy.linear(groups_of(tmp_path))
  found = cells(table)
  assert len(found) == 2 + 4  # SimCLR has four rows in table 1.
  for awareness, title in (("cassle", "CASSLE"), ("ai", "AI")):
    known = published.row(f"simclr/resnet50/{awareness}").values
    row = found[title, "published"]
    for name, column in (("cifar10", "CIFAR-10"), ("cars", "Stanford Cars")):
      number = known[name]
      assert row[column] == ("" if number is None else f"{number:.2f}")
    assert row["Earth tiles"] == ""
  # The mean is over the columns of table 1, so that it can be held beside.
  assert found["CASSLE", "1 seed, measured"]["mean"] == "1.5"
  mean = (86.31 + 39.86) / 2
  assert found["CASSLE", "published"]["mean"] == f"{mean:.2f}"
  assert found["AI", "published"]["mean"] == ""
  # 86.31 is above 1, but what is marked is the best of each origin.
  assert best(table)["CIFAR-10"] == [
    ("CASSLE", "1 seed, measured"),
    ("CASSLE", "published"),
  ]
  assert best(table)["Earth tiles"] == [("vanilla", "1 seed, measured")]
  assert any(published.source() in note for note in table.notes)
  assert all(
    row.published == (row.cells[3] == "published") for row in table.rows
  )


@pytest.mark.parametrize(
  "more",
  [{}, {"published": "simclr/resnet50/vanilla"}, {"published": "nonsense"}],
)
def test_no_published_rows_beside_another_recipe(tmp_path, more):
  linear(tmp_path, "cassle", 0, {"cifar10": 1.0}, **more)
  table = accuracy.linear(groups_of(tmp_path))
  assert [row.published for row in table.rows] == [False]


def test_one_column_has_no_mean_and_one_row_no_best(tmp_path):
  linear(tmp_path, "cassle", 0, {"cifar10": 1.0})
  linear(tmp_path, "cassle", 0, {"cifar10": 9.0}, backbone="vit_small")
  table = accuracy.linear(groups_of(tmp_path))
  assert table.head[4:] == ("CIFAR-10",)
  assert len(table.rows) == 2 and best(table) == {}


def test_unknown_numbers_are_empty(tmp_path):
  linear(tmp_path, "cassle", 0, {"cifar10": None, "cars": 5.0})
  linear(tmp_path, "vanilla", 0, {"cifar10": None})
  table = accuracy.linear(groups_of(tmp_path))
  (row,) = table.rows
  assert row.cells[4:] == ("", "5.0", "", "")


def test_few_shot_of_one_seed_has_the_interval_of_its_episodes(tmp_path):
  for seed, value in enumerate((40.0, 42.0)):
    folder = report_folder.make(tmp_path / f"c{seed}", seed=seed)
    report_folder.result(
      folder, "few_shot", "cub200-1shot", value, interval=0.4
    )
    if not seed:
      report_folder.result(
        folder, "few_shot", "cub200-5shot", value + 20, interval=0.3
      )
  table = accuracy.few_shot(groups_of(tmp_path))
  assert table.head[4:] == ("CUB-200, 1\u00a0shot", "CUB-200, 5\u00a0shots")
  assert table.rows[0].cells[3:] == (
    "1 to 2 seeds, measured",
    f"41.0 ± {T1:.1f}",
    "60.0 ± 0.3*",
  )
  assert any(note.startswith("*") for note in table.notes)


def test_knn_has_every_k_for_few_data_sets_and_one_for_many(tmp_path):
  folder = report_folder.make(tmp_path / "a")
  top1 = {"200": 3.0, "1": 1.0, "20": 2.0}
  report_folder.result(folder, "knn", "cars", 2.0, {"top1": top1})
  table = accuracy.nearest(groups_of(tmp_path))
  assert table.head[4:] == ("k = 1", "k = 20", "k = 200")
  assert table.rows[0].cells[4:] == ("1.0", "2.0", "3.0")
  for name in ("dtd", "pets", "cub200"):
    report_folder.result(folder, "knn", name, 2.0, {"top1": top1})
  table = accuracy.nearest(groups_of(tmp_path))
  assert len(table.head) == 4 + 4 + 2
  assert table.rows[0].cells[4:] == ("2.0",) * 4 + ("2.0", "")


def test_differences_are_paired_by_seed(tmp_path):
  values = {
    "vanilla": {0: 10.0, 1: 20.0, 5: 99.0},
    "cassle": {0: 11.0, 1: 23.0},
  }
  for awareness, seeds in values.items():
    for seed, value in seeds.items():
      linear(tmp_path, awareness, seed, {"cars": value})
  (table,) = measures.differences(groups_of(tmp_path))
  assert table.head == ("quantity", "data set", "CASSLE, 2 seeds")
  # +1 and +3: the seeds' own 10 cancels out.
  assert [row.cells for row in table.rows] == [
    ("linear accuracy (points)", "Stanford Cars", f"+2.0 ± {T1:.1f}")
  ]


def test_differences_of_several_data_sets_are_means_over_shared_ones(tmp_path):
  for seed in range(3):
    linear(tmp_path, "vanilla", seed, {"cars": 10.0, "dtd": 20.0, "pets": 0.0})
    more = 4.0 + 0.01 * seed
    linear(tmp_path, "cassle", seed, {"cars": 10.0 + more, "dtd": 20.0 + more})
  (table,) = measures.differences(groups_of(tmp_path))
  (row,) = table.rows
  assert row.cells[1:] == ("mean of 2", "+4.0 ± 0.0 \u2191")


def test_what_every_task_measures_by_hand(tmp_path):
  for seed in range(2):
    for awareness, shift in (("vanilla", 0.0), ("cassle", 2.0)):
      folder = report_folder.make(
        tmp_path / f"{awareness}{seed}", awareness=awareness, seed=seed
      )
      report_folder.measured(folder, shift)
  groups = groups_of(tmp_path)
  (table,) = measures.differences(groups)
  found = {row.cells[0]: row.cells[2] for row in table.rows}
  assert found == {
    "cosine lost to another's omega": "+0.200 ± 0.000 \u2191",
    "InfoNCE of features (nats)": "+0.200 ± 0.000 \u2191",
    "InfoNCE of projections (nats)": "+0.200 ± 0.000 \u2191",
    "linear probe of omega (R²)": "+0.000 ± 0.000",
    # Of crop alone: flip has an AUC.
    "linear probe of differences (R²)": "+0.200 ± 0.000 \u2191",
    "linear accuracy (points)": "+2.0 ± 0.0 \u2191",
    "k-NN accuracy (points)": "+2.0 ± 0.0 \u2191",
    "few-shot accuracy (points)": "+2.0 ± 0.0 \u2191",
  }
  table = measures.headlines(groups)
  assert table.title == "What the representation keeps, Earth tiles"
  assert table.rows[1].cells[2:] == (
    "CASSLE",
    "2.200 ± 0.000",
    "0.300 ± 0.000",
    "0.500 ± 0.000",
    "0.900 ± 0.000",
    "52.0 ± 0.0",
    "32.0 ± 0.0",
  )
  row = measures.runs(groups).rows[0].cells
  assert row[5:] == ("0", "100", "3.000", "50.0", "", "cpu")


def test_markdown_escapes_marks_and_aligns():
  table = tables.Table(
    "T",
    ("a", "b"),
    1,
    (
      tables.Row(("x|<b>", "1.0"), frozenset({1})),
      tables.Row(("y", ""), published=True),
    ),
    ("note",),
  )
  assert tables.markdown(table) == (
    "## T\n\n| a | b |\n| --- | ---: |\n| x\\|&lt;b> | **1.0** |\n"
    "| _y_ |  |\n\nnote\n"
  )


def test_slim_says_once_what_all_rows_say():
  rows = (
    tables.Row(("m", "p", "1"), frozenset({2})),
    tables.Row(("m", "q", "2")),
  )
  table = tables.slim(tables.Table("T", ("a", "b", "c"), 2, rows), ("a", "b"))
  assert table.head == ("b", "c") and table.lead == 1
  assert table.rows[0] == tables.Row(("p", "1"), frozenset({1}))
  assert table.notes == ("In all rows a: m.",)


def test_a_block_begins_where_another_ends():
  rows = tables.in_blocks([("a", ["1"]), ("a", ["2"]), ("b", ["3"])])
  assert [row.cells for row in rows] == [("1",), ("2",), ("3",)]
  assert [row.first for row in rows] == [False, False, True]


def run(tmp_path, name, awareness, value, *, step=100, settings=None, **more):
  folder = report_folder.make(tmp_path / name, awareness=awareness, **more)
  top1 = {"top1": {"20": value}}
  more = {"step": step, "settings": settings or {}}
  report_folder.result(folder, "knn", "earth", value, top1, **more)


def test_groups_that_differ_in_more_than_awareness_are_not_paired(tmp_path):
  """Batch 4096 at rate 9 beside batch 16 was printed as "CASSLE +9.0"."""
  large, small = (
    {"batch_size": batch, "optim": {"learning_rate": rate}}
    for batch, rate in ((4096, 9.0), (16, 0.03))
  )
  run(tmp_path, "c", "cassle", 69.0, **large)
  run(tmp_path, "v", "vanilla", 60.0, **small)
  groups = groups_of(tmp_path)
  (table,) = measures.differences(groups)
  (row,) = table.rows
  assert row.cells == (
    "settings beside awareness",
    "",
    "not paired: batch_size 4096 (vanilla 16);"
    " optim.learning_rate 9 (vanilla 0.03)",
  )
  assert table.notes[-1].startswith("Not paired: the runs differ")
  # Their own rows name what differs, in every table.
  rows = [row.cells for row in accuracy.nearest(groups).rows]
  assert rows[0][2] == "vanilla, batch_size 16, optim.learning_rate 0.03"
  assert rows[1][2] == "CASSLE, batch_size 4096, optim.learning_rate 9"
  # One that differs in awareness alone is the one to be held against.
  run(tmp_path, "w", "vanilla", 65.0, **large)
  (table,) = measures.differences(groups_of(tmp_path))
  assert [row.cells for row in table.rows] == [
    ("k-NN accuracy (points)", "Earth tiles", "+4.0")
  ]
  assert not any("Not paired" in note for note in table.notes)


def test_what_tells_a_projector_of_omega_is_part_of_the_awareness(tmp_path):
  told = {"backbone": "resnet50", "omega": ["crop"], "conditioning": "concat"}
  untold = {"backbone": "resnet50", "omega": [], "conditioning": "none"}
  run(tmp_path, "c", "cassle", 69.0, model=told)
  run(tmp_path, "v", "vanilla", 60.0, model=untold)
  groups = groups_of(tmp_path)
  (table,) = measures.differences(groups)
  assert table.rows[0].cells[2] == "+9.0"
  names = [row.cells[2] for row in accuracy.nearest(groups).rows]
  assert names == ["vanilla", "CASSLE"]


@pytest.mark.parametrize(
  "more, words",
  [
    (dict(step=4), "not paired: step 999 (vanilla 4)"),
    (
      dict(step=999, settings={"image_size": 16}),
      "not paired: image_size 224 (vanilla 16)",
    ),
    (
      dict(step=999, settings={"image_size": 224, "headline": 1}),
      "not paired: headline default (vanilla 1)",
    ),
  ],
)
def test_results_that_were_measured_differently_are_not_paired(
  tmp_path, more, words
):
  run(tmp_path, "c", "cassle", 69.0, step=999, settings={"image_size": 224})
  run(
    tmp_path, "v", "vanilla", 60.0, **({"settings": {"image_size": 224}} | more)
  )
  groups = groups_of(tmp_path)
  (table,) = measures.differences(groups)
  (row,) = table.rows
  assert row.cells == ("k-NN accuracy (points)", "Earth tiles", words)
  assert any(note.startswith("Not paired") for note in table.notes)
  rows = [row.cells[3] for row in accuracy.nearest(groups).rows]
  assert all("1 seed, measured at " in cell for cell in rows)


def test_a_set_of_other_pictures_is_not_paired(tmp_path):
  for name, awareness, test in (("c", "cassle", 6), ("v", "vanilla", 668)):
    folder = report_folder.make(tmp_path / name, awareness=awareness)
    report_folder.result(
      folder, "linear", "earth", 50.0, protocol={"test": test}
    )
  (table,) = measures.differences(groups_of(tmp_path))
  assert table.rows[0].cells[2] == "not paired: protocol.test 6 (vanilla 668)"
