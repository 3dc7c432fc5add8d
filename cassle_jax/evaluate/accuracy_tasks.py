"""Tasks that score a classifier on frozen features.

Each takes (context, data set, its settings) and returns results. The settings
are the config's section of the task's name.
"""

import math

from cassle_jax.data import downstream
from cassle_jax.errors import UserError, unknown
from cassle_jax.evaluate import landmark_task
from cassle_jax.evaluate.context import Context
from cassle_jax.evaluate.results import Result
from cassle_jax.evaluation import linear as linear_lib
from cassle_jax.evaluation import logistic


def linear(
  context: Context,
  dataset: str,
  *,
  weights: tuple[float, ...] = linear_lib.WEIGHTS,
  max_steps: int = 1000,
  dtype: str = "float32",
) -> list[Result]:
  """Linear evaluation, see `evaluation.linear`; of landmarks, `landmark_task`.

  The weight is chosen on the validation pictures, the classifier fitted again
  on train and validation together and tested once.

  Args:
    context: the run and its data.
    dataset: name of the set.
    weights: of the regularisation, to choose from.
    max_steps: upper bound on the L-BFGS steps of a fit, from where the next
      stronger weight left it. Without effect on landmarks, whose regression
      has a bound of its own.
    dtype: of the fits, "float32" or, on a CPU, "float64". Without effect on
      landmarks, whose regression is in float32.

  Raises:
    UserError: unknown dtype, or a weight that is not positive.
  """
  # The regression of landmarks does not check; a fit does, but only after the
  # features are extracted.
  if dtype not in logistic.TOLERANCES:
    raise unknown("config.linear.dtype", dtype, logistic.TOLERANCES)
  if not weights or not all(0 < weight < math.inf for weight in weights):
    raise UserError(
      f"config.linear.weights={tuple(weights)} must be one or more, all above"
      " 0, e.g. --config.linear.weights=0.01,1,100."
    )
  row = downstream.DATASETS[dataset]
  if row.metric == "landmarks":
    return landmark_task.linear(context, dataset, weights=weights)
  split, kept = context.splits(dataset), context.features(dataset)
  found = linear_lib.sweep(
    kept.take(split.train),
    kept.take(split.val),
    kept.take(split.test),
    weights=weights,
    metric=row.metric,
    max_steps=max_steps,
    dtype=dtype,
  )
  return [
    Result(
      dataset,
      row.metric,
      100 * found.score,
      "%",
      details={
        "weights": list(weights),
        "validation": [100 * score for score in found.validation],
        "weight": found.weight,
        **found.fits._asdict(),
        "refit": {name: x[0] for name, x in found.refit._asdict().items()},
      },
      protocol={
        "split": split.rule,
        "train": len(split.train),
        "val": len(split.val),
        "test": len(split.test),
        "left_out": len(context.opened(dataset)) - len(kept.places),
      },
    )
  ]
