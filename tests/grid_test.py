"""Every supported cell of the grid trains; every other one says why not."""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cassle_jax import augment
from cassle_jax import config as config_lib
from cassle_jax.awareness import AWARENESS, Awareness, cells
from cassle_jax.errors import UserError
from cassle_jax.hosts import sharding
from cassle_jax.hosts.platforms import Platform
from cassle_jax.methods import METHODS, Method
from cassle_jax.runs.checkpoint import Checkpointer
from cassle_jax.step import TrainState, create_state, update
from cassle_jax.step.state import head_copies
from cassle_jax.training import experiment
from cassle_jax.training import setup as setup_lib

BATCH, SIZE, STEPS, MOMENTUM, RATE = 16, 16, 20, 0.9, 0.05
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def config_of(method, awareness):
  """The cell's `:tiny` config, made smaller still."""
  config = config_lib.default()
  config.method.name, config.awareness.name = method, awareness
  config = config_lib.tiny(config)
  settings = {
    "batch_size": BATCH,
    "data.image_size": SIZE,
    "model.backbone": "conv2",
    "model.width": 4,
    "model.stem": "imagenet",
    "model.projector": "12,8",
    "model.gamma_depth": 2,
    "model.gamma_width": 8,
    "augment.blur_kernel": 3,
    "mesh.data": 1,
  }
  if config.model.predictor:
    settings["model.predictor"] = "12,8"
  if awareness == "ai":
    settings["model.amortised_rank"] = 4
  if "augself" in awareness:
    settings["awareness.hidden"] = "8"
  if "method.queue_size" in METHODS[method].tiny:
    settings["method.queue_size"] = 2 * BATCH
  if "method.prototypes" in METHODS[method].tiny:
    settings |= {
      "method.prototypes": 8,
      "augment.local_views": 1,
      "augment.local_size": SIZE // 2,
    }
  settings |= AWARENESS[awareness].cell
  if settings.get("augment.local_views") == 0:
    settings["augment.local_size"] = None  # For none.
  for key, value in settings.items():
    config_lib.apply_override(config, f"{key}={value}")
  return setup_lib.resolve(config)


def parts_of(config):
  """The keyword arguments of `update`, and the policies."""
  parts = setup_lib.build(config, Platform("cpu"))
  arguments = dict(
    networks=parts.networks,
    method=parts.method,
    awareness=parts.awareness,
    optimizer=optax.sgd(RATE),
  )
  return arguments, parts.fields, parts.policies


def views_of(policies, count, seed=0):
  """So many views of random numbers, of the policies' sizes."""
  generator = np.random.default_rng(seed)

  def draw(*shape):
    return jnp.asarray(generator.normal(size=(BATCH, *shape)), jnp.float32)

  sizes = [policy.image_size for policy in policies]
  sizes += [sizes[-1]] * (count - len(sizes))
  return tuple(
    augment.View(
      draw(*size, 3), {f: draw(n) for f, n in augment.omega.FIELDS.items()}
    )
    for size in sizes
  )


def close(a, b, **options):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **options), a, b)


def differ(a, b):
  """Whether any array of `a` is not that of `b` at the same place."""
  return any(
    not all(
      np.array_equal(x, y)
      for x, y in zip(
        jax.tree.leaves(a[name]), jax.tree.leaves(b[name]), strict=True
      )
    )
    for name in a
  )


class Cell(NamedTuple):
  """A cell with its one compiled step: all checks below share it."""

  method: Method
  awareness: Awareness
  fields: tuple[str, ...]
  compiled: Callable
  state: TrainState
  views: tuple[augment.View, ...]

  def step(self, state, views, momentum=MOMENTUM):
    return self.compiled(state, views, momentum)


def build(cell):
  parts, fields, policies = parts_of(config_of(*cell))
  method, aware = parts["method"], parts["awareness"]
  create = functools.partial(
    create_state,
    **parts,
    image_size=SIZE,
    omega_size=augment.omega.size(fields),
  )
  index = jnp.int32(1) if aware.descriptors else None

  @jax.jit
  def step(state, views, momentum):
    def loss_of(target):
      new, metrics = update(
        state.replace(target=target),
        views,
        **parts,
        key=jax.random.key(7),
        index=index,
        momentum=momentum,
        fields=fields,
      )
      return metrics["loss"], (new, metrics)

    # The gradient that must not be there.
    leak, (new, metrics) = jax.grad(loss_of, has_aux=True)(state.target)
    return new, {**metrics, "leak": optax.tree.norm(leak)}

  count = max(2, *(i + 1 for i in method.target_views or (0,)))
  views = views_of(policies, count)
  state = jax.jit(create)(jax.random.key(0))
  return Cell(method, aware, fields, step, state, views)


