"""A run's networks at one of its checkpoints, opened for evaluation.

Nothing in the run's folder is changed. Everything runs in evaluation mode.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cassle_jax import augment, experiment, run_folder, sharding
from cassle_jax import config as config_lib
from cassle_jax import parts as parts_lib
from cassle_jax.errors import UserError
from cassle_jax.evaluation import features
from cassle_jax.parts import Parts
from cassle_jax.restore import Reader
from cassle_jax.state import stacked

# Of several heads side by side: LooC's space that is to ignore every group,
# and AI's last descriptor, the one that `Awareness.evaluated` tells.
_SPACE, _DESCRIPTOR = 0, -1


class Trained(NamedTuple):
  """What a run had learned by a step.

  Attributes:
    config: the run's resolved config.
    parts: its policies, networks, method and awareness.
    step: of the checkpoint.
    variables: {network: {"params": ..., "batch_stats": ...}} of the online
      networks; of stacked heads one.
    mesh: the devices that batches are sharded over.
  """

  config: ConfigDict
  parts: Parts
  step: int
  variables: dict[str, Any]
  mesh: jax.sharding.Mesh


def open_run(
  workdir: str, step: int | None = None, *, precision: str = "float32"
) -> Trained:
  """Reads a run's config and the networks of one checkpoint.

  Args:
    workdir: the run's folder.
    step: of the checkpoint; None means the newest that is whole.
    precision: that the networks compute in, "float32" or "bfloat16".

  Raises:
    UserError: it is no run's folder, or has no such checkpoint, or none that
      can be read.
  """
  path = os.path.join(workdir, run_folder.CONFIG)
  if not os.path.isfile(path):
    raise UserError(
      f"{workdir} is no run's folder: it has no {run_folder.CONFIG}; name a"
      " --workdir that cassle_jax.main wrote."
    )
  config = config_lib.load(path)
  config.precision = precision
  parts = parts_lib.build(config)
  mesh = sharding.make_mesh()
  abstract, _ = experiment.init_state(
    jax.random.key(0),
    networks=parts.networks,
    method=parts.method,
    awareness=parts.awareness,
    optimizer=optax.identity(),
    image_size=config.data.image_size,
    omega_size=augment.omega.size(parts.fields),
    mesh=mesh,
  )
  wanted = {"params": abstract.params, "batch_stats": abstract.batch_stats}
  with Reader(os.path.join(workdir, "checkpoints")) as reader:
    if reader.latest_step() is None:
      raise UserError(
        f"{workdir} has no checkpoint yet; train it with python -m"
        f" cassle_jax.main --config={path} --workdir={workdir}"
      )
    restored = reader.restore(wanted, step, partial=True)
  several = stacked(parts.method, parts.awareness)
  chosen = _DESCRIPTOR if parts.awareness.descriptors else _SPACE
  variables = {}
  for name in restored.state["params"]:
    own = {kind: tree[name] for kind, tree in restored.state.items()}
    if name in several:
      own = jax.tree.map(lambda x: x[chosen], own)
    variables[name] = own
  return Trained(config, parts, restored.step, variables, mesh)


def extractor(trained: Trained) -> Callable[[Any], Any]:
  """Builds images [N, H, W, 3] uint8 -> features [N, d] float32."""
  extract = features.extractor(
    backbone=trained.parts.networks.backbone,
    mean=trained.parts.policies[0].mean,
    std=trained.parts.policies[0].std,
    mesh=trained.mesh,
    descriptor=trained.parts.awareness.evaluated,
  )
  return functools.partial(extract, trained.variables["backbone"])


def embed(
  trained: Trained, images: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Backbone features of normalised views; can be jitted.

  Args:
    trained: from `open_run`.
    images: [B, H, W, 3] float32, normalised as the run's views are.

  Returns:
    [B, d] float32 features, and the backbone's intermediate outputs by name.
  """
  told = {}
  if trained.parts.awareness.evaluated is not None:
    told["descriptor"] = jnp.asarray(
      trained.parts.awareness.evaluated, jnp.float32
    )
  return trained.parts.networks.backbone.apply(
    trained.variables["backbone"], images, train=False, **told
  )


def project(
  trained: Trained, embedded: jax.Array, omega: augment.omega.Omega
) -> jax.Array:
  """Projections of features that are told omega; can be jitted.

  Conditioning that is random draws by the place in the batch.

  Args:
    trained: from `open_run`.
    embedded: [B, d] features.
    omega: {field: [B, size]}; fields that the run's projector is not told are
      left aside.

  Returns:
    [B, k] float32.
  """
  return trained.parts.networks.projector.apply(
    trained.variables["projector"],
    embedded,
    augment.omega.pack(omega, trained.parts.fields),
    train=False,
    rngs={"conditioning": jax.random.key(0)},
  )
