"""The table and the bars of where time went."""

import json

import numpy as np
import pytest
import report_folder

from cassle_jax.report import grouping, runs, time_spent


@pytest.fixture
def groups(tmp_path):
  folders = []
  for seed, shift in ((0, 0.0), (1, 30.0)):
    folder = report_folder.make(tmp_path / f"a{seed}", seed=seed)
    lines = report_folder.spent(shift)
    text = "\n".join(map(json.dumps, lines)) + "\n"
    report_folder.write(folder, "metrics.jsonl", text)
    folders.append(folder)
  folders.append(report_folder.make(tmp_path / "b", awareness="vanilla"))
  return grouping.group(
    [runs.read(f, pytest.fail) for f in folders], pytest.fail
  )


def test_shares_by_hand(groups):
  found = time_spent.table(groups)
  assert len(found.rows) == 2, "a run without a record has no row"
  row = dict(zip(found.head, found.rows[0].cells, strict=True))
  # 722 s in all; ten of the first 60 steps, of 5 s each, are repeated.
  assert row["time"] == "0:12:02"
  assert row["steps that count (%)"] == f"{100 * 500 / 722:.1f}"
  assert row["steps repeated (%)"] == f"{100 * 50 / 722:.1f}"
  assert row["waiting for data (%)"] == f"{100 * 16 / 722:.1f}"
  assert row["starts"] == "2" and row["repeated steps"] == "10"
  shares = [float(v) for k, v in row.items() if k.endswith("(%)")]
  assert sum(shares) == pytest.approx(100, abs=0.4)


def test_bars_are_means_that_add_up(groups):
  made = time_spent.bars(groups)
  (axis,) = made.axes
  widths = [patch.get_width() for patch in axis.patches]
  assert sum(widths) == pytest.approx((722 + 752) / 2 / 60)
  assert axis.get_xlabel() == "minutes"
  ends = np.cumsum(widths)
  starts = [patch.get_x() for patch in axis.patches]
  np.testing.assert_allclose(starts[1:], ends[:-1], atol=1e-9)
  assert [text.get_text() for text in axis.texts] == ["70%"]  # 1025 of 1474.


def test_nothing_written_down_nothing_drawn(groups):
  vanilla = [one for one in groups if one.awareness == "vanilla"]
  assert time_spent.table(vanilla) is None and time_spent.bars(vanilla) is None
