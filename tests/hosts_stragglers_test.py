"""Which host holds the others up."""

import pytest

from cassle_jax.hosts import stragglers


@pytest.mark.parametrize(
  "values, least, expected",
  [
    ([1.0, 1.0, 1.0, 1.51], 0.0, [3]),
    ([1.0, 1.0, 1.0, 1.5], 0.0, []),  # Above 1.5 times, not at it.
    ([1.0, 1.0, 1.0, 1.6], 0.7, []),  # Too few seconds to matter.
    ([5.0, 1.0, 1.0, 1.0, 4.0], 0.0, [0, 4]),
    ([5.1, 50.1], 0.0, [1]),  # The median of two is their mean.
    ([0.0, 0.0, 0.0], 0.0, []),
    ([2.0], 0.0, []),
  ],
)
def test_which_are_slow(values, least, expected):
  assert stragglers.slow(values, least=least) == expected


def test_the_warning_names_host_cause_and_times():
  data = [0.005, 0.005, 0.050, 0.005]
  host = [0.007, 0.006, 0.052, 0.007]
  line = stragglers.warning(data, host, [0.1] * 4)
  assert line == (
    "slow hosts: 2 (50 ms) waiting for data; the median host takes 5 ms of a"
    " step of 100 ms"
  )
  line = stragglers.warning(
    [0.005] * 4, [0.006, 0.080, 0.006, 0.006], [0.1] * 4
  )
  assert "1 (80 ms) before dispatch" in line
  # 45 ms more are nothing to steps of 10 seconds.
  assert stragglers.warning(data, host, [10.0] * 4) is None


def test_medians_of_a_host():
  times = stragglers.HostTimes(window=3)
  assert times.medians() == (0.0, 0.0, 0.0)
  seconds = {"data": 0.0, "other": 0.0, "step": 0.0, "save": 0.0}
  times.note(seconds)
  # One slow batch is no slow host, and what is before the window is forgotten.
  for data, other, step in [(90, 9, 9), (1, 2, 3), (1, 2, 3), (70, 2, 3)]:
    seconds["data"] += data
    seconds["other"] += other
    seconds["step"] += step
    seconds["save"] += 1000
    times.note(dict(seconds))
  assert times.medians() == (1.0, 3.0, 6.0)


def test_hosts_are_compared_by_their_medians():
  times = stragglers.HostTimes()
  times.note({"data": 0.0, "other": 0.0, "step": 0.0})
  times.note({"data": 0.5, "other": 0.1, "step": 0.4})
  line = stragglers.compare(times, gather=lambda x: [x / 10, x / 10, x])
  assert "2 (500 ms) waiting for data; the median host takes 50 ms" in line
  assert stragglers.compare(times, gather=lambda x: [x, x, x]) is None
