"""Linear evaluation of landmarks: a regression instead of a classifier."""

from collections.abc import Sequence

from cassle_jax.evaluate.context import Context
from cassle_jax.evaluate.results import Result
from cassle_jax.evaluation import regression


def linear(
  context: Context, dataset: str, *, weights: Sequence[float]
) -> list[Result]:
  """Regression of landmarks, see `evaluation.regression`.

  The value is the published score, a squared correlation; the standard R^2 is
  in the details.

  Args:
    context: the run and its data.
    dataset: name of a set of faces.
    weights: of the regularisation, to choose from.
  """
  split, kept = context.splits(dataset), context.features(dataset)
  found = regression.sweep(
    kept.take(split.train),
    kept.take(split.val),
    kept.take(split.test),
    weights=weights,
  )
  return [
    Result(
      dataset,
      "squared_correlation",
      100 * found.score,
      "%",
      details={
        "r2": 100 * found.r2,
        "weights": list(weights),
        "validation": [100 * score for score in found.validation],
        "weight": found.weight,
        "gap": list(found.gap),
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
