"""Checkpoints: bit-identical, whole or put aside, on any devices."""

import errno
import gc
import os
import resource
import shutil
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import optim
from cassle_jax.errors import UserError
from cassle_jax.hosts import sharding
from cassle_jax.runs import alias, checkpoint, restore


@flax.struct.dataclass
class State:
  step: Any
  params: Any
  target: Any
  batch_stats: Any
  opt_state: Any
  queue: Any


def make_state(mesh, seed=0, *, name="adamw", width=96):
  key = jax.random.key(seed)
  params = {
    "backbone": {
      "conv": {"kernel": jax.random.normal(key, (3, 32, width))},
      "norm": {"bias": jax.random.normal(key, (5,)).astype(jnp.bfloat16)},
      "patch": {"kernel": jnp.ones((2, 2))},
    },
    "predictor": {},
  }
  optimizer = optim.build(
    name=name,
    batch_size=8,
    steps_per_epoch=1,
    total_steps=9,
    frozen=("backbone/patch",),
  )
  state = State(
    step=jnp.int32(seed),
    params=params,
    target=jax.tree.map(lambda x: 2 * x, params),
    batch_stats={"mean": jnp.asarray([jnp.nan, -0.0, jnp.inf])},
    opt_state=optimizer.init(params),
    queue={
      "rows": jnp.zeros((0, 4)),
      "position": jnp.uint32(2**32 - 1),
    },
  )
  return jax.device_put(state, sharding.state_sharding(state, mesh, min_size=8))


def abstract(state, mesh):
  shapes = jax.eval_shape(lambda: state)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    sharding.state_sharding(shapes, mesh, min_size=8),
  )


