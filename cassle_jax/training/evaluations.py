"""k-NN and a linear probe of a run's backbone, on the way and at its end."""

from collections.abc import Callable, Mapping
from typing import Any

from cassle_jax.evaluation import online
from cassle_jax.runs.logs import say
from cassle_jax.step.state import TrainState
from cassle_jax.training import experiment
from cassle_jax.training.setup import feature_extractor


class Evaluations:
  """What a run was evaluated to, and what evaluates it.

  Attributes:
    done: {step: result}; the caller adds those before a restart.
    possible: whether the run's data has labels, and some are to be looked at.
  """

  def __init__(self, parts: experiment.Experiment, *, stop: Callable[[], None]):
    """Loads the images that the run is watched with.

    Args:
      parts: from `experiment.build`.
      stop: called between the pieces of an evaluation; may raise.
    """
    config = parts.config
    self.done: dict[int, Mapping[str, Any]] = {}
    self._online = online.build(
      **config.evaluation,
      source=config.data.source,
      split=config.data.split,
      image_size=config.data.image_size,
      class_list=config.data.class_list,
      data_dir=config.data.data_dir,
    )
    self.possible = self._online.labeled is not None
    if not self.possible:
      say("no labels, or evaluation.max_images=0: no k-NN on the way")
    self._extract = feature_extractor(parts, parts.mesh, stop=stop)

  def due(self, step: int) -> bool:
    """Whether an evaluation belongs after this step, and was not made yet."""
    return self._online.due(step) and step not in self.done

  def make(
    self, step: int, state: TrainState, *, probe: bool = False
  ) -> dict[str, float]:
    """Evaluates the backbone, says and keeps the result.

    With `probe` the linear probe is fitted too, if the config wants one.
    """
    variables = {
      "params": state.params["backbone"],
      "batch_stats": state.batch_stats["backbone"],
    }
    result = online.evaluate(
      self._online,
      self._extract,
      variables,
      probe=probe and self._online.linear,
    )
    self.done[step] = result
    shown = "  ".join(f"{k} {100 * v:.1f} %" for k, v in result.items())
    say(f"step {step}: {shown}  ({self._online.labeled.origin})")
    return result
