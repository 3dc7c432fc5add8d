"""The tasks of the suite as a table, and which data sets each one takes."""

from collections.abc import Callable
from typing import NamedTuple

from cassle_jax.data import downstream
from cassle_jax.suite import accuracy_tasks, feature_tasks, pair_tasks
from cassle_jax.suite.results import Result


class Task(NamedTuple):
  """One task.

  Attributes:
    run: (context, data set, **settings) -> results. Its keyword arguments are
      the config's section of the task's name.
    suits: whether a data set can be asked for it.
    measured: whether it runs on the sets of `config.measure_on` instead of
      those of `config.datasets`: it measures the network, not a data set.
  """

  run: Callable[..., list[Result]]
  suits: Callable[[downstream.Row], bool]
  measured: bool = False


def _classified(row: downstream.Row) -> bool:
  return row.metric != "landmarks" and row.split != "test"


def _labeled(row: downstream.Row) -> bool:
  return row.metric != "landmarks"


TASKS: dict[str, Task] = {
  "knn": Task(feature_tasks.knn, _classified),
  "linear": Task(accuracy_tasks.linear, _classified),
  "sensitivity": Task(pair_tasks.sensitivity, _labeled, measured=True),
  "wrong_omega": Task(pair_tasks.wrong_omega, _labeled, measured=True),
  "probe": Task(pair_tasks.probe, _classified, measured=True),
  "strength": Task(pair_tasks.strength, _labeled, measured=True),
  "retrieval": Task(feature_tasks.retrieval, _classified, measured=True),
  "spectrum": Task(feature_tasks.spectrum, _classified, measured=True),
}
