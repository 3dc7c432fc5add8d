"""Seconds by what they went into, added up over the starts of a run."""

import json
import time

import pytest

from cassle_jax.runs import goodput


def record(start, step, seconds, from_step=0, lost=0):
  held = dict(
    start=start, from_step=from_step, lost_steps=lost, seconds=seconds
  )
  return {"step": step, "goodput": held}


def test_each_second_counts_once_and_none_is_lost():
  now = [100.0]
  clock = goodput.Clock(now=lambda: now[0])
  now[0] += 3
  with clock.phase("compile"):
    now[0] += 10
  clock.switch("other")
  now[0] += 1
  with clock.phase("save"):
    now[0] += 2
    with clock.phase("step"):
      now[0] += 4
    now[0] += 1
  with pytest.raises(KeyError), clock.phase("evaluation"):
    now[0] += 5
    raise KeyError
  now[0] += 0.5
  seconds = clock.read()
  assert seconds == {
    "init": pytest.approx(3, abs=0.1),
    "compile": 10,
    "step": 4,
    "data": 0,
    "save": 3,
    "evaluation": 5,
    "other": 1.5,
  }


def test_the_time_before_the_clock_was_made_is_part_of_init():
  clock = goodput.Clock(start=time.time() - 7)
  assert clock.read()["init"] == pytest.approx(7, abs=1)
  with pytest.raises(ValueError, match="no phase 'sleep'"):
    clock.switch("sleep")


def test_totals_by_hand():
  """Two starts: the first took 10 steps in 40 s, of which 4 are repeated."""
  records = [
    {"step": 1, "loss": 3.0},
    record(1000.0, 5, {"init": 10, "step": 20}),
    record(1000.0, 10, {"init": 10, "step": 40, "data": 10}),
    record(1100.0, 8, {"init": 5, "step": 8}, from_step=6, lost=4),
    record(1100.0, 20, {"init": 5, "step": 56, "save": 4}, from_step=6, lost=4),
  ]
  found = goodput.totals(json.loads(json.dumps(records)))
  assert found["starts"] == 2
  assert found["seconds"]["init"] == 15 and found["seconds"]["step"] == 96
  assert found["seconds"]["evaluation"] == 0
  assert found["lost_steps"] == 4
  assert found["lost_seconds"] == 4 * 40 / 10
  assert found["stopped_seconds"] == 1100 - (1000 + 60)
  assert found["goodput"] == round((96 - 16) / (60 + 65), 4)


def test_a_run_without_a_restart_lost_nothing():
  found = goodput.totals([record(5.0, 3, {"step": 3.0, "init": 1.0})])
  assert found["lost_steps"] == found["lost_seconds"] == 0
  assert found["stopped_seconds"] == 0 and found["goodput"] == 0.75
  assert goodput.totals([{"step": 1, "loss": 2.0}]) is None


@pytest.mark.parametrize(
  "held",
  [
    3,
    None,
    {},
    {"start": 1.0, "from_step": 0, "lost_steps": 0, "seconds": 3},
    {"start": "1", "from_step": 0, "lost_steps": 0, "seconds": {}},
    {"start": 1.0, "from_step": 0, "lost_steps": 0, "seconds": {"step": -1}},
    {"start": 1.0, "from_step": 0, "lost_steps": 0, "seconds": {"step": "x"}},
  ],
)
def test_damaged_records_are_passed_over(held):
  good = record(1.0, 2, {"step": 1.0})
  bad = {"step": 2, "goodput": held}
  assert goodput.totals([good, bad]) == goodput.totals([good])


def test_lost_steps_are_those_beyond_the_one_resumed_from():
  records = [{"step": 40}, {"step": 57}, {"step": 50}]
  assert goodput.lost_steps(records, 50) == 7
  assert goodput.lost_steps(records, 57) == goodput.lost_steps([], 5) == 0


def test_lost_steps_of_an_earlier_start_are_not_lost_again():
  """To 100, back to 50, killed at 60, back to 50."""
  first = [{"step": 50}, record(1.0, 100, {"step": 9.0})]
  second = [record(2.0, 55, {"step": 1.0}), {"step": 60}]
  assert goodput.lost_steps(first, 50) == 50
  assert goodput.lost_steps([*first, *second], 50) == 10


def test_one_line_says_it():
  spent = goodput.totals(
    [
      record(1.0, 2, {"step": 30.0, "compile": 10.0, "save": 0.01}),
      record(90.0, 3, {"step": 60.0}, lost=1),
    ]
  )
  expected = "time: step 90%, compile 10%; 2 starts, 1 steps repeated"
  assert goodput.text(spent) == expected


def test_an_account_is_written_once_a_step_was_taken(monkeypatch):
  now, written = [0.0], []
  monkeypatch.setattr(goodput.time, "monotonic", lambda: now[0])
  clock = goodput.Clock(start=5.0, now=lambda: now[0])
  account = goodput.Account(
    clock, lambda *line: written.append(line), from_step=6, lost_steps=4
  )
  account.note(6)
  assert not written
  now[0] = 10.0
  clock.switch("step")
  account.note(7, pause=30.0)
  assert not written
  now[0] = 31.0
  account.note(8, pause=30.0)
  account.note(9, pause=1.0)
  ((step, line),) = written
  held = line[goodput.KEY]
  assert (step, held["from_step"], held["lost_steps"]) == (8, 6, 4)
  assert held["start"] == 5.0 and held["seconds"]["step"] == 21.0
