"""The state that a run starts with: a checkpoint's, or the one of step 0.

At step 0 it may have weights that were learned elsewhere.

`--config.init=RUN` takes the backbone of a run's newest checkpoint,
`--config.init=FILE` that of a weights file; `--config.init_heads=True` the
heads too. The target starts as a copy, the optimiser and memories fresh.
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.errors import UserError
from cassle_jax.models import positions, vit
from cassle_jax.runs import folder
from cassle_jax.runs.checkpoint import Checkpointer
from cassle_jax.runs.logs import say
from cassle_jax.step.state import TrainState, target_of
from cassle_jax.training import pictures
from cassle_jax.training.experiment import Experiment
from cassle_jax.weights import foreign, reader, recognize, torch_names

_HEADS = ("projector", "predictor", "prototypes")


class Start(NamedTuple):
  """Where a process took its run up.

  Attributes:
    step: the first one that it has the state of.
    restored: whether that came out of a checkpoint.
    extra: what was kept with it.
    images: what the pictures are, see `pictures.describe`.
    seconds: wall time spent on the state before.
    began: wall-clock time at which it was there.
  """

  step: int
  restored: bool
  extra: Mapping[str, Any]
  images: Mapping[str, Any]
  seconds: float
  began: float


def begin(
  parts: Experiment,
  workdir: str,
  checkpoints: Checkpointer,
  *,
  images: Mapping[str, Any],
  moved: Sequence[str],
) -> tuple[Start, TrainState]:
  """Restores the newest checkpoint, or makes the state of step 0.

  Raises:
    UserError: the pictures are others than before; see `pictures.check`, which
      `images` and `moved` are for.
  """
  found = None
  if checkpoints.latest_step() is not None:
    found = checkpoints.restore(parts.abstract)
  state = make_state(parts) if found is None else found.state
  extra = (found and found.extra) or {}
  if found is not None:
    pictures.check(
      extra.get(pictures.KEY),
      images,
      step=found.step,
      moved=moved,
      allow_change=parts.config.data.allow_change,
    )
  began, step = time.time(), int(state.step)
  if found is not None:
    say(
      f"{workdir} is complete, {step} steps: what it came to"
      if step >= parts.total_steps
      else f"continuing {workdir} from step {step}"
    )
  seconds = extra.get("seconds", 0.0)
  return Start(step, found is not None, extra, images, seconds, began), state


def make_state(parts: Experiment) -> TrainState:
  """The state at step 0 of a run, with the weights of `init` where it has one.

  Raises:
    UserError: there are no such weights, or they are of another network.
  """
  path = parts.config.init
  if not path:
    return parts.make_state()
  # Every process reads; what is read is the same.
  is_run = os.path.isfile(os.path.join(path, folder.CONFIG))
  given = _of_run(path, parts) if is_run else _of_file(path, parts)
  wanted = ("backbone", *(_HEADS if parts.config.init_heads else ()))
  given = {name: tree for name, tree in given.items() if name in wanted}
  say(f"starts with the weights of {path}: {', '.join(given)}")
  return with_variables(
    parts.make_state(),
    given,
    optimizer=parts.optimizer,
    abstract=parts.abstract,
  )


def with_variables(
  state: TrainState,
  given: Mapping[str, Mapping[str, Any]],
  *,
  optimizer: Any,
  abstract: TrainState,
) -> TrainState:
  """A state at step 0 with other variables.

  Args:
    state: at step 0; the networks that are given may be missing in it.
    given: {network: {"params": tree, "batch_stats": tree}}, of the shapes that
      the state has.
    optimizer: whose state starts anew.
    abstract: the whole state's shapes, types and shardings.
  """

  def put(like: Any, tree: Any) -> Any:
    return jax.tree.map(
      lambda x, new: jax.device_put(jnp.asarray(new, x.dtype), x.sharding),
      like,
      tree,
    )

  def mixed(kind: str) -> dict[str, Any]:
    trees = dict(getattr(state, kind))
    for name, variables in given.items():
      like = getattr(abstract, kind)[name]
      trees[name] = put(like, dict(variables.get(kind, {})))
    return trees

  params, stats = mixed("params"), mixed("batch_stats")
  return state.replace(
    params=params,
    batch_stats=stats,
    target=target_of(params) if abstract.target else {},
    target_stats=target_of(stats) if abstract.target else {},
    opt_state=put(abstract.opt_state, optimizer.init(params)),
  )


def _of_run(path: str, parts: Experiment) -> dict[str, Any]:
  from cassle_jax.training import trained

  run = trained.open_run(path)
  check_model(f"the run {path}", run.config.model, parts.config.model)
  return _fitting(path, run.variables, parts)


def _of_file(path: str, parts: Experiment) -> dict[str, Any]:
  model = parts.config.model
  found = recognize.recognize(reader.read(path))
  taken = foreign.take(
    found,
    heads=model.attention_heads or None,
    pool=model.pool if model.backbone in vit.VARIANTS else None,
    omega=tuple(model.omega),
    backbone_only=not parts.config.init_heads,
  )
  check_model(path, taken.options, model)
  mean, std = taken.normalization
  policy = parts.policies[0]
  if not np.allclose((policy.mean, policy.std), (mean, std), atol=1e-3):
    say(
      f"{path} was trained on pictures normalised by mean {mean}, std {std};"
      " --config.augment.mean and --config.augment.std are others here"
    )
  return variables_of(taken.states, parts, path)


def variables_of(
  states: Mapping[str, Mapping[str, np.ndarray]], parts: Experiment, path: str
) -> dict[str, Any]:
  """Variables of a run's networks from arrays by the names of `torch_names`.

  Raises:
    UserError: arrays that the run's networks have not, or of other shapes.
  """
  made = {}
  for name, state in states.items():
    template = _template(parts, name)
    if template is None:
      continue
    if name == "backbone":
      state = _at_grid(state, template, parts.networks.backbone)
    try:
      made[name] = torch_names.from_torch(template, state, ignore=())
    except UserError as error:
      raise UserError(f"{path}, {name}: {error}") from error
  return made


def _template(parts: Experiment, name: str) -> dict[str, Any] | None:
  if name not in parts.abstract.params:
    return None
  return {
    "params": parts.abstract.params[name],
    "batch_stats": parts.abstract.batch_stats[name],
  }


def _at_grid(
  state: Mapping[str, np.ndarray], template: Mapping[str, Any], network: Any
) -> dict[str, np.ndarray]:
  """The state with its learned positions on the run's grid."""
  wanted, given = template["params"].get("pos_embed"), state.get("pos_embed")
  if wanted is None or given is None or wanted.shape == given.shape:
    return dict(state)
  cls = int(network.class_token)
  old = round((given.shape[1] - cls) ** 0.5)
  new = round((wanted.shape[1] - cls) ** 0.5)
  padded = np.pad(given, ((0, 0), (1 - cls, 0), (0, 0))).astype(np.float32)
  moved = positions.resized(
    jnp.asarray(padded), old, new, new, resize=network.positions_resize
  )
  return {**state, "pos_embed": np.asarray(moved)[:, 1 - cls :]}


