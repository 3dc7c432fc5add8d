"""Tasks on the features of a data set, extracted once.

Each takes (`Context`, name of a data set, its settings) and yields results. The
settings are the config's section of the task's name.
"""

import math
import os
from collections.abc import Iterator

import numpy as np

from cassle_jax.data import downstream
from cassle_jax.errors import UserError, unknown
from cassle_jax.evaluate.context import Context
from cassle_jax.evaluate.results import Result, path_of
from cassle_jax.evaluation import confidence, logistic, regression
from cassle_jax.evaluation import few_shot as few_shot_lib
from cassle_jax.evaluation import knn as knn_lib
from cassle_jax.evaluation import linear as linear_lib
from cassle_jax.evaluation import retrieval as retrieval_lib
from cassle_jax.evaluation import spectrum as spectrum_lib
from cassle_jax.methods import contrast
from cassle_jax.runs import files, logs


def learn_and_test(
  context: Context, dataset: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """Features and answers of train and validation together, and of test."""
  split, kept = context.splits(dataset), context.features(dataset)
  learn = np.concatenate([split.train, split.val])
  return kept.take(learn), kept.take(split.test)


def knn(
  context: Context,
  dataset: str,
  *,
  neighbours: tuple[int, ...] = (1, 20, 200),
  headline: int = 20,
  temperature: float = 0.07,
) -> Iterator[Result]:
  """k-nearest-neighbour accuracy, see `evaluation.knn`.

  Args:
    neighbours: each k; all that there are where the bank has fewer pictures.
    headline: the k whose accuracy is the result's value, likewise.
    temperature: of the votes.
  """
  learn, test = learn_and_test(context, dataset)
  bank, count = len(learn[1]), len(test[1])
  # As many as voted, whatever was asked for.
  headline, *others = (knn_lib.used(k, bank) for k in (headline, *neighbours))
  top1 = {
    str(k): 100 * knn_lib.accuracy(*learn, *test, k=k, temperature=temperature)
    for k in sorted({headline, *others})
  }
  value = top1[str(headline)]
  low, high = confidence.share(value / 100, count)
  yield Result(
    dataset,
    "top1",
    value,
    "%",
    interval=100 * (high - low) / 2,
    details={"top1": top1},
    protocol={"k": headline, "bank": bank, "test": count},
  )


def linear(
  context: Context,
  dataset: str,
  *,
  weights: tuple[float, ...] = linear_lib.WEIGHTS,
  max_steps: int = 1000,
  dtype: str = "float32",
) -> Iterator[Result]:
  """Linear evaluation, see `evaluation.linear`; of landmarks, `regression`.

  The weight is chosen on the validation pictures, the classifier fitted again
  on train and validation together and tested once. The value for landmarks is
  the published score, a squared correlation; the standard R^2 is in the
  details.

  Args:
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
  metric = downstream.DATASETS[dataset].metric
  split, kept = context.splits(dataset), context.features(dataset)
  parts = [kept.take(each) for each in (split.train, split.val, split.test)]
  if metric == "landmarks":
    metric = "squared_correlation"
    found, half = regression.sweep(*parts, weights=weights), None
    more = {"r2": 100 * found.r2, "gap": list(found.gap)}
  else:
    found = linear_lib.sweep(
      *parts, weights=weights, metric=metric, max_steps=max_steps, dtype=dtype
    )
    more, half = found.fits | {"refit": found.refit}, 100 * found.half
  yield Result(
    dataset,
    metric,
    100 * found.score,
    "%",
    interval=half,
    details={
      "weights": list(weights),
      "validation": [100 * score for score in found.validation],
      "weight": found.weight,
      **more,
    },
    protocol={
      "split": split.rule,
      "train": len(split.train),
      "val": len(split.val),
      "test": len(split.test),
      "left_out": len(context.opened(dataset)) - len(kept.places),
    },
  )


def few_shot_names(dataset: str, shots: tuple[int, ...]) -> tuple[str, ...]:
  """What `few_shot` calls its results, one for each number of shots.

  Raises:
    UserError: there is no number of shots.
  """
  if not shots:
    raise UserError(
      "few_shot.shots is empty; give one or more, e.g."
      " --config.few_shot.shots=1,5."
    )
  return tuple(f"{dataset}-{shot}shot" for shot in shots)


def few_shot(
  context: Context,
  dataset: str,
  *,
  shots: tuple[int, ...] = (1, 5),
  way: int = 5,
  queries: int = 16,
  episodes: int = 2000,
  weight: float = 0.5,
  form: str = "multinomial",
) -> Iterator[Result]:
  """Accuracy from a few pictures a class, see `evaluation.few_shot`.

  Episodes of all shots have the same classes and queries.

  Args:
    shots: pictures of each class to learn from, a result for each.
    way: classes an episode.
    queries: pictures of each class to test.
    episodes: how many.
    weight: of the regularisation.
    form: "multinomial", or "one_vs_rest" as in the published code.
  """
  names = few_shot_names(dataset, shots)
  part = downstream.DATASETS[dataset].few_shot
  kept = context.features(dataset)
  places = kept.places
  if part != "all":
    places = getattr(context.splits(dataset), part)
  features, labels = kept.take(places)
  # The same classes for all shots.
  classes = few_shot_lib.usable(labels, queries + max(shots))
  chosen = np.isin(labels, classes)
  features, labels = features[chosen], labels[chosen]
  for shot, name in zip(shots, names, strict=True):
    found = few_shot_lib.measure(
      features,
      labels,
      way=way,
      shot=shot,
      queries=queries,
      episodes=episodes,
      weight=weight,
      form=form,
      seed=context.seed,
    )
    yield Result(
      name,
      "top1",
      100 * found.accuracy.mean,
      "%",
      interval=100 * found.accuracy.half if episodes > 1 else None,
      details={"way": way, "shot": shot, "excess": found.excess},
      protocol={
        "episodes": episodes,
        "part": part,
        "pictures": len(labels),
        "classes": len(classes),
      },
    )


def retrieval(
  context: Context, dataset: str, *, queries: int = 8, k: int = 8
) -> Iterator[Result]:
  """A panel of test pictures and their nearest training pictures.

  Args:
    queries: rows of the panel.
    k: neighbours of each.
  """
  split, kept = context.splits(dataset), context.features(dataset)
  bank = kept.rows(np.concatenate([split.train, split.val]))
  asked = kept.rows(split.test)
  found = retrieval_lib.measure(
    kept.features[asked],
    kept.features[bank],
    queries=queries,
    k=k,
    seed=context.seed,
  )
  # From here on rows of `kept` instead of places among `asked` and `bank`.
  rows = np.column_stack([asked[found.queries], bank[found.neighbours]])
  shown, order = np.unique(rows, return_inverse=True)
  order = order.reshape(rows.shape)
  images, labels = context.read(dataset, kept.places[shown])
  drawn = found._replace(queries=order[:, 0], neighbours=order[:, 1:])
  class_names = context.opened(dataset).class_names
  sheet = retrieval_lib.panel(
    drawn,
    images,
    [class_names[label] for label in labels],
    title=f"{context.subject.name}: {dataset}",
  )
  path = path_of(context.workdir, "retrieval", dataset)
  path = path.removesuffix(".json") + ".png"
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with files.replacing(path) as file:
      sheet.save(file, format="png")
  except OSError as error:
    logs.say(f"{path} cannot be written: {error.strerror}")
  same = labels[drawn.neighbours] == labels[drawn.queries][:, None]
  yield Result(
    dataset,
    "precision",
    100 * float(np.mean(same)),
    "%",
    details={
      "k": found.neighbours.shape[1],
      "panel": os.path.basename(path),
      "queries": kept.places[rows[:, 0]].tolist(),
      "neighbours": kept.places[rows[:, 1:]].tolist(),
      "scores": found.scores.tolist(),
    },
  )


def spectrum(
  context: Context, dataset: str, *, normalise: bool = False
) -> Iterator[Result]:
  """PCA spectrum, alpha-ReQ and RankMe of the test features.

  Args:
    normalise: whether features are divided by their length.
  """
  _, (features, _) = learn_and_test(context, dataset)
  if normalise:
    features = np.asarray(contrast.normalize(features))
  found = spectrum_lib.measure(features)
  yield Result(
    dataset,
    "rankme",
    found.rank_me,
    details={
      "eigenvalues": found.eigenvalues.tolist(),
      "alpha": found.power_law.alpha,
      "alpha_r2": found.power_law.r2,
      "rankme": found.rank_me,
    },
    protocol={"pictures": len(features)},
  )
