"""What the charts draw: numbers by hand, one colour for each awareness."""

import json

import matplotlib.colors
import numpy as np
import pytest
import report_folder

from cassle_jax.report import (
  bars,
  curves,
  grouping,
  histograms,
  look,
  results,
  runs,
)

T2 = 4.3027


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
  """Three seeds of vanilla and of CASSLE, and one of AugSelf."""
  root = tmp_path_factory.mktemp("runs")
  for awareness, shifts in {
    "vanilla": (0.0, 1.0, 2.0),
    "cassle": (1.0, 1.0, 1.0),
    "augself": (0.0,),
  }.items():
    for seed, shift in enumerate(shifts):
      folder = report_folder.make(
        root / f"{awareness}{seed}", awareness=awareness, seed=seed
      )
      report_folder.measured(folder, shift)
  found = [runs.read(folder, pytest.fail) for folder in runs.find([str(root)])]
  return grouping.group(found, pytest.fail)


def heights(axis):
  """Bars of a panel in the order of groups: {group's color: heights}."""
  found = {}
  for patch in axis.patches:
    color = matplotlib.colors.to_hex(patch.get_facecolor())
    found.setdefault(color, []).append(patch.get_height())
  return found


def test_bars_are_means_and_whiskers_intervals(groups):
  with look.context():
    figure = bars.sensitivity(groups, "earth")
  features, projections = figure.axes
  vanilla, cassle, augself = (style.color for style in look.styles(groups))
  found = heights(features)
  # Shifts 0, 1, 2 of a tenth each on top of 2, for both operations.
  np.testing.assert_allclose(found[vanilla], [2.1, 2.1])
  np.testing.assert_allclose(found[cassle], [2.1, 2.1])
  np.testing.assert_allclose(found[augself], [2.0, 2.0])
  np.testing.assert_allclose(heights(projections)[vanilla], [3.1, 3.1])
  lines = [
    np.array(path)[:, 1]
    for container in features.collections
    for path in container.get_segments()
  ]
  half = T2 * 0.1 / np.sqrt(3)
  np.testing.assert_allclose(lines[0], [2.1 - half, 2.1 + half], rtol=1e-4)
  # One seed has no interval: two operations of two groups are all.
  assert len(lines) == 4
  assert features.get_ylim()[0] == 0
  named = [text.get_text() for text in features.get_xticklabels()]
  assert named == ["random resized crop", "colour jitter"]


def test_probe_bars_begin_where_a_guess_is(groups):
  with look.context():
    figure = bars.probe(groups, "earth")
  vanilla = look.styles(groups)[0].color
  for axis in figure.axes:
    r2 = axis.get_ylabel() == "R²"
    assert {patch.get_y() for patch in axis.patches} == {0.0 if r2 else 0.5}
    np.testing.assert_allclose(heights(axis)[vanilla], [0.5 if r2 else 0.2])


def test_drops_are_true_minus_wrong(groups):
  with look.context():
    figure = bars.drops(groups, "earth")
  vanilla, _, augself = (style.color for style in look.styles(groups))
  other, neutral, noise = (heights(axis) for axis in figure.axes)
  np.testing.assert_allclose(other[augself], [0.1, 0.1])
  np.testing.assert_allclose(other[vanilla], [0.2, 0.2])
  np.testing.assert_allclose(neutral[vanilla], [0.2, 0.2])
  np.testing.assert_allclose(noise[vanilla], [0.8, 0.8])


def test_rebinned_keeps_every_image():
  edges = np.array([0.0, 1.0, 3.0])
  found = histograms.rebinned(
    np.array([4.0, 6.0]), edges, np.array([0.0, 0.5, 1.5, 3.0])
  )
  # 4 in [0, 1] and 6 in [1, 3], evenly: 2; 2 + 1.5; 4.5.
  np.testing.assert_allclose(found, [2.0, 3.5, 4.5])


def test_histograms_put_seeds_together(groups):
  with look.context():
    figure = histograms.wrong_omega(groups, "earth")
  assert len(figure.axes) == len(groups) * len(report_folder.OPS)
  steps = [p.get_data() for p in figure.axes[0].patches]
  assert len(steps) == len(results.TOLD)
  for values, edges, _ in steps:
    np.testing.assert_allclose(values.sum(), 100, rtol=0.01)
    assert edges[-1] == 1.0
  titles = [axis.get_title(loc="left") for axis in figure.axes[:2]]
  assert titles == ["random resized crop", "colour jitter"]


