"""The tasks of the suite as a table, and which data sets each one takes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from cassle_jax.data import downstream
from cassle_jax.evaluate import feature_tasks, pair_tasks, representations
from cassle_jax.evaluate.results import Result


class Task(NamedTuple):
  """One task.

  Attributes:
    run: (context, data set, **settings), which yields results. Its keyword
      arguments are the config's section of the task's name.
    suits: whether a data set can be asked for it.
    measured: whether it runs on the sets of `config.measure_on` instead of
      those of `config.datasets`: it measures the network, not a data set.
    projects: whether it looks at projections alone, and needs a projector.
    names: (data set, settings) -> names of the results that it will return.
    of: names in `representations.NAMES` that it is asked for, where a run has
      them.
  """

  run: Callable[..., Iterator[Result]]
  suits: Callable[[downstream.Row], bool]
  measured: bool = False
  projects: bool = False
  names: Callable[[str, Mapping[str, Any]], tuple[str, ...]] = (
    lambda dataset, settings: (dataset,)
  )
  of: tuple[str, ...] = (representations.BACKBONE,)


def _learned(row: downstream.Row) -> bool:
  return row.split != "test"


def _labeled(row: downstream.Row) -> bool:
  return row.metric != "landmarks"


def _classified(row: downstream.Row) -> bool:
  return _learned(row) and _labeled(row)


TASKS: dict[str, Task] = {
  "knn": Task(feature_tasks.knn, _classified, of=representations.NAMES),
  "linear": Task(feature_tasks.linear, _learned, of=representations.NAMES),
  "few_shot": Task(
    feature_tasks.few_shot,
    lambda row: bool(row.few_shot),
    names=lambda dataset, settings: feature_tasks.few_shot_names(
      dataset, settings["shots"]
    ),
    # There is nothing to learn a descriptor from before an episode.
    of=(representations.BACKBONE, representations.LOOC),
  ),
  "sensitivity": Task(pair_tasks.sensitivity, _labeled, measured=True),
  "wrong_omega": Task(
    pair_tasks.wrong_omega, _labeled, measured=True, projects=True
  ),
  "probe": Task(pair_tasks.probe, _classified, measured=True),
  "strength": Task(pair_tasks.strength, _labeled, measured=True),
  "retrieval": Task(feature_tasks.retrieval, _classified, measured=True),
  "spectrum": Task(feature_tasks.spectrum, _classified, measured=True),
}