def _fitting(
  path: str, variables: Mapping[str, Any], parts: Experiment
) -> dict[str, Any]:
  """The variables of another run that this one has, checked."""
  made = {}
  for name, tree in variables.items():
    template = _template(parts, name)
    if template is None:
      continue
    tree = {kind: dict(tree.get(kind, {})) for kind in template}
    if name == "backbone" and "pos_embed" in tree["params"]:
      given = {"pos_embed": np.asarray(tree["params"]["pos_embed"])}
      tree["params"] |= _at_grid(given, template, parts.networks.backbone)
    shapes = [
      {str(k): x.shape for k, x in jax.tree_util.tree_leaves_with_path(each)}
      for each in (tree, template)
    ]
    differing = sorted(
      k
      for k in shapes[0].keys() | shapes[1].keys()
      if shapes[0].get(k) != shapes[1].get(k)
    )
    if differing and (name == "backbone" or parts.config.init_heads):
      raise UserError(
        f"the {name} of {path} is of another shape ({len(differing)} arrays"
        f" differ, {differing[0]}); give this run its model, or"
        " --config.init_heads=False."
      )
    if not differing:
      made[name] = tree
  return made


def check_model(
  whose: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
  """Refuses weights whose network computes something else than the run's.

  Raises:
    UserError: naming the keys that would make them fit.
  """
  keys: Sequence[str] = ("backbone", "width", "stem")
  if ours["backbone"] in vit.VARIANTS:
    keys = (
      *("backbone", "width", "patch_size", "attention_heads", "positions"),
      *("registers", "mlp", "class_token"),
    )
  usual = {"attention_heads": 0, "positions": "sincos", "registers": 0}
  usual |= {"mlp": "gelu", "class_token": True, "width": 0, "stem": "imagenet"}

  def effective(options: Mapping[str, Any], key: str) -> Any:
    value = options.get(key, usual.get(key))
    variant = vit.VARIANTS.get(options["backbone"])
    if key == "width" and not value:
      return variant[0] if variant else 64
    if key == "attention_heads" and not value:
      return variant[2]
    return value

  wrong = [
    key for key in keys if effective(theirs, key) != effective(ours, key)
  ]
  if "backbone" in wrong:
    wrong = ["backbone"]
  if wrong:
    raise UserError(
      f"{whose} has another backbone than this run; start it with "
      + " ".join(
        f"--config.model.{key}={effective(theirs, key)}" for key in wrong
      )
      + "."
    )
