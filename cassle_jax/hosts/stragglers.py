"""Hosts that hold the others up.

A step takes the same time on all hosts, because they wait for each other. What
tells them apart is the time before it: waiting for data, and Python until the
step is dispatched.
"""

import collections
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cassle_jax.hosts import distributed

_WINDOW = 500
# Times the median of the hosts.
FACTOR = 1.5
# Less than this share of a step is not worth a word.
_LEAST = 0.02


class HostTimes:
  """The medians of this host's times before its steps."""

  def __init__(self, window: int = _WINDOW):
    """Starts empty; medians are over the last `window` steps."""
    self._rows: collections.deque = collections.deque(maxlen=window)
    self._before: dict[str, float] | None = None

  def note(self, seconds: Mapping[str, float]) -> None:
    """Notes a step.

    Args:
      seconds: of a `goodput.Clock`, just before a step is dispatched.
    """
    now = {name: seconds[name] for name in ("data", "other", "step")}
    if self._before is not None:
      self._rows.append([now[k] - self._before[k] for k in now])
    self._before = now

  def medians(self) -> tuple[float, float, float]:
    """Seconds of waiting for data, before dispatch in all, and of a step."""
    if not self._rows:
      return 0.0, 0.0, 0.0
    data, other, step = np.array(self._rows).T
    before = data + other
    return tuple(float(np.median(x)) for x in (data, before, before + step))


def compare(
  times: HostTimes, gather: Callable[[float], list[float]] = distributed.gather
) -> str | None:
  """The warning of `warning`, from the medians of all hosts.

  `gather` has a value of this host become those of all, who have to call it.
  """
  return warning(*(gather(value) for value in times.medians()))


def slow(values: Sequence[float], *, least: float = 0.0) -> list[int]:
  """The hosts whose time is above `FACTOR` times the median of all.

  Less than `least` seconds above the median do not matter.
  """
  middle = statistics.median(values)
  return [
    host
    for host, value in enumerate(values)
    if value > FACTOR * middle and value - middle > least
  ]


def warning(
  data: Sequence[float], host: Sequence[float], step: Sequence[float]
) -> str | None:
  """The line that names the slow hosts, or None where there are none.

  Args:
    data: median seconds of waiting for data, one a host.
    host: median seconds before dispatch in all, data among them.
    step: median seconds from one step to the next.
  """
  least = _LEAST * statistics.median(step)
  for kind, values in (("waiting for data", data), ("before dispatch", host)):
    late = slow(values, least=least)
    if late:
      named = ", ".join(f"{h} ({1e3 * values[h]:.0f} ms)" for h in late)
      return (
        f"slow hosts: {named} {kind}; the median host takes"
        f" {1e3 * statistics.median(values):.0f} ms of a step of"
        f" {1e3 * statistics.median(step):.0f} ms"
      )
  return None
