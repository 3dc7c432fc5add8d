"""Where a run's time goes, over all its starts.

A process counts its seconds by what it was doing, and writes what it has so far
as a line of metrics.jsonl now and then:

    {"step": 120, "goodput": {"start": 1764000000.0, "from_step": 100,
     "lost_steps": 7, "seconds": {"init": 3.1, "compile": 12.0, ...}}}

A line replaces the earlier ones of the same start. `totals` adds up the starts.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

# What a process may be doing, as the host sees it, and how a report calls it:
# "step" is dispatch and waiting for results, "data" waiting for the next batch,
# "save" what a save holds training up, "other" Python between two steps.
PHASES = {
  "init": "starting",
  "compile": "compiling",
  "step": "steps that count",
  "data": "waiting for data",
  "save": "saving",
  "evaluation": "evaluation",
  "other": "other Python",
}
KEY = "goodput"


class Clock:
  """Seconds by phase; they add up to the time since it was made."""

  def __init__(
    self,
    *,
    start: float | None = None,
    now: Callable[[], float] = time.monotonic,
  ):
    """Starts in the phase "init".

    Args:
      start: wall-clock time at which the process began; None is now. The time
        since then is part of "init".
      now: seconds of a clock that never goes back.
    """
    present = time.time()
    self.start = present if start is None else start
    self.seconds = dict.fromkeys(PHASES, 0.0)
    self.seconds["init"] = max(present - self.start, 0.0)
    self._now, self._phase = now, "init"
    self._since = now()

  def switch(self, phase: str) -> str:
    """Enters a phase for good; returns the one before."""
    if phase not in self.seconds:
      raise ValueError(f"no phase {phase!r}; there are: {', '.join(PHASES)}")
    present = self._now()
    self.seconds[self._phase] += present - self._since
    before, self._phase, self._since = self._phase, phase, present
    return before

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Enters a phase for the time of a `with`; what is inside counts once."""
    before = self.switch(name)
    try:
      yield
    finally:
      self.switch(before)

  def read(self) -> dict[str, float]:
    """{phase: seconds} up to now."""
    self.switch(self._phase)
    return dict(self.seconds)


class Account:
  """Writes down, now and then, what this process spends its time on.

  A process that has taken no step yet, or never does, writes nothing.
  """

  def __init__(
    self,
    clock: Clock,
    write: Callable[[int, dict[str, Any]], None],
    *,
    from_step: int,
    lost_steps: int,
  ):
    """Starts an account.

    Args:
      clock: of this process.
      write: (step, metrics) -> writes a line of metrics.jsonl.
      from_step: the step that this process began with.
      lost_steps: steps of earlier processes that it has to take again.
    """
    self._clock, self._write = clock, write
    self._from_step, self._lost_steps = from_step, lost_steps
    self._last = time.monotonic()

  def note(self, step: int, *, pause: float = 0.0) -> None:
    """Writes a line.

    Args:
      step: that the run has come to.
      pause: seconds after the last line within which there is no other.
    """
    now = time.monotonic()
    if step == self._from_step or now - self._last < pause:
      return
    self._last = now
    seconds = {k: round(v, 3) for k, v in self._clock.read().items()}
    record = {
      "start": round(self._clock.start, 3),
      "from_step": self._from_step,
      "lost_steps": self._lost_steps,
      "seconds": seconds,
    }
    self._write(step, {KEY: record})


def lost_steps(records: Iterable[Mapping[str, Any]], resume_step: int) -> int:
  """Steps that were taken and are to be taken again.

  Args:
    records: the lines of metrics.jsonl as the last process left them.
    resume_step: the step that the run goes on from.
  """
  # Lines on time spent stay when a run goes back. Those of an earlier process
  # tell how far that one came, and its steps have been counted.
  reached, start = 0, None
  for record in records:
    began = record[KEY].get("start") if _whole(record.get(KEY)) else start
    if began != start:
      reached, start = 0, began
    reached = max(reached, int(record["step"]))
  return max(reached - resume_step, 0)


def totals(records: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
  """Adds up the starts of a run.

  Args:
    records: the lines of metrics.jsonl; what is not a whole record of this
      kind is passed over.

  Returns:
    None without such a record, else
    "starts": how many processes took steps;
    "seconds": {phase: seconds} of all;
    "lost_steps": steps that had to be taken again;
    "lost_seconds": what those had taken, at the mean step of the process that
    took them;
    "stopped_seconds": between one process's last record and the next one's
    start: waiting for a machine, and what a kill left unrecorded;
    "goodput": share of the processes' seconds in steps that were not lost.
  """
  starts: dict[float, tuple[int, Mapping[str, Any]]] = {}
  for record in records:
    held = record.get(KEY)
    if _whole(held):
      starts[float(held["start"])] = (int(record["step"]), held)
  if not starts:
    return None
  seconds = dict.fromkeys(PHASES, 0.0)
  lost, lost_seconds, stopped = 0, 0.0, 0.0
  previous = None
  for start, (step, held) in sorted(starts.items()):
    for phase in PHASES:
      seconds[phase] += float(held["seconds"].get(phase, 0.0))
    if previous is not None:
      end, each = previous
      stopped += max(start - end, 0.0)
      lost_seconds += each * int(held["lost_steps"])
      lost += int(held["lost_steps"])
    taken = step - int(held["from_step"])
    stepping = float(held["seconds"].get("step", 0.0))
    end = start + sum(map(float, held["seconds"].values()))
    previous = end, stepping / taken if taken > 0 else 0.0
  whole = sum(seconds.values())
  lost_seconds = min(lost_seconds, seconds["step"])
  useful = (seconds["step"] - lost_seconds) / whole if whole > 0 else 0.0
  return {
    "starts": len(starts),
    "seconds": {k: round(v, 3) for k, v in seconds.items()},
    "lost_steps": lost,
    "lost_seconds": round(lost_seconds, 3),
    "stopped_seconds": round(stopped, 3),
    "goodput": round(useful, 4),
  }


def text(spent: Mapping[str, Any]) -> str:
  """One line on the result of `totals`."""
  seconds = spent["seconds"]
  whole = sum(seconds.values())
  parts = [
    f"{name} {seconds[name] / whole:.0%}"
    for name in sorted(PHASES, key=seconds.get, reverse=True)
    if seconds[name] >= 0.005 * whole
  ]
  line = f"time: {', '.join(parts)}"
  if spent["starts"] > 1:
    line += f"; {spent['starts']} starts, {spent['lost_steps']} steps repeated"
  return line


def _whole(held: Any) -> bool:
  """Whether a record can be added up; files may be old, cut or edited."""
  try:
    numbers = [held["start"], held["from_step"], held["lost_steps"]]
    numbers += held["seconds"].values()
  except (TypeError, KeyError, AttributeError):
    return False
  return all(
    isinstance(x, int | float) and math.isfinite(x) and x >= 0 for x in numbers
  )
