"""What a run has that pictures can be represented by.

Every run has its backbone's features. LooC's heads give LooC++: their hidden
layers, side by side (Xiao et al. 2021, arXiv 2008.05659, section 3). AI's
backbone is told which invariances a data set needs, which is learned with a
linear head (Chavhan et al. 2023, arXiv 2302.12712, section 4).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.data import downstream
from cassle_jax.errors import UserError, unknown
from cassle_jax.evaluation import descriptor as descriptor_lib
from cassle_jax.training import trained
from cassle_jax.training.trained import Trained

BACKBONE, LOOC, LEARNED = NAMES = ("backbone", "looc++", "learned")
# Folded into the evaluation's seed and key.
_DESCRIPTOR = 0xD35C
# Of a learned descriptor: the name of its features' file says it in full.
_DIGITS = 4


def of(run: Trained | None) -> tuple[str, ...]:
  """Names of the representations that there are; the backbone's is first.

  Args:
    run: from `trained.open_run`; None for a network that is no run's.
  """
  if run is None:
    return (BACKBONE,)
  found = [BACKBONE]
  if run.spaces is not None and len(run.setup.networks.projector.widths) > 1:
    found.append(LOOC)
  if run.setup.awareness.descriptors:
    found.append(LEARNED)
  return tuple(found)


def choose(run: Trained | None, asked: tuple[str, ...]) -> tuple[str, ...]:
  """Those that are asked for; () means all that the run has.

  Raises:
    UserError: there is none of that name, or the run has none.
  """
  there = of(run)
  for name in asked:
    if name not in NAMES:
      raise unknown("representation", name, NAMES)
    if name not in there:
      awareness = "none" if run is None else run.config.awareness.name
      raise UserError(
        f"this run has no representation {name!r} (its awareness is"
        f" {awareness!r}); it has {', '.join(there)}: set"
        " --config.representations."
      )
  return asked or there


def descriptor(
  context: Any,
  dataset: str,
  *,
  pictures: int = 4096,
  steps: int = 1000,
  batch_size: int = 16,
  learning_rate: float = 0.01,
) -> tuple[float, ...]:
  """Learns what a data set wants AI's backbone to be invariant to.

  Args:
    context: a `Context`: the run and its data.
    dataset: name of the set.
    pictures: how many of train and validation to learn from, at most: they are
      held on the device.
    steps: of Adam, whose rate falls to 0.
    batch_size: pictures a step.
    learning_rate: of the first step.

  Returns:
    [k] in [0, 1], rounded to four digits.

  Raises:
    UserError: a count below 1.
  """
  counts = {"pictures": pictures, "steps": steps, "batch_size": batch_size}
  for name, count in counts.items():
    if count < 1:
      raise UserError(f"--config.descriptor.{name}={count} must be at least 1.")
  split, run = context.splits(dataset), context.subject.run
  learn = np.concatenate([split.train, split.val])
  draw = np.random.default_rng((context.seed, _DESCRIPTOR))
  chosen = np.sort(draw.permutation(learn)[:pictures])
  batch, answers = context.read(dataset, chosen)
  outputs, loss = answers.shape[-1], _absolute
  if downstream.DATASETS[dataset].metric != "landmarks":
    outputs = len(context.opened(dataset).class_names)
    loss = descriptor_lib.classification_loss

  @jax.jit
  def fit(variables, batch, answers):
    return descriptor_lib.fit(
      jax.random.fold_in(context.key, _DESCRIPTOR),
      functools.partial(trained.told, run, variables),
      batch,
      answers,
      outputs=outputs,
      steps=steps,
      size=len(run.setup.awareness.descriptors[0]),
      batch_size=min(batch_size, len(batch)),
      learning_rate=learning_rate,
      loss=loss,
    )[0]

  found = fit(run.variables["backbone"], batch, answers)
  return tuple(round(float(each), _DIGITS) for each in found)


def _absolute(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  """Mean absolute error, as in the regression of landmarks."""
  return jnp.mean(jnp.abs(outputs - targets))
