"""Settings at odds and runs that have not learned, said in a line each."""

import numpy as np
import pytest

from cassle_jax import config as config_lib
from cassle_jax import data
from cassle_jax.training import notes
from cassle_jax.training import summary as run_summary


def at_start(images=1000, batch=50, total=60, **overrides):
  config = config_lib.default()
  config.batch_size = batch
  for key, value in overrides.items():
    config_lib.apply_override(config, f"{key.replace('__', '.')}={value}")
  return notes.at_start(
    config,
    images=images,
    steps_per_epoch=images // batch,
    total_steps=total,
  )


@pytest.mark.parametrize(
  "settings, words",
  [
    (
      dict(optim__warmup_epochs=3.0),
      "warmup_epochs=3 is as long as the run of 3",
    ),
    (dict(optim__freeze="(('prototypes',3.0),)"), "'prototypes' still for 3"),
    (
      dict(method__name="dino"),
      "warmup_teacher_epochs=30 is as long as the run of 3 epochs",
    ),
    (dict(optim__learning_rate=0.0), "nothing is learned"),
    (dict(method__name="byol", method__momentum=1.0), "target never moves"),
    (
      dict(method__name="mocov2", method__queue_size=4096, images=96, batch=16),
      "holds each image's own keys 42 times, as negatives; set"
      " --config.method.queue_size=80",
    ),
    (dict(method__name="mocov2"), "queue_size=65536 is more than the 1,000"),
    (dict(images=1000, batch=600), "400 of them, others each time, are left"),
    (
      dict(evaluation__every=61),
      "evaluation.every=61 is more than the run's 60",
    ),
  ],
)
def test_settings_at_odds_are_one_line_each(settings, words):
  (line,) = at_start(**settings)
  assert words in line and "\n" not in line


@pytest.mark.parametrize(
  "settings",
  [
    {},
    dict(optim__warmup_epochs=2.9),
    dict(method__name="mocov2", method__queue_size=1000),
    dict(method__name="dino", method__warmup_teacher_epochs=2.0),
    dict(evaluation__every=60),
    dict(images=1000, batch=300),
  ],
)
def test_settings_that_agree_say_nothing(settings):
  assert at_start(**settings) == []


def curve(first, last, count=40, accuracy=None):
  losses = np.linspace(first, last, count).tolist()
  more = {} if accuracy is None else {"contrast_accuracy": accuracy}
  return [{"step": i, "loss": x, **more} for i, x in enumerate(losses)]


@pytest.mark.parametrize(
  "records, candidates, words",
  [
    (curve(5, 5, accuracy=0.02), 64, ("chance", "64")),
    (curve(5, 3, accuracy=0.3), 64, None),
    (curve(5, 5.001), None, ("where it began",)),
    (curve(5, 4.9), None, None),
    (curve(5, 5, count=10), None, None),  # Too short to say so.
    ([], None, None),
  ],
)
def test_a_loss_that_has_not_moved(records, candidates, words):
  found = notes.at_end(records, {}, step=40, queries=0, candidates=candidates)
  assert bool(found) == bool(words)
  assert all(word in found[0] for word in words or ())


@pytest.mark.parametrize(
  "before, after, queries, said",
  [
    (0.655, 0.59, 668, True),
    (0.655, 0.64, 668, False),  # Within the intervals.
    (0.655, 0.50, 6, False),
    (0.5, 0.9, 668, False),
  ],
)
def test_a_backbone_below_its_random_start(before, after, queries, said):
  done = {0: {"knn_top1": before}, 40: {"knn_top1": after}}
  found = notes.at_end([], done, step=40, queries=queries)
  assert bool(found) == said
  assert not said or "below the 65.5 % of the random start" in found[0]


def test_what_was_understood_of_a_set():
  source = data.open_source("bundled:earth")
  line = "bundled:earth, train: 4,202 pictures in 9 classes"
  assert notes.understood(source) == line
  source.aside = ("meta (no split's name)", "val (other splits)")
  text = f"{line}; left aside: meta (no split's name); val (other splits)"
  assert notes.understood(source) == text
  source.class_names, source._labels, source.aside = (), None, ()
  assert notes.understood(source).endswith("4,202 pictures without labels")


def test_the_closing_words_have_n_and_interval():
  summary = dict.fromkeys(
    "loss images_per_second knn_top1_random_init linear_top1"
    " linear_top1_random_init skipped_images".split()
  )
  summary |= {"step": 1, "wall_seconds": 2, "devices": 1, "device": "cpu"}
  summary |= {"knn_top1": 4 / 6, "notes": ["a line"]}
  about = {"queries": 6, "bank": 12, "k": 12, "of": "Val against train"}
  text = run_summary.text(summary | {"evaluated": about}, "runs/a")
  assert "66.7 ± 30.2 %" in text and "note: a line" in text
  assert "of 6 pictures, ± 95 % interval; Val against train, 12 known" in text
  # A summary of an earlier version.
  assert "66.7 %" in run_summary.text(summary, "runs/a")