def in_default_run(method, awareness):
  """Every method, and every awareness with one of them; all others are slow."""
  return awareness in ("vanilla", "cassle") or method == "mocov2"


@pytest.mark.parametrize(
  "cell",
  [
    pytest.param(
      cell,
      id="-".join(cell),
      marks=() if in_default_run(*cell) else pytest.mark.slow,
    )
    for cell in cells.supported()
  ],
)
def test_cell(cell, tmp_path):
  cell = build(cell)
  first, metrics = cell.step(cell.state, cell.views)
  trained = check_training(cell)
  check_heads(cell, first)
  check_memory(cell, first)
  check_target(cell, first)
  check_keys(cell, trained)
  check_momentum(cell)
  check_omega(cell, metrics["loss"])
  check_nan(cell)
  assert cell.compiled._cache_size() == 1
  check_checkpoint(trained, tmp_path)
  check_devices(cell, first, metrics)


def check_training(cell):
  """20 steps: the loss is finite and falls, the target gets no gradient."""
  new, losses = cell.state, []
  for _ in range(STEPS):
    # The same views against the same memory: else they would meet themselves
    # there as negatives.
    new = new.replace(memory=jax.tree.map(jnp.copy, cell.state.memory))
    new, metrics = cell.step(new, cell.views)
    losses.append(float(metrics["loss"]))
    assert metrics["leak"] == 0
  assert np.all(np.isfinite(losses)) and new.step == STEPS
  assert losses[-1] < losses[0], losses
  for name in ("feature_std", "projection_rank", "gradient_norm"):
    assert metrics[name] > 0
  return new


def check_heads(cell, first):
  """Every layer of every head gets a gradient: the loss sees all of them.

  Of several copies side by side (LooC) each one, of AI's the one that was
  drawn.
  """
  method, change = cell.method, moved(first.params, cell.state.params)
  heads = {n: part for n, part in change.items() if n != "backbone"}
  assert ("predictor" in heads) == bool(method.heads.predictor)
  assert ("prototypes" in heads) == bool(method.heads.prototypes)
  assert set(heads.get("pair_heads", ())) == {
    field for field, _ in cell.awareness.pair_outputs
  }
  assert ("gamma" in heads["projector"]) == cell.awareness.conditioned
  for path, x in jax.tree_util.tree_leaves_with_path(heads):
    name = jax.tree_util.keystr(path)
    if "kernel" not in name:
      continue  # A bias may have none: the next norm takes it off again.
    copies = x if head_copies(method, cell.awareness) else x[None]
    got = [bool(np.max(np.abs(copy)) > 2e-6) for copy in copies]
    drawn = [True] * len(got)
    if cell.awareness.descriptors:
      drawn = [index == 1 for index in range(len(got))]
    assert got == drawn, name


def check_memory(cell, first):
  """A method's memory takes something up in each step: all its entries do."""
  for name, old in cell.state.memory.items():
    assert not np.array_equal(first.memory[name], old), name


def check_keys(cell, trained):
  """The target's outputs are those of the target when it has moved, or before.

  In a state where the target lags far behind, a momentum of 0 makes it catch
  up: "before" means that the loss of this step already sees it.
  """
  method = cell.method
  if not method.target_views:
    return
  lagging = trained.replace(target=cell.state.target)
  online = {name: trained.params[name] for name in lagging.target}
  arrived = trained.replace(target=online)

  def loss(state, momentum):
    return float(cell.step(state, cell.views, momentum)[1]["loss"])

  still, there = loss(lagging, 1.0), loss(arrived, 1.0)
  assert abs(still - there) > 1e-4 * abs(there)
  expected = there if method.target_update == "before" else still
  np.testing.assert_allclose(loss(lagging, 0.0), expected, rtol=1e-6)


def check_momentum(cell):
  """From the method's own to 1 by a half cosine, or constant."""
  if not cell.method.target_views:
    return
  method, steps = cell.method, 20
  momentum = experiment.build_momentum(method, steps, steps_per_epoch=1)
  found = [float(momentum(jnp.int32(step))) for step in range(steps + 1)]
  cosines = 0.5 + 0.5 * np.cos(np.pi * np.arange(steps + 1) / steps)
  ramp = method.momentum_schedule == "cosine"
  expected = 1 - (1 - method.momentum) * (cosines if ramp else 1)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def check_target(cell, first):
  """m target + (1 - m) online, also at the ends of m; its own statistics."""
  method, old = cell.method, cell.state
  assert bool(old.target) == (method.target_update != "none")
  if not old.target:
    return
  for momentum in (0.0, MOMENTUM, 1.0):
    # From a state in which the target lags behind.
    new, _ = cell.step(first, cell.views, momentum)
    source = first if method.target_update == "before" else new
    # In numpy: a program for every shape would take longer than the checks.
    expected = {
      name: jax.tree.map(
        lambda a, b, m=momentum: m * np.asarray(a) + (1 - m) * np.asarray(b),
        first.target[name],
        source.params[name],
      )
      for name in first.target
    }
    close(new.target, expected, rtol=1e-5, atol=1e-7)
  if jax.tree.leaves(old.target_stats):
    assert differ(new.target_stats, old.target_stats)