def assert_same_bits(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def largest_file(folder):
  files = [
    os.path.join(parent, name)
    for parent, _, names in os.walk(folder)
    for name in names
  ]
  return max(files, key=os.path.getsize)


def flip_bit(path):
  with open(path, "r+b") as file:
    data = bytearray(file.read())
    data[len(data) // 2] ^= 1
    file.seek(0)
    file.write(data)


@pytest.fixture
def mesh():
  return sharding.make_mesh(fsdp=2)


@pytest.fixture
def saved(tmp_path, mesh):
  """A folder with steps 1, 2 and 3, and the state of each."""
  folder = str(tmp_path / "checkpoints")
  states = {step: make_state(mesh, step) for step in (1, 2, 3)}
  with checkpoint.Checkpointer(folder) as checkpoints:
    for step, state in states.items():
      assert checkpoints.save(step, state, {"note": [step]})
  return folder, states


def test_round_trip_is_bit_identical(saved, mesh):
  folder, states = saved
  with checkpoint.Checkpointer(folder) as checkpoints:
    assert checkpoints.all_steps() == [1, 2, 3]
    assert checkpoints.latest_step() == 3
    newest = checkpoints.restore(abstract(states[3], mesh))
    older = checkpoints.restore(states[1], 1)
  assert (newest.step, newest.extra) == (3, {"note": [3]})
  assert_same_bits(newest.state, states[3])
  assert_same_bits(older.state, states[1])
  kernel = newest.state.params["backbone"]["conv"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (3, 32, 48)


@pytest.mark.parametrize("devices, fsdp", [(8, 8), (4, 2), (4, 1), (1, 1)])
def test_restores_on_other_devices(saved, devices, fsdp):
  folder, states = saved
  mesh = sharding.make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
  with restore.Reader(folder) as reader:
    found = reader.restore(abstract(states[3], mesh))
  assert_same_bits(found.state, states[3])
  assert all(
    x.sharding.device_set == set(jax.devices()[:devices])
    for x in jax.tree.leaves(found.state)
  )


def test_part_of_a_state(saved):
  folder, states = saved
  shapes = jax.eval_shape(lambda: {"params": states[2].params})
  with restore.Reader(folder) as reader:
    found = reader.restore(shapes, 2, partial=True)
    with pytest.raises(UserError, match="step is only in it"):
      reader.restore(shapes, 2)
  assert_same_bits(found.state["params"], states[2].params)


def test_donated_steps_do_not_reach_a_save_under_way(tmp_path, mesh):
  state = make_state(mesh, width=65536)  # 25 MB a copy
  step = jax.jit(
    lambda s: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), s),
    donate_argnums=0,
  )
  state = step(state)
  expected = jax.tree.map(lambda x: np.array(x), state)
  with checkpoint.Checkpointer(str(tmp_path / "c")) as checkpoints:
    assert checkpoints.save(1, state)
    for _ in range(5):
      state = step(state)
    jax.block_until_ready(state)
    assert checkpoints.wait()
    found = checkpoints.restore(abstract(state, mesh)).state
  assert_same_bits(found, expected)


@pytest.mark.parametrize(
  "options, steps",
  [
    ({"keep_last": 2}, [5, 6]),
    ({"keep_last": 1, "keep_every": 2}, [2, 4, 6]),
    ({"keep_last": 0}, [1, 2, 3, 4, 5, 6]),
    ({"keep_last": 2, "asynchronous": False}, [5, 6]),
  ],
)
def test_which_steps_are_kept(tmp_path, options, steps):
  state = {"w": jnp.ones(3)}
  with checkpoint.Checkpointer(str(tmp_path / "c"), **options) as checkpoints:
    for step in range(1, 7):
      assert checkpoints.save(step, state)
    checkpoints.wait()
    assert checkpoints.all_steps() == steps


def test_a_saved_step_is_not_saved_again(saved):
  folder, states = saved
  with checkpoint.Checkpointer(folder, keep_last=9) as checkpoints:
    assert not checkpoints.save(2, states[3])
    assert checkpoints.wait()


def test_which_steps_are_due(tmp_path):
  with checkpoint.Checkpointer(str(tmp_path), every=5) as checkpoints:
    assert [s for s in range(16) if checkpoints.due(s)] == [5, 10, 15]
  with checkpoint.Checkpointer(str(tmp_path), every=0) as checkpoints:
    assert not any(checkpoints.due(s) for s in range(16))


def flip_data(step):
  flip_bit(largest_file(f"{step}/state"))


def truncate_data(step):
  path = largest_file(f"{step}/state")
  os.truncate(path, os.path.getsize(path) // 2)


def flip_info(step):
  with open(f"{step}/info/metadata") as file:
    text = file.read()
  with open(f"{step}/info/metadata", "w") as file:
    file.write(text.replace('"float32"', '"float16"', 1))


def truncate_info(step):
  os.truncate(f"{step}/info/metadata", 30)


def drop_state(step):
  shutil.rmtree(f"{step}/state")


def drop_manifest(step):
  os.unlink(f"{step}/state/manifest.ocdbt")


def stray(step):
  shutil.rmtree(step)
  os.mkdir(step)


@pytest.mark.parametrize(
  "damage",
  [
    flip_data,
    truncate_data,
    flip_info,
    truncate_info,
    drop_state,
    drop_manifest,
    stray,
  ],
)
def test_a_damaged_step_is_put_aside(saved, mesh, capfd, damage):
  folder, states = saved
  damage(f"{folder}/3")
  with checkpoint.Checkpointer(folder) as checkpoints:
    found = checkpoints.restore(abstract(states[3], mesh))
    assert found.step == 2
    assert_same_bits(found.state, states[2])
    # The run goes on and saves the same step again.
    assert checkpoints.save(3, states[3]) and checkpoints.wait()
    assert checkpoints.restore(abstract(states[3], mesh)).step == 3
  names = sorted(os.listdir(folder))
  assert names[:3] == ["1", "2", "3"]
  assert names[3].startswith("damaged-3-") and len(names) == 4
  lines = [x for x in capfd.readouterr().err.splitlines() if x.strip()]
  assert len(lines) == 1, lines
  assert "checkpoint 3" in lines[0] and "using step 2" in lines[0]


def test_a_reader_changes_nothing(saved, mesh, capfd):
  folder, states = saved
  flip_data(f"{folder}/3")
  os.mkdir(f"{folder}/4.orbax-checkpoint-tmp")
  with restore.Reader(folder) as reader:
    assert reader.restore(abstract(states[3], mesh)).step == 2
    with pytest.raises(restore.NoUsableCheckpoint, match="other steps: 1, 2"):
      reader.restore(abstract(states[3], mesh), 3)
    with pytest.raises(UserError, match="there are: 1, 2, 3"):
      reader.restore(abstract(states[3], mesh), 7)
  assert len(os.listdir(folder)) == 4
  assert "using step 2" in capfd.readouterr().err


def test_nothing_left_is_an_error_and_stays_one(saved, mesh):
  """And all stay where they are: it may be the reader that is wrong."""
  folder, states = saved
  for step in (1, 2, 3):
    flip_data(f"{folder}/{step}")
  for _ in range(2):
    with checkpoint.Checkpointer(folder) as checkpoints:
      assert checkpoints.latest_step() == 3
      with pytest.raises(restore.NoUsableCheckpoint, match="3 damaged"):
        checkpoints.restore(abstract(states[3], mesh))
  assert sorted(os.listdir(folder)) == ["1", "2", "3"]


def test_what_was_set_aside_is_no_empty_folder(saved):
  folder, _ = saved
  for step in (1, 2, 3):
    os.rename(f"{folder}/{step}", f"{folder}/damaged-{step}-then")
  with checkpoint.Checkpointer(folder) as checkpoints:
    with pytest.raises(restore.NoUsableCheckpoint, match="3 damaged"):
      checkpoints.latest_step()


STORE = 'Error reading local file "/run/3/d/a1": {} [tensorstore_spec={{}}]'


@pytest.mark.parametrize(
  "error, words",
  [
    (
      ValueError("RESOURCE_EXHAUSTED: " + STORE.format("Too many open files")),
      ": Too many open files. Raise the limit",
    ),
    (
      ValueError("ABORTED: " + STORE.format("Stale file handle")),
      ": Stale file handle. When the file system answers",
    ),
    (
      ValueError("UNKNOWN: " + STORE.format("Input/output error")),
      ": Input/output error. When the file",
    ),
    (
      ValueError("PERMISSION_DENIED: " + STORE.format("Permission denied")),
      ": Permission denied. When",
    ),
    (OSError(errno.ESTALE, "Stale file handle", "/x"), "Stale file handle"),
    (OSError(errno.EMFILE, "Too many open files", "/x"), "ulimit -n"),
    (OSError(errno.EIO, "Input/output error", "/x"), "file system answers"),
    (KeyError("tree_metadata"), "written with orbax-checkpoint [0-9.]+, here"),
    (TypeError("unexpected keyword"), "if they differ, install that one"),
  ],
)
def test_what_proves_no_damage_changes_nothing(
  saved, mesh, monkeypatch, error, words
):
  """Three good checkpoints were renamed for a limit on open files."""
  folder, states = saved

  def fail(*_, **__):
    raise error

  with checkpoint.Checkpointer(folder) as checkpoints:
    monkeypatch.setattr(checkpoints, "_read", fail)
    with pytest.raises(restore.Unreadable, match=words) as raised:
      checkpoints.restore(abstract(states[3], mesh))
    assert "\n" not in str(raised.value)
    assert checkpoints.all_steps() == [1, 2, 3]


def test_a_folder_that_does_not_answer_is_not_empty(saved, monkeypatch):
  """The run would start again from step 0."""
  folder, _ = saved

  def fail(path):
    raise OSError(errno.ESTALE, "Stale file handle", path)

  reader = restore.Reader(folder)
  monkeypatch.setattr(os, "listdir", fail)
  with pytest.raises(restore.Unreadable, match="cannot be listed.*Stale"):
    reader.latest_step()


def test_a_step_that_a_run_removes_meanwhile_is_no_damage(saved, mesh, capfd):
  """An evaluation of a run that trains on."""
  folder, states = saved
  with restore.Reader(folder) as reader:
    read = reader._read_info

    def remove(step):
      if step == 3:
        os.rename(f"{folder}/3", f"{folder}/4")
      return read(step)

    reader._read_info = remove
    assert reader.restore(abstract(states[3], mesh)).step == 4
  assert "damaged" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["08", "²", "٣", "9x", "-1"])
def test_only_numbers_are_steps(saved, name):
  folder, _ = saved
  os.mkdir(f"{folder}/{name}")
  assert restore.Reader(folder).all_steps() == [1, 2, 3]


def test_an_empty_folder_has_no_step(tmp_path):
  with checkpoint.Checkpointer(str(tmp_path / "c")) as checkpoints:
    assert checkpoints.latest_step() is None
    with pytest.raises(restore.NoUsableCheckpoint):
      checkpoints.restore({"w": jnp.ones(2)})
  assert restore.Reader(str(tmp_path / "none")).latest_step() is None


def test_running_out_of_memory_is_no_damage(saved, mesh, monkeypatch):
  folder, states = saved
  with checkpoint.Checkpointer(folder) as checkpoints:

    def fail(*_, **__):
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(restore, "fingerprint", fail)
    with pytest.raises(jax.errors.JaxRuntimeError):
      checkpoints.restore(abstract(states[3], mesh))
    assert checkpoints.all_steps() == [1, 2, 3]


def widen(state):
  params = {**state.params, "new": jnp.ones(2)}
  return state.replace(params=params)


def narrow(state):
  return state.replace(batch_stats={})


def reshape(state):
  return state.replace(batch_stats={"mean": jnp.zeros((3, 1))})


def cast(state):
  return state.replace(batch_stats={"mean": jnp.zeros(3, jnp.bfloat16)})


@pytest.mark.parametrize(
  "change, words",
  [
    (widen, "params/new is not in it"),
    (narrow, "batch_stats/mean is only in it"),
    (reshape, r"batch_stats/mean is float32\[3\] in it, not float32\[3, 1\]"),
    (cast, r"batch_stats/mean is float32\[3\] in it, not bfloat16\[3\]"),
  ],
)
def test_another_state_is_refused_not_put_aside(saved, change, words):
  folder, states = saved
  with checkpoint.Checkpointer(folder) as checkpoints:
    with pytest.raises(UserError, match=words) as error:
      checkpoints.restore(change(states[3]))
    assert checkpoints.all_steps() == [1, 2, 3]
  assert not isinstance(error.value, restore.NoUsableCheckpoint)
  assert "\n" not in str(error.value)


ITEMS = ("params", "target", "batch_stats", "opt_state", "queue")


@pytest.mark.parametrize("item", ITEMS)
def test_a_state_that_lacks_an_item_is_refused(tmp_path, mesh, item):
  """It was saved without: the config differs, and nothing is put aside."""
  state, folder = make_state(mesh, 3), str(tmp_path / "c")
  with checkpoint.Checkpointer(folder) as checkpoints:
    assert checkpoints.save(3, state.replace(**{item: {}}))
    assert checkpoints.wait()
    with pytest.raises(UserError, match=f"{item}/.* is not in it") as error:
      checkpoints.restore(abstract(state, mesh))
    assert not isinstance(error.value, restore.NoUsableCheckpoint)
    assert checkpoints.all_steps() == [3]


@pytest.mark.parametrize("item", ITEMS)
def test_an_item_that_got_lost_on_disk_is_damage(
  saved, tmp_path, mesh, capfd, item
):
  """It was saved and is not there: the step before is used."""
  folder, states = saved
  other = str(tmp_path / "other")
  with checkpoint.Checkpointer(other) as checkpoints:
    assert checkpoints.save(3, states[3].replace(**{item: {}}))
  shutil.rmtree(f"{folder}/3/state")
  shutil.copytree(f"{other}/3/state", f"{folder}/3/state")
  with checkpoint.Checkpointer(folder) as checkpoints:
    assert checkpoints.restore(abstract(states[3], mesh)).step == 2
  assert "checkpoint 3" in capfd.readouterr().err


def test_another_optimiser_is_refused(saved, mesh):
  folder, _ = saved
  other = make_state(mesh, 3, name="sgd")
  with restore.Reader(folder) as reader:
    with pytest.raises(UserError, match="opt_state.*and 3 more"):
      reader.restore(other)


def test_leftovers_of_a_kill_are_removed_and_never_listed(saved):
  folder, states = saved
  os.makedirs(f"{folder}/4.orbax-checkpoint-tmp/state")
  assert restore.Reader(folder).latest_step() == 3
  with checkpoint.Checkpointer(folder) as checkpoints:
    assert checkpoints.latest_step() == 3
    assert sorted(os.listdir(folder)) == ["1", "2", "3"]
    assert checkpoints.save(4, states[3]) and checkpoints.wait()


@pytest.fixture
def full_disk():
  """Files above 1 kB cannot be written while it is switched on."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)

  def switch(full):
    limit = 1000 if full else before[0]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

  yield switch
  resource.setrlimit(resource.RLIMIT_FSIZE, before)
  # Orbax drops the coroutines of a failed save; they complain when collected.
  gc.collect()


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("asynchronous", [True, False])
def test_failed_saves(saved, mesh, full_disk, capfd, asynchronous):
  folder, states = saved
  with checkpoint.Checkpointer(
    folder, max_failures=2, asynchronous=asynchronous
  ) as checkpoints:
    full_disk(True)
    checkpoints.save(4, states[3])
    assert not checkpoints.wait()
    full_disk(False)
    assert "checkpoint 4 could not be saved" in capfd.readouterr().err
    assert checkpoints.latest_step() == 3
    assert checkpoints.restore(abstract(states[3], mesh)).step == 3
    # Space again: the same step can be saved, and the count starts anew.
    assert checkpoints.save(4, states[3]) and checkpoints.wait()
    assert checkpoints.restore(abstract(states[3], mesh)).step == 4
    full_disk(True)
    with pytest.raises(checkpoint.SaveError, match="2 saves in a row"):
      for step in (5, 6, 7):
        checkpoints.save(step, states[3])
    full_disk(False)
  assert restore.Reader(folder).all_steps() == [2, 3, 4]


def test_space_is_checked_before_anything_is_written(
  saved, mesh, capfd, monkeypatch
):
  folder, states = saved
  free = [0]
  monkeypatch.setattr(checkpoint, "free_bytes", lambda _: free[0])
  needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states[3]))
  # Older steps that hold nothing are not removed for it.
  monkeypatch.setattr(checkpoint, "_size", lambda _: 0)
  with checkpoint.Checkpointer(folder, max_failures=3) as checkpoints:
    for step in (4, 5):
      free[0] = needed - 1
      assert not checkpoints.save(step, states[3])
      assert not checkpoints.wait()
      assert sorted(os.listdir(folder)) == ["1", "2", "3"]
    said = capfd.readouterr().err
    assert "checkpoint 5 could not be saved" in said
    assert "failure 2 of 3 in a row): too little space: 0 MB free" in said
    # Enough for one, not for two: one warning, and the count starts anew.
    free[0] = needed
    for step in (6, 7):
      assert checkpoints.save(step, states[3]) and checkpoints.wait()
    assert capfd.readouterr().err.count("little space for checkpoints") == 1
    free[0] = 0
    with pytest.raises(checkpoint.SaveError, match="3 saves in a row"):
      for step in (8, 9, 10):
        checkpoints.save(step, states[3])
  assert restore.Reader(folder).latest_step() == 7


@pytest.mark.parametrize("keep_every, kept", [(0, [3, 4]), (2, [2, 3, 4])])
def test_older_steps_make_room(
  saved, mesh, capfd, monkeypatch, keep_every, kept
):
  folder, states = saved
  needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states[3]))
  there = len(kept) - 1  # So many may be there for one more to fit.

  def free(_):
    return needed if len(os.listdir(folder)) <= there else needed - 1

  monkeypatch.setattr(checkpoint, "free_bytes", free)
  options = dict(keep_last=9, keep_every=keep_every)
  with checkpoint.Checkpointer(folder, **options) as checkpoints:
    assert checkpoints.save(4, states[3]) and checkpoints.wait()
    assert checkpoints.all_steps() == kept
  assert "removed checkpoint 1, the oldest" in capfd.readouterr().err


def test_a_disk_that_is_found_full_makes_room(saved, capfd):
  folder, _ = saved
  full = OSError(errno.ENOSPC, "No space left on device")
  with checkpoint.Checkpointer(folder, max_failures=9) as checkpoints:
    for left in ([2, 3], [3], [3]):
      checkpoints._saving = 4
      assert checkpoints._failed(full)
      assert checkpoints.all_steps() == left
    checkpoints._failures = 0
  assert capfd.readouterr().err.count("to make room") == 2


def test_where_space_is_not_known(tmp_path):
  assert checkpoint.free_bytes(str(tmp_path)) > 0
  assert checkpoint.free_bytes("gs://bucket/run") is None
  assert checkpoint.free_bytes(str(tmp_path / "none")) is None


@pytest.mark.parametrize(
  "options, words",
  [
    ({"every": -1}, "checkpoint.every=-1"),
    ({"keep_last": -1}, "checkpoint.keep_last=-1"),
    ({"max_failures": 0}, "checkpoint.max_failures=0 must be at least 1"),
  ],
)
def test_values_out_of_range(tmp_path, options, words):
  with pytest.raises(UserError, match=words):
    checkpoint.Checkpointer(str(tmp_path), **options)


@pytest.mark.parametrize(
  "name",
  [
    "a b",
    "ü",
    "cw[1]",
    "a\\b",
    "x{1,2}",
    "50%",
    "q?",
    "st*r",
    "two\nlines",
    "$HOME",
    os.fsdecode(b"no text \xff"),
  ],
)
def test_odd_paths_are_read_back(tmp_path, name):
  state = {"w": jnp.arange(3)}
  # What a pattern of that name finds too.
  for other in ("star", "qx"):
    os.makedirs(tmp_path / other / "checkpoints" / "1")
  folder = str(tmp_path / name / "checkpoints")
  with checkpoint.Checkpointer(folder) as checkpoints:
    for step in (1, 2):
      assert checkpoints.save(step, state) and checkpoints.wait()
  assert sorted(os.listdir(folder)) == ["1", "2"]
  with restore.Reader(folder) as reader:
    assert_same_bits(reader.restore(state).state, state)


def test_an_odd_path_without_a_place_for_a_link(tmp_path, monkeypatch):
  monkeypatch.setattr(alias, "_make_place", lambda: "/proc/none")
  with pytest.raises(UserError, match=r"cw\[1\].*use a --workdir of letters"):
    checkpoint.Checkpointer(str(tmp_path / "cw[1]"))


def test_links_are_removed(tmp_path):
  with alias.Alias(str(tmp_path / "a*")) as link:
    assert os.readlink(link.path) == str(tmp_path / "a*")
  assert not os.path.lexists(os.path.dirname(link.path))
