"""Settings at odds and runs that have not learned, said in a line each."""

import types

import numpy as np
import pytest

from cassle_jax import awareness as awareness_lib
from cassle_jax import config as config_lib
from cassle_jax import data, methods
from cassle_jax.training import notes, trainer
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


FLAG = "--config.optim.learning_rate"


def curve(first, last, count=40, accuracy=None):
  losses = np.linspace(first, last, count).tolist()
  more = {} if accuracy is None else {"contrast_accuracy": accuracy}
  return [{"step": i, "loss": x, **more} for i, x in enumerate(losses)]


@pytest.mark.parametrize(
  "records, candidates, words",
  [
    (curve(5, 5, accuracy=0.02), 64, ("chance: 2 %", "64", "1.6 %", FLAG)),
    (curve(5, 4, accuracy=0.04), 63, None),
    (curve(5, 3, accuracy=0.3), 64, None),
    (curve(5, 5.001), None, ("where it began", FLAG)),
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
  "method, awareness, words",
  [
    (dict(name="simclr"), "vanilla", "a guess among 31 candidates"),
    (dict(name="mocov3"), "cassle", "a guess among 16 candidates"),
    (dict(name="mocov2", queue_size=64), "ifm", "a guess among 65 candidates"),
    # LooC's spaces count other candidates each; BYOL has none.
    (dict(name="mocov2", queue_size=64), "looc", "ended where it began"),
    (dict(name="byol"), "vanilla", "ended where it began"),
  ],
)
def test_a_trainer_knows_its_candidates(method, awareness, words):
  lines = curve(5, 5, accuracy=0.01)
  aware = awareness_lib.build(name=awareness)
  config = config_lib.default()
  config.batch_size, config.accumulate = 32, 2
  config.awareness.name = awareness
  parts = types.SimpleNamespace(
    method=aware.adapt(methods.build(**method)), config=config
  )
  evaluations = types.SimpleNamespace(about=None, done={})
  journal = types.SimpleNamespace(records=lambda: lines)
  run = types.SimpleNamespace(
    parts=parts, evaluations=evaluations, journal=journal, step=40
  )
  (line,) = trainer.Trainer.closing_notes(run)
  assert words in line


@pytest.mark.parametrize(
  "before, after, queries, said",
  [
    (0.655, 0.59, 668, True),
    (0.655, 0.64, 668, False),  # Within the intervals.
    (0.655, 0.50, 6, False),
    (1.0, 1 / 3, 3, False),  # 43.9 to 100.0 and 6.1 to 79.2.
    (0.5, 0.9, 668, False),
  ],
)
def test_a_backbone_below_its_random_start(before, after, queries, said):
  done = {0: {"knn_top1": before}, 40: {"knn_top1": after}}
  found = notes.at_end([], done, step=40, queries=queries)
  assert bool(found) == said
  assert not said or "below the 65.5 % of the random start" in found[0]


@pytest.mark.parametrize(
  "awareness, advice",
  [
    ("vanilla", f"{FLAG} or more epochs, or --config.awareness.name=cassle"),
    ("cassle", f"try another {FLAG} or more epochs"),
    ("looc", f"try another {FLAG} or more epochs"),
  ],
)
def test_advice_is_not_what_the_run_has(awareness, advice):
  done = {0: {"knn_top1": 0.9}, 40: {"knn_top1": 0.1}}
  (line,) = notes.at_end([], done, step=40, queries=99, awareness=awareness)
  assert line.endswith(advice)


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
  summary |= {"knn_top1": 1.0, "notes": ["a line"]}
  about = {"queries": 3, "bank": 12, "k": 12, "of": "Val against train"}
  text = run_summary.text(summary | {"evaluated": about}, "runs/a")
  # As its step lines have it: no share is above 100 %.
  assert "  100.0 % (43.9 to 100.0)\n" in text and "note: a line" in text
  assert "of 3 pictures (95 % interval); Val against train, 12 known" in text
  # A summary of an earlier version.
  assert "  100.0 %\n" in run_summary.text(summary, "runs/a")
