"""A run's networks at one of its checkpoints, opened for evaluation.

Nothing in the run's folder is changed. Everything runs in evaluation mode.
"""

import functools
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from cassle_jax import augment
from cassle_jax import config as config_lib
from cassle_jax.awareness import looc
from cassle_jax.data import content, decode
from cassle_jax.errors import UserError
from cassle_jax.evaluation import features
from cassle_jax.hosts import platforms, sharding
from cassle_jax.models import MIRRORED
from cassle_jax.runs import folder
from cassle_jax.runs.restore import Reader
from cassle_jax.step.state import copied
from cassle_jax.training import experiment
from cassle_jax.training import setup as setup_lib
from cassle_jax.training.setup import Setup

# Of several heads side by side: LooC's space that is to ignore every group,
# and AI's last descriptor, the one that `Awareness.evaluated` tells.
_SPACE, _DESCRIPTOR = 0, -1
# The sections that what the networks compute depends on, beside the weights.
_COMPUTED = ("augment", "model", "method", "awareness")


class Trained(NamedTuple):
  """What a run had learned by a step.

  Attributes:
    config: the run's resolved config.
    setup: its policies, networks, method and awareness.
    step: of the checkpoint.
    variables: {network: {"params": ..., "batch_stats": ...}}, of what
      `setup.evaluated` says; of stacked heads one.
    mesh: the devices that batches are sharded over.
    spaces: variables of LooC's projectors, stacked on a leading axis; None for
      other runs.
    mark: changes when any bit of the checkpoint does, or what the config says
      of the networks and the method.
  """

  config: ConfigDict
  setup: Setup
  step: int
  variables: dict[str, Any]
  mesh: jax.sharding.Mesh
  spaces: Any = None
  mark: str = ""


def open_run(
  workdir: str,
  step: int | None = None,
  *,
  precision: str = "float32",
  network: str | None = None,
) -> Trained:
  """Reads a run's config and the networks of one checkpoint.

  Args:
    workdir: the run's folder.
    step: of the checkpoint; None means the newest that is whole.
    precision: that the networks compute in, "float32" or "bfloat16".
    network: "online" or "target"; None is the run's `evaluation.network`.

  Raises:
    UserError: it is no run's folder, or has no such checkpoint, or none that
      can be read.
  """
  workdir = folder.expanded(workdir)
  path = os.path.join(workdir, folder.CONFIG)
  if not os.path.isfile(path):
    raise UserError(
      f"{workdir} is no run's folder: it has no {folder.CONFIG}; name a"
      " --workdir that cassle_jax.main wrote."
    )
  try:
    config = config_lib.load(path, ranges=False)
    decode.limit_pixels(config.data.max_pixels)
  except UserError as error:
    raise UserError(
      f"{path} is of another version of cassle_jax, or was changed: {error}"
    ) from error
  config.precision = precision
  if network is not None:
    with config.evaluation.ignore_type():
      config.evaluation.network = network
  mesh = sharding.make_mesh()
  setup = setup_lib.build(config, platforms.of(mesh))
  abstract, _ = experiment.init_state(
    jax.random.key(0),
    setup,
    optimizer=optax.identity(),
    image_size=config.data.image_size,
    mesh=mesh,
  )
  wanted = {"params": abstract.params, "batch_stats": abstract.batch_stats}
  slow = setup.evaluated == "target"
  if slow:
    wanted |= {"target": abstract.target, "target_stats": abstract.target_stats}
  with Reader(os.path.join(workdir, "checkpoints")) as reader:
    if reader.latest_step() is None:
      raise UserError(
        f"{workdir} has no checkpoint yet; train it with python -m"
        f" cassle_jax.main --config={path} --workdir={workdir}"
      )
    restored = reader.restore(wanted, step, partial=True)
  several = copied(setup.method, setup.awareness)
  chosen = _DESCRIPTOR if setup.awareness.descriptors else _SPACE
  variables, spaces = {}, None
  for name in restored.state["params"]:
    kinds = {"params": "params", "batch_stats": "batch_stats"}
    if slow and name in MIRRORED:
      kinds = {"params": "target", "batch_stats": "target_stats"}
    own = {k: restored.state[kind][name] for k, kind in kinds.items()}
    if name in several:
      if name == "projector" and setup.method.spaces:
        spaces = own
      own = jax.tree.map(lambda x: x[chosen], own)
    variables[name] = own
  parts = {name: config_lib.to_dict(config)[name] for name in _COMPUTED}
  mark = content.mark(
    restored.mark.encode(), json.dumps(parts, sort_keys=True).encode()
  )
  return Trained(config, setup, restored.step, variables, mesh, spaces, mark)


def extractor(
  trained: Trained,
  *,
  descriptor: tuple[float, ...] | None = None,
  batch_size: int = 256,
) -> Callable[[Any], Any]:
  """Builds images [N, H, W, 3] uint8 -> features [N, d] float32.

  AI's backbone is told the descriptor, None being the awareness's own.
  """
  extract = setup_lib.feature_extractor(
    trained.setup,
    trained.mesh,
    descriptor=descriptor,
    batch_size=batch_size,
  )
  return functools.partial(extract, trained.variables["backbone"])


def plus_plus_extractor(trained: Trained) -> Callable[[Any], Any]:
  """Builds images -> LooC++ [N, spaces * h] float32, for a run of LooC.

  See `awareness.looc.plus_plus`.
  """
  extract = extractor(trained)
  # LooC's projectors are not conditioned: they do not look at omega.
  size = trained.setup.omega_size

  @jax.jit
  def hidden(spaces, embedded):
    omega = jnp.zeros((len(embedded), size))
    return looc.plus_plus(
      trained.setup.networks.projector, spaces, embedded, omega
    )

  return lambda images: np.asarray(hidden(trained.spaces, extract(images)))


def told(
  trained: Trained, variables: Any, descriptor: jax.Array, images: jax.Array
) -> jax.Array:
  """Features [B, d] of AI's backbone for any descriptor; can be jitted.

  Args:
    trained: from `open_run`.
    variables: its backbone's, an argument so that a program need not hold
      them as constants.
    descriptor: [k] float32.
    images: [B, H, W, 3] uint8.
  """
  policy = trained.setup.policies[0]
  return features.forward(
    variables,
    images,
    backbone=trained.setup.networks.backbone,
    mean=policy.mean,
    std=policy.std,
    descriptor=descriptor,
  )


def embed(
  trained: Trained, images: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Backbone features of views normalised as the run's are; can be jitted.

  [B, H, W, 3] float32 -> [B, d] float32, and the backbone's outputs on the way
  there by name.
  """
  told = {}
  if trained.setup.awareness.evaluated is not None:
    told["descriptor"] = jnp.asarray(
      trained.setup.awareness.evaluated, jnp.float32
    )
  return trained.setup.networks.backbone.apply(
    trained.variables["backbone"], images, train=False, **told
  )


def project(
  trained: Trained, embedded: jax.Array, omega: augment.omega.Omega
) -> jax.Array:
  """Projections [B, k] of features that are told omega; can be jitted.

  Conditioning that is random draws by the place in the batch.

  Args:
    trained: from `open_run`.
    embedded: [B, d] features.
    omega: {field: [B, size]}; fields that the run's projector is not told are
      left aside.
  """
  return trained.setup.networks.projector.apply(
    trained.variables["projector"],
    embedded,
    augment.omega.pack(omega, trained.setup.fields),
    train=False,
    rngs={"conditioning": jax.random.key(0)},
  )
