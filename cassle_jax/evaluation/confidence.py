"""Means, 95 % intervals and ranks over repetitions."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special


class Interval(NamedTuple):
  """A mean and how far it may be off.

  Attributes:
    mean: of the values; nan without any.
    half: half-width of the mean's 95 % interval; nan for fewer than two values.
    count: number of values.
  """

  mean: float
  half: float
  count: int


def interval(values: Sequence[float]) -> Interval:
  """Student's 95 % interval of the mean of independent repetitions.

  Args:
    values: one number a repetition, say a seed.
  """
  count = len(values)
  mean = float(np.mean(values)) if count else math.nan
  if count < 2:
    return Interval(mean, math.nan, count)
  quantile = float(special.stdtrit(count - 1, 0.975))
  error = float(np.std(values, ddof=1)) / math.sqrt(count)
  return Interval(mean, quantile * error, count)


def share(right: float, count: int) -> tuple[float, float]:
  """Wilson's 95 % interval of a share of independent trials.

  Wilson 1927, doi 10.1080/01621459.1927.10502953: unlike the usual one it is
  right for a few trials and for shares near 0 and 1.

  Args:
    right: the share, in [0, 1].
    count: number of trials, above 0.
  """
  square = float(special.ndtri(0.975)) ** 2
  middle = (right + square / (2 * count)) / (1 + square / count)
  spread = right * (1 - right) / count + square / (4 * count**2)
  half = math.sqrt(square * spread) / (1 + square / count)
  return max(middle - half, 0.0), min(middle + half, 1.0)


def accuracy_half(
  right: np.ndarray, classes: np.ndarray | None = None
) -> float:
  """Half of the width of an accuracy's 95 % interval over its pictures.

  Args:
    right: [N] bool, whether each prediction was right.
    classes: [N] integers for an accuracy that is the mean over classes: those
      are independent, so the squares of their halves add up.
  """
  right = np.asarray(right)
  groups = [right]
  if classes is not None:
    groups = [right[classes == each] for each in np.unique(classes)]
  halves = []
  for group in groups:
    low, high = share(float(np.mean(group)), len(group))
    halves.append((high - low) / 2)
  return math.sqrt(sum(half**2 for half in halves)) / len(halves)


def difference(
  first: Mapping[int, float], second: Mapping[int, float]
) -> Interval:
  """The interval of first - second over the seeds that both have.

  Args:
    first: {seed: value}.
    second: {seed: value}; what depends on the seed alone cancels out.
  """
  shared = sorted(set(first) & set(second))
  return interval([first[seed] - second[seed] for seed in shared])


def mean_ranks(table: np.ndarray) -> np.ndarray:
  """Mean rank of each row over the columns, 1 for the highest value.

  Equal values share the mean of their ranks.

  Args:
    table: [rows, columns]; nan where there is no number.

  Returns:
    [rows] float64; nan for rows with a number missing, which are not ranked.
  """
  table = np.asarray(table, np.float64)
  ranks = np.full(len(table), np.nan)
  whole = np.flatnonzero(~np.isnan(table).any(axis=1))
  if table.shape[1] and len(whole):
    # Imported here: it takes longer than everything else in this module.
    from scipy import stats

    ranks[whole] = np.mean(stats.rankdata(-table[whole], axis=0), axis=1)
  return ranks
