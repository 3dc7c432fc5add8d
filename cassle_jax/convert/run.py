"""A run's folder at step 0 around weights that were learned elsewhere."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from cassle_jax import augment, methods
from cassle_jax import config as config_lib
from cassle_jax.errors import UserError, unknown
from cassle_jax.runs import files, folder
from cassle_jax.runs.checkpoint import Checkpointer
from cassle_jax.step.state import TrainState
from cassle_jax.training import experiment, starting
from cassle_jax.training import setup as setup_lib
from cassle_jax.weights.foreign import Taken


def configure(
  taken: Taken,
  *,
  image_size: int | None = None,
  normalization: str | None = None,
  method: str | None = None,
  overrides: Sequence[str] = (),
) -> ConfigDict:
  """The config of a run that has these networks.

  Args:
    taken: from `foreign.take`.
    image_size: side of the views in px; None = what the backbone was made for.
    normalization: a key of `families.NORMALIZATIONS`; None = the layout's.
    method: as in `config.method.name`; None = the layout's.
    overrides: "section.key=value".

  Raises:
    UserError: a value that is not valid, or that does not suit the weights.
  """
  from cassle_jax.weights import families

  if method is not None and method not in methods.METHODS:
    raise unknown("--method", method, methods.METHODS)
  config = config_lib.default()
  config.method.name = method or taken.method
  config.data.image_size = image_size or taken.image_size
  mean, std = taken.normalization
  if normalization is not None:
    mean, std = families.NORMALIZATIONS[normalization]
  options = dict(taken.options)
  conditioning = options.pop("conditioning", "none")
  config.awareness.name = "vanilla" if conditioning == "none" else "cassle"
  with config.model.ignore_type(), config.augment.ignore_type():
    config.augment.mean, config.augment.std = tuple(mean), tuple(std)
    for key, value in taken.augment.items():
      if key not in config.augment:
        raise unknown("augment key of cassle_jax.json", key, config.augment)
      config.augment[key] = tuple(value) if isinstance(value, list) else value
    config.model.update(options)
    config.model.conditioning = conditioning
  if taken.prototypes:
    with config.method.ignore_type():
      config.method.prototypes = taken.prototypes
  _fit_predictor(config, taken)
  _check_omega(taken, tuple(config.model.omega))
  if "solarize" in config.model.omega and not taken.augment:
    config.augment.preset = "mocov3_vit"
  for override in overrides:
    config_lib.apply_override(config, override)
  config_lib.check(config)
  return setup_lib.resolve(config)


def _fit_predictor(config: ConfigDict, taken: Taken) -> None:
  """A predictor where the method has one, as long as projections are."""
  is_vit = config.model.backbone.startswith("vit")
  usual = methods.build(name=config.method.name, vit=is_vit).heads.predictor
  with config.model.ignore_type():
    if not usual:
      config.model.predictor = None
    elif "projector" in taken.states and "predictor" not in taken.states:
      output = config.model.projector[-1]
      config.model.predictor = (*usual[:-1], output)


def _check_omega(taken: Taken, fields: tuple[str, ...]) -> None:
  if not taken.omega_size:
    return
  for field in fields:
    if field not in augment.omega.FIELDS:
      raise unknown("field of --omega", field, augment.omega.FIELDS)
  size = augment.omega.size(fields)
  if size != taken.omega_size:
    raise UserError(
      f"--omega={','.join(fields)} has {size} numbers, and the projector takes"
      f" {taken.omega_size}: name the fields that it was trained with."
    )


def write(config: ConfigDict, taken: Taken, workdir: str) -> None:
  """Makes the folder: config.json and a checkpoint of step 0.

  Raises:
    UserError: the arrays do not fit the networks, or the folder cannot be made.
  """
  # No data is opened; the state is the same whatever the run's length.
  parts = experiment.build(
    config, devices=jax.local_devices()[:1], images=1000 * config.batch_size
  )
  given = starting.variables_of(taken.states, parts, "the file")

  @jax.jit
  def rest() -> TrainState:
    """What the file does not give; the rest is not even compiled."""
    state = parts.make_state()
    return state.replace(
      params={k: v for k, v in state.params.items() if k not in given},
      batch_stats={
        k: v for k, v in state.batch_stats.items() if k not in given
      },
      target={},
      target_stats={},
      opt_state=(),
    )

  state = starting.with_variables(
    rest(), given, optimizer=parts.optimizer, abstract=parts.abstract
  )
  _write(config_lib.to_dict(config), state, workdir)


def _write(config: Mapping[str, Any], state: TrainState, workdir: str) -> None:
  with folder.held(workdir):
    with folder.usable(workdir):
      files.write_json(os.path.join(workdir, folder.CONFIG), config)
    path = os.path.join(workdir, "checkpoints")
    with Checkpointer(path, asynchronous=False, max_failures=1) as checkpoints:
      checkpoints.save(0, state, {"seconds": 0.0})


__all__ = ["configure", "write"]