def check_omega(cell, loss):
  """Each field that is told moves the loss; without being told, none does."""
  told = cell.awareness.conditioned
  for field in cell.fields:
    changed = tuple(
      view._replace(
        omega={
          **view.omega,
          field: view.omega[field]
          + 1.0
          + jnp.arange(BATCH, dtype=jnp.float32)[:, None] / 8,
        }
      )
      for view in cell.views
    )
    change = abs(cell.step(cell.state, changed)[1]["loss"] - loss)
    # Beyond rounding: AugSelf sees differences, and both views moved alike.
    assert (change > 2e-6 * abs(loss)) == told, field


def check_nan(cell):
  """One bad pixel: the whole state but its step is left as it was."""
  bad = cell.views[0].image.at[0, 0, 0, 0].set(jnp.nan)
  views = (cell.views[0]._replace(image=bad), *cell.views[1:])
  new, metrics = cell.step(cell.state, views)
  assert metrics["finite"] == 0
  close(new, cell.state.replace(step=cell.state.step + 1), rtol=0)


def check_checkpoint(state, folder):
  """The state comes back from disk as it was."""
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
  )
  with Checkpointer(str(folder / "checkpoints")) as checkpoints:
    checkpoints.save(STEPS, state, {})
    assert checkpoints.wait()
    close(checkpoints.restore(abstract).state, state, rtol=0)


def check_devices(cell, first, metrics):
  """Loss, gradients, statistics and memory on 8 devices are those on one.

  The batch is split over all eight, the parameters over two.
  """
  mesh = sharding.make_mesh(data=4, fsdp=2)
  spread = sharding.state_sharding(
    cell.state,
    mesh,
    min_size=8,
    whole=[f"memory/{name}" for name in cell.method.whole],
  )
  assert any(not s.is_fully_replicated for s in jax.tree.leaves(spread.params))
  state = jax.device_put(jax.device_get(cell.state), spread)
  views = jax.device_get(cell.views)
  views = jax.device_put(views, sharding.batch_sharding(mesh))
  found, found_metrics = cell.step(state, views)
  np.testing.assert_allclose(found_metrics["loss"], metrics["loss"], rtol=1e-5)
  # By plain descent, so these are the gradients times RATE. Rounding is that of
  # the largest of an array, and all there is where a gradient is zero.
  for x, y in zip(
    jax.tree.leaves(moved(found.params, cell.state.params)),
    jax.tree.leaves(moved(first.params, cell.state.params)),
    strict=True,
  ):
    bound = 1e-4 * np.max(np.abs(y)) + 3e-7
    np.testing.assert_allclose(x, y, rtol=0, atol=bound)
  for name in ("batch_stats", "target", "target_stats"):
    parts = getattr(found, name), getattr(first, name)
    close(*parts, rtol=1e-4, atol=1e-6)
  close(found.memory, first.memory, rtol=1e-4, atol=1e-6)


def moved(new, old):
  return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), new, old)


# The table in plain sight: what is refused is decided here a second time.
REFUSED = [
  *((method, "looc") for method in METHODS if method != "mocov2"),
  *(
    (method, "ifm")
    for method in METHODS
    if method not in ("simclr", "mocov2", "mocov3", "nnclr")
  ),
]


@pytest.mark.parametrize("cell", REFUSED, ids="-".join)
def test_refused_cell_says_why(cell):
  config = config_lib.default()
  config.method.name, config.awareness.name = cell
  with pytest.raises(UserError) as error:
    setup_lib.resolve(config)
  assert cells.reason(*cell) in str(error.value)
  assert "\n" not in str(error.value)


def test_every_cell_is_either_supported_or_refused():
  every = {(method, aware) for method in METHODS for aware in AWARENESS}
  assert set(cells.supported()) == every - set(REFUSED)


def test_the_page_of_methods_has_the_table():
  with open(os.path.join(ROOT, "docs", "methods.md")) as file:
    assert cells.markdown() in file.read()