def test_curves_have_means_and_bands(groups):
  with look.context():
    figure = curves.strength(groups, "earth")
  (axis,) = figure.axes
  vanilla, _, augself = axis.lines[:3]
  np.testing.assert_allclose(vanilla.get_ydata(), [1.0, 0.9, 0.7])
  np.testing.assert_allclose(augself.get_ydata(), [1.0, 0.9, 0.8])
  # The band of one seed is the one over its pictures.
  band = axis.collections[2].get_paths()[0].vertices
  assert np.isclose(band[:, 1].min(), 0.7)
  half = T2 * 0.1 / np.sqrt(3)
  band = axis.collections[0].get_paths()[0].vertices
  np.testing.assert_allclose(band[:, 1].min(), 0.7 - half, rtol=1e-4)


def test_training_curves_are_means_over_seeds(groups):
  with look.context():
    figure = curves.training(groups)
  loss, nearest = figure.axes
  color = look.styles(groups)[0].color
  own = [line for line in loss.lines if line.get_color() == color]
  assert len(own) == 4  # Three runs and their mean.
  np.testing.assert_allclose(own[-1].get_ydata(), [5.1, 4.1, 3.1])
  np.testing.assert_allclose(nearest.lines[-1].get_ydata(), [30.0, 50.0])


def test_runs_that_share_no_step_have_no_mean_curve(tmp_path):
  folders = [report_folder.make(tmp_path / f"{s}", seed=s) for s in (0, 1)]
  for step, folder in enumerate(folders):
    text = json.dumps({"step": step, "loss": 1.0})
    report_folder.write(folder, "metrics.jsonl", text)
  found = [runs.read(folder, pytest.fail) for folder in folders]
  with look.context():
    figure = curves.training(grouping.group(found, pytest.fail))
  assert not figure.axes[0].lines


def test_spectrum_names_the_mean_exponent(groups):
  with look.context():
    figure = curves.spectrum(groups, "earth")
  (axis,) = figure.axes
  labels = [text.get_text() for text in axis.get_legend().get_texts()]
  half = T2 * 0.1 / np.sqrt(3)
  assert labels == [
    f"vanilla: alpha 1.60 ± {half:.2f}",
    "CASSLE: alpha 1.60 ± 0.00",
    "AugSelf: alpha 1.50",
  ]
  assert axis.get_xscale() == axis.get_yscale() == "log"


def test_many_blocks_are_not_all_named(tmp_path):
  folder = report_folder.make(tmp_path / "a")
  names = [f"block{i}" for i in range(12)] + ["features", "projection"]
  blocks = {name: {"infonce": 1.0} for name in names}
  details = {"ops": {op: blocks for op in ("a", "b", "c", "d")}}
  report_folder.result(folder, "sensitivity", "earth", 1.0, details)
  found = grouping.group([runs.read(folder, pytest.fail)], pytest.fail)
  with look.context():
    figure = curves.depth(found, "earth")
  labels = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
  assert labels[-2:] == ["features", "projection"] and len(labels) <= 9
  assert len(figure.axes) == 4


def test_an_awareness_has_one_colour_and_its_variants_other_dashes(tmp_path):
  folders = [
    report_folder.make(tmp_path / "a", awareness="vanilla"),
    report_folder.make(tmp_path / "b"),
    report_folder.make(tmp_path / "c", batch_size=64),
    report_folder.make(tmp_path / "d", awareness="of a fork"),
  ]
  found = [runs.read(folder, pytest.fail) for folder in folders]
  styles = look.styles(grouping.group(found, pytest.fail))
  vanilla, first, second, other = styles
  assert first.color == second.color and first.line != second.line
  assert first.hatch != second.hatch
  assert len({style.color for style in styles}) == 3 and other.label


def test_charts_without_data_are_none(tmp_path):
  folder = report_folder.make(tmp_path / "a")
  found = grouping.group([runs.read(folder, pytest.fail)], pytest.fail)
  assert curves.training(found) is None
  for draw in (
    bars.sensitivity,
    bars.drops,
    bars.probe,
    curves.depth,
    curves.strength,
    curves.spectrum,
    histograms.wrong_omega,
  ):
    assert draw(found, "earth") is None
