"""The tasks of the suite as a table, and which data sets each one takes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from cassle_jax import augment
from cassle_jax.data import downstream
from cassle_jax.errors import (
  ABOVE_0,
  AT_LEAST_0,
  AT_LEAST_1,
  Range,
  Rules,
  Words,
)
from cassle_jax.evaluate import feature_tasks, pair_tasks, representations
from cassle_jax.evaluate.results import Result
from cassle_jax.evaluation import few_shot, logistic, sensitivity, strength

_COUNTS = {"pictures": AT_LEAST_1, "steps": AT_LEAST_1}
_OPERATIONS = {"pictures": Range(2), "operations": Words(augment.OPERATIONS)}
# What the settings of each task may be, and of the learned descriptor.
RULES: dict[str, Rules] = {
  "knn": {
    "neighbours": AT_LEAST_1,
    "headline": AT_LEAST_1,
    "temperature": ABOVE_0,
  },
  "linear": {
    "weights": Range(0, above=True, items=1),
    "max_steps": AT_LEAST_1,
    "dtype": Words(logistic.TOLERANCES),
  },
  "few_shot": {
    "shots": Range(1, items=1),
    "way": Range(2),
    "queries": AT_LEAST_1,
    "episodes": AT_LEAST_1,
    "weight": ABOVE_0,
    "form": Words(few_shot.FORMS),
  },
  "sensitivity": _OPERATIONS
  | {
    "temperature": ABOVE_0,
    "batch": Range(2),
    "negatives": Words(sensitivity.NEGATIVES),
  },
  "wrong_omega": _OPERATIONS | {"bins": AT_LEAST_1},
  "probe": _COUNTS | {"hidden": AT_LEAST_1},
  "strength": {
    "pictures": AT_LEAST_1,
    "parameters": Words(strength.sweeps()),
  },
  "retrieval": {"queries": AT_LEAST_1, "k": AT_LEAST_1},
  "spectrum": {},
  "descriptor": _COUNTS
  | {"batch_size": AT_LEAST_1, "learning_rate": AT_LEAST_0},
}


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
    version: of what it computes: raised when the numbers of the same settings
      come out otherwise, so that older results are computed again.
  """

  run: Callable[..., Iterator[Result]]
  suits: Callable[[downstream.Row], bool]
  measured: bool = False
  projects: bool = False
  names: Callable[[str, Mapping[str, Any]], tuple[str, ...]] = (
    lambda dataset, settings: (dataset,)
  )
  of: tuple[str, ...] = (representations.BACKBONE,)
  version: int = 1


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
