"""k-NN and a linear probe of a run's backbone, on the way and at its end."""

from collections.abc import Callable, Mapping
from typing import Any

from cassle_jax.evaluation import confidence, online
from cassle_jax.runs.logs import say
from cassle_jax.step.state import TrainState
from cassle_jax.training import experiment
from cassle_jax.training.setup import feature_extractor


def accuracy(value: float, queries: int) -> str:
  """An accuracy with its 95 % interval over the pictures, in words."""
  low, high = (100 * each for each in confidence.share(value, queries))
  return f"{100 * value:.1f} % ({low:.1f} to {high:.1f})"


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
    if self._online.note:
      say(self._online.note)
    self._network = parts.evaluated
    self._extract = feature_extractor(parts, parts.mesh, stop=stop, tell=say)

  @property
  def about(self) -> dict[str, Any] | None:
    """Of what the accuracies are; None where there are none."""
    if not self.possible:
      return None
    labeled = self._online.labeled
    return {
      "queries": len(labeled.test_labels),
      "bank": len(labeled.train_labels),
      "k": self._online.knn_k,
      "of": labeled.origin,
      "network": self._network,
    }

  def due(self, step: int) -> bool:
    """Whether an evaluation belongs after this step, and was not made yet."""
    return self._online.due(step) and step not in self.done

  def make(
    self, step: int, state: TrainState, *, probe: bool = False
  ) -> dict[str, float]:
    """Evaluates the backbone, says and keeps the result.

    With `probe` the linear probe is fitted too, if the config wants one.
    """
    params, stats = state.params, state.batch_stats
    if self._network == "target":
      params, stats = state.target, state.target_stats
    variables = {
      "params": params["backbone"],
      "batch_stats": stats["backbone"],
    }
    result = online.evaluate(
      self._online,
      self._extract,
      variables,
      probe=probe and self._online.linear,
    )
    self.done[step] = result
    about = self.about
    shown = "  ".join(
      f"{key} {accuracy(value, about['queries'])}"
      for key, value in result.items()
    )
    say(
      f"step {step}: {shown}  (n = {about['queries']:,}, k = {about['k']};"
      f" {about['of']}; the {self._network} network)"
    )
    return result
