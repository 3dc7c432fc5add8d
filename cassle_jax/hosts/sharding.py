"""Where arrays live: a mesh of devices with the axes `data` and `fsdp`.

The batch is split over both axes. Parameters, their moving average and the
optimiser's state are whole on every device unless `fsdp` is above 1; then
large leaves are split over that axis, by their shape alone. The program is
written for the global arrays and its result does not depend on the mesh.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cassle_jax.errors import AT_LEAST_0, AT_LEAST_1, UserError, require

# What the sizes of a mesh may be, apart from the devices that there are.
RULES = {"data": AT_LEAST_0, "fsdp": AT_LEAST_1}


def make_mesh(
  *, data: int = 0, fsdp: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Arranges devices as a `data` x `fsdp` mesh.

  Its axes are of type Auto: XLA places the collectives, and products such as
  `q @ k.T` of sharded arrays need no annotation.

  Args:
    data: devices along `data`; 0 means all that `fsdp` leaves. Above 0 a single
      process may use only the first data * fsdp devices.
    fsdp: devices along `fsdp`; 1 keeps every parameter whole.
    devices: the devices to use; None means all.

  Raises:
    UserError: when the sizes do not fit the devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  total = len(devices)
  require("mesh", RULES, data=data, fsdp=fsdp)
  if data == 0 and total % fsdp:
    raise UserError(
      f"mesh.fsdp={fsdp} does not divide the {total} devices; valid: "
      f"{_words(_divisors(total))}"
    )
  data = data or total // fsdp
  used = data * fsdp
  if used > total or (used < total and jax.process_count() > 1):
    raise UserError(
      f"mesh.data={data} x mesh.fsdp={fsdp} needs {used} devices and there "
      f"are {total}; mesh.data=0 uses them all"
    )
  return jax.make_mesh(
    (data, fsdp),
    ("data", "fsdp"),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices[:used],
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding that splits the first axis over all devices of the mesh."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_sharding(
  tree: Any, mesh: Mesh, *, min_size: int = 2**16, whole: Sequence[str] = ()
) -> Any:
  """Chooses the sharding of every leaf of a training state by its shape.

  A leaf is split over `fsdp` along its largest axis that divides (the later one
  among equals). Parameters, their moving average and optimiser moments of one
  parameter have one shape, so they are split alike without a rule by name.

  Args:
    tree: arrays or `jax.ShapeDtypeStruct`s (from `jax.eval_shape`).
    mesh: a mesh of `make_mesh`.
    min_size: leaves with fewer elements stay whole: gathering them costs more
      than they take.
    whole: paths of leaves that stay whole, such as "memory/queue".
  """
  parts = mesh.shape["fsdp"]

  def choose(path: Any, leaf: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    fits = [
      (size, axis) for axis, size in enumerate(leaf.shape) if size % parts == 0
    ]
    small = math.prod(leaf.shape) < min_size
    if parts == 1 or small or not fits or name in whole:
      return replicated(mesh)
    axis = max(fits)[1]
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

  return jax.tree_util.tree_map_with_path(choose, tree)


def check_batch(
  batch_size: int, mesh: Mesh, *, name: str = "batch_size"
) -> None:
  """Refuses a global batch that does not divide over the devices.

  Raises:
    UserError: naming the nearest sizes that do.
  """
  total = mesh.size
  if batch_size < 1 or batch_size % total:
    below = batch_size // total * total
    near = [size for size in (below, below + total) if size > 0]
    raise UserError(
      f"{name}={batch_size} does not divide over the {total} devices of the "
      f"mesh (data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}); use "
      f"{_words(near)}"
    )


def put_batch(batch: Any, mesh: Mesh) -> Any:
  """Puts this process's rows of a batch on its devices as global arrays.

  The copies run behind the caller's back.

  Args:
    batch: a tree of numpy arrays that hold the rows of `local_rows`.
    mesh: the mesh of the run, over which `batch_sharding` splits them.
  """
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda rows: jax.make_array_from_process_local_data(
      sharding, np.asarray(rows)
    ),
    batch,
  )


def put_whole(tree: Any, mesh: Mesh) -> Any:
  """Puts arrays that every process has alike on all devices, whole.

  `jax.device_put` would first compare the values of all processes.
  """
  return _from_whole(tree, replicated(mesh))


def split_whole(tree: Any, mesh: Mesh) -> Any:
  """Splits a batch that every process has whole, as `batch_sharding` does."""
  return _from_whole(tree, batch_sharding(mesh))


def _from_whole(tree: Any, sharding: NamedSharding) -> Any:
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__),
    tree,
  )


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
  """The rows of the global batch that this process's devices hold, ascending.

  They are not always one block: on a TPU a mesh follows the wires between the
  chips, not the hosts that these belong to.
  """
  where = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  rows = np.arange(batch_size)
  return np.unique(np.concatenate([rows[index] for index in where.values()]))


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]


def _words(numbers: Sequence[int]) -> str:
  return " or ".join(str(number) for number in numbers)
