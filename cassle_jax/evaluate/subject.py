"""What the suite measures: a network as functions, of a run or of one's own."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cassle_jax import augment
from cassle_jax.errors import UserError
from cassle_jax.evaluate import representations
from cassle_jax.evaluation import features, pairs, sensitivity
from cassle_jax.training import trained
from cassle_jax.training.trained import Trained


class Subject(NamedTuple):
  """A frozen network; its functions are in eval mode and jitted.

  Attributes:
    name: in words.
    policy: of its views: sizes, intervals of the operations, mean and std.
    step: of training.
    precision: that it computes in.
    encode: normalised views [b, h, w, 3] float32 -> features [b, d].
    blocks: the same -> {block: [b, c]}; the features are "backbone".
    project: (features [b, d], omega {field: [b, k]}) -> projections [b, out];
      None where there is no projector.
    extract: (representation, descriptor) -> a function of images [N, h, w, 3]
      uint8 -> [N, d] float32.
    run: where it is one.
    network: "online" or, of a run, "target".
  """

  name: str
  policy: augment.ViewPolicy
  step: int
  precision: str
  encode: Callable[[jax.Array], jax.Array]
  blocks: Callable[[jax.Array], dict[str, jax.Array]]
  project: Callable[..., jax.Array] | None
  extract: Callable[..., Callable]
  run: Trained | None = None
  network: str = "online"


def of_run(run: Trained) -> Subject:
  """A run that was opened with `trained.open_run`."""

  def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """function(run, ...) for this run, its variables no constants."""

    @jax.jit
    def call(variables, *arrays):
      return function(run._replace(variables=variables), *arrays)

    return functools.partial(call, run.variables)

  def extract(representation, descriptor) -> Callable:
    if representation == representations.LOOC:
      return trained.plus_plus_extractor(run)
    return trained.extractor(run, descriptor=descriptor)

  config = run.config
  return Subject(
    name=f"{config.method.name}, {config.awareness.name}",
    network=run.setup.evaluated,
    policy=run.setup.policies[0],
    step=run.step,
    precision=config.precision,
    encode=jitted(lambda run, images: trained.embed(run, images)[0]),
    blocks=jitted(
      lambda run, images: sensitivity.pooled(*trained.embed(run, images))
    ),
    project=jitted(trained.project),
    extract=extract,
    run=run,
  )


def of_functions(
  encode: Callable[[jax.Array], Any],
  project: Callable[..., jax.Array] | None,
  *,
  policy: augment.ViewPolicy,
  name: str,
  step: int,
) -> Subject:
  """A network of one's own; see `evaluate.measure`."""

  def both(images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    output = encode(images)
    embedded, outputs = output if isinstance(output, tuple) else (output, {})
    shape = getattr(embedded, "shape", ())
    if len(shape) != 2 or shape[0] != len(images):
      raise UserError(
        f"encode returns {shape or embedded!r} for {len(images)} images; it"
        " must return features [b, d], or (features, {block: outputs}), of"
        " normalised images [b, h, w, 3]."
      )
    return embedded, outputs

  normalize = jax.jit(
    functools.partial(features.normalize, mean=policy.mean, std=policy.std)
  )
  return Subject(
    name=name,
    policy=policy,
    step=step,
    precision="float32",
    encode=lambda images: both(images)[0],
    blocks=lambda images: sensitivity.pooled(*both(images)),
    project=project,
    extract=lambda representation, descriptor: functools.partial(
      pairs.in_batches, lambda images: both(normalize(images))[0]
    ),
  )
