"""Tasks that score a classifier on frozen features.

Each takes (context, data set, its settings) and returns results. The settings
are the config's section of the task's name.
"""

from cassle_jax.data import downstream
from cassle_jax.evaluation import linear as linear_lib
from cassle_jax.suite import landmark_task
from cassle_jax.suite.context import Context
from cassle_jax.suite.results import Result


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
      stronger weight left it.
    dtype: of the fits, "float32" or, on a CPU, "float64".
  """
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
