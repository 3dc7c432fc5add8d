"""Tasks that look at pictures before and after one operation.

Each takes (`Context`, name of a data set, its settings) and yields results. The
settings are the config's section of the task's name.
"""

from collections.abc import Iterator

import jax
import numpy as np

from cassle_jax.evaluate.context import Context
from cassle_jax.evaluate.results import Result
from cassle_jax.evaluation import pairs
from cassle_jax.evaluation import probe as probe_lib
from cassle_jax.evaluation import sensitivity as sensitivity_lib
from cassle_jax.evaluation import strength as strength_lib
from cassle_jax.evaluation import wrong_omega as wrong_omega_lib
from cassle_jax.runs.logs import say

# What results call the outputs of backbone and projector.
_OUTPUTS = {"backbone": "features", "projector": "projection"}
# Folded into the evaluation's key.
_SENSITIVITY, _WRONG_OMEGA, _PROBE = 1, 2, 3


def sensitivity(
  context: Context,
  dataset: str,
  *,
  pictures: int = 1024,
  operations: tuple[str, ...] = (),
  temperature: float = 0.2,
  batch: int = 256,
  negatives: str = "all",
) -> Iterator[Result]:
  """InfoNCE of pairs with one operation, block by block.

  Args:
    pictures: how many, at most; those beyond a multiple of `batch` are left
      out.
    operations: names in `augment.OPERATIONS`, whose mean is the headline; ()
      for the published ones, and beside them what else the network was trained
      with.
    temperature: of InfoNCE.
    batch: pairs that are told apart.
    negatives: "all" pairs of different images, or "published": one each.
  """
  images, _ = context.pictures(dataset, pictures)
  found = sensitivity_lib.measure(
    jax.random.fold_in(context.key, _SENSITIVITY),
    images,
    policy=context.subject.policy,
    blocks=context.subject.blocks,
    project=context.subject.project,
    operations=operations or pairs.usual(context.subject.policy),
    temperature=temperature,
    batch=batch,
    negatives=negatives,
  )
  blocks = [_OUTPUTS.get(name, name) for name in found.blocks]
  details = {
    operation: {
      block: {
        "infonce": float(np.mean(found.info_nce[o, b])),
        "positive": float(np.mean(found.positive[o, b])),
        "negative": float(np.mean(found.negative[o, b])),
      }
      for b, block in enumerate(blocks)
    }
    for o, operation in enumerate(found.operations)
  }
  mean_of = operations or pairs.published()
  value = np.mean([details[name]["features"]["infonce"] for name in mean_of])
  yield Result(
    dataset,
    "infonce",
    float(value),
    "nats",
    details={"ops": details, "mean_of": list(mean_of)},
    protocol={"pictures": len(images) // batch * batch},
  )


def wrong_omega(
  context: Context,
  dataset: str,
  *,
  pictures: int = 1024,
  operations: tuple[str, ...] = (),
  bins: int = 40,
) -> Iterator[Result]:
  """Similarity of projections when the projector is told a wrong omega.

  Args:
    pictures: how many, at most.
    operations: which; () = the published ones and what the run has on.
    bins: of the histograms.
  """
  images, _ = context.pictures(dataset, pictures)
  found = wrong_omega_lib.measure(
    jax.random.fold_in(context.key, _WRONG_OMEGA),
    images,
    policy=context.subject.policy,
    encode=context.subject.encode,
    project=context.subject.project,
    operations=operations or pairs.usual(context.subject.policy),
  )
  everything = [x for one in found.values() for x in one.similarity.values()]
  edges = np.linspace(np.min(everything), 1.0, bins + 1)
  details = {
    operation: {
      told: {
        "mean": float(np.mean(values)),
        "histogram": np.histogram(values, edges)[0].tolist(),
      }
      | (
        {"drop": one.drop[told].mean, "drop_interval": one.drop[told].half}
        if told in one.drop
        else {}
      )
      for told, values in one.similarity.items()
    }
    for operation, one in found.items()
  }
  # Flips and conversions to grey are the same in every image: another image's
  # omega is right there.
  mean_of = operations or pairs.published()
  chosen = [found[name] for name in mean_of]
  drops = [x.drop["other"].mean for x in chosen if x.different > 0]
  yield Result(
    dataset,
    "similarity_drop",
    float(np.mean(drops)) if drops else float("nan"),
    details={
      "ops": details,
      "edges": edges.tolist(),
      "different": {name: one.different for name, one in found.items()},
      "mean_of": list(mean_of),
    },
    protocol={"pictures": len(images)},
  )


def strength(
  context: Context,
  dataset: str,
  *,
  pictures: int = 256,
  parameters: tuple[str, ...] = (),
) -> Iterator[Result]:
  """Similarity of features as one operation gets stronger.

  Args:
    pictures: how many, at most.
    parameters: names in `strength.sweeps()`, whose mean is the headline; ()
      for all that fit the views, the headline being of `strength.HEADLINE`.
  """
  names, mean_of = parameters, parameters
  if not parameters:
    names = strength_lib.fitting(context.subject.policy)
    mean_of = tuple(name for name in strength_lib.HEADLINE if name in names)
    left_out = [name for name in strength_lib.sweeps() if name not in names]
    if left_out:
      size = "x".join(map(str, context.subject.policy.image_size))
      say(f"strength of {size} views: left out {', '.join(left_out)}")
  images, _ = context.pictures(dataset, pictures)
  curves = strength_lib.measure(
    images,
    policy=context.subject.policy,
    encode=context.subject.encode,
    names=names,
  )
  details = {
    name: {
      "strength": curve.values.tolist(),
      "mean": curve.mean.tolist(),
      "interval": curve.interval.tolist(),
      "unit": curve.unit,
      "neutral": curve.neutral,
      "trained": curve.trained and list(curve.trained),
    }
    for name, curve in curves.items()
  }
  value = np.mean([np.mean(curves[name].mean) for name in mean_of])
  yield Result(
    dataset,
    "cosine",
    float(value),
    details={"curves": details, "mean_of": list(mean_of)},
    protocol={"pictures": len(images)},
  )


def probe(
  context: Context,
  dataset: str,
  *,
  pictures: int = 4096,
  hidden: tuple[int, ...] = (512, 512),
  steps: int = 2000,
) -> Iterator[Result]:
  """How well omega can be predicted from features, single and of pairs.

  The augmentations are the run's own.

  Args:
    pictures: how many to fit on and to test on, each, at most.
    hidden: widths of the hidden layers of the three-layer probe.
    steps: of its training.
  """
  split = context.splits(dataset)
  draw = np.random.default_rng((context.seed, _PROBE))
  learn, test = (
    np.sort(draw.permutation(places)[:pictures])
    for places in (np.concatenate([split.train, split.val]), split.test)
  )
  found = probe_lib.measure(
    jax.random.fold_in(context.key, _PROBE),
    context.read(dataset, learn)[0],
    context.read(dataset, test)[0],
    policy=context.subject.policy,
    encode=context.subject.encode,
    seed=context.seed,
    hidden=hidden,
    steps=steps,
  )
  details = {
    name: {
      field: {kind: probe.value[field] for kind, probe in found[given].items()}
      | {"score": found[given]["linear"].metric[field]}
      for field in found[given]["linear"].value
    }
    for given, name in (("single", "single"), ("pair", "pairs"))
  }
  # AUC has another scale: a guess has 0.5.
  linear = [
    scores["linear"]
    for scores in details["single"].values()
    if scores["score"] == "r2"
  ]
  yield Result(
    dataset,
    "mean_r2",
    float(np.mean(linear)) if linear else float("nan"),
    details=details,
    protocol={"learn": len(learn), "test": len(test)},
  )
