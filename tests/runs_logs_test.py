"""What a run writes down and shows."""

import errno
import json
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax.errors import UserError
from cassle_jax.runs import files, logs


def read(folder):
  with open(os.path.join(folder, logs.METRICS)) as file:
    return [json.loads(line, parse_constant=pytest.fail) for line in file]


def write(folder, steps, resume_step=None, tensorboard=False):
  with logs.MetricsLogger(
    folder, tensorboard=tensorboard, resume_step=resume_step
  ) as metrics:
    for step in steps:
      metrics.log(step, {"loss": 1 / (step + 1)})


def test_every_kind_of_number_becomes_valid_json(tmp_path):
  with logs.MetricsLogger(str(tmp_path), tensorboard=False) as metrics:
    metrics.log(
      np.int64(3),
      {
        "float": jnp.float32(0.5),
        "half": jnp.asarray(1.5, jnp.bfloat16),
        "count": jnp.int32(7),
        "numpy": np.float64(0.1),
        "nan": jnp.float32(jnp.nan),
        "infinite": -float("inf"),
        "text": "a\nb",
        "list": (1, np.arange(2)),
        "on": np.bool_(True),
      },
    )
  assert read(tmp_path) == [
    {
      "step": 3,
      "float": 0.5,
      "half": 1.5,
      "count": 7,
      "numpy": 0.1,
      "nan": None,
      "infinite": None,
      "text": "a\nb",
      "list": [1, [0, 1]],
      "on": True,
    }
  ]


def test_lines_are_there_before_the_file_is_closed(tmp_path):
  metrics = logs.MetricsLogger(str(tmp_path), tensorboard=False)
  metrics.log(1, {"loss": 2.0})
  assert read(tmp_path) == [{"step": 1, "loss": 2.0}]
  metrics.close()
  metrics.close()


def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path):
  straight, killed = str(tmp_path / "a"), str(tmp_path / "b")
  write(straight, range(10))
  write(killed, range(7))
  with open(os.path.join(killed, logs.METRICS), "a") as file:
    file.write('{"step": 7, "lo')  # as a kill leaves it
  write(killed, range(5, 10), resume_step=4)
  contents = []
  for folder in (straight, killed):
    with open(os.path.join(folder, logs.METRICS), "rb") as file:
      contents.append(file.read())
  assert contents[0] == contents[1]
  assert os.listdir(killed) == [logs.METRICS]


def test_a_broken_last_line_of_an_old_step_is_repaired(tmp_path):
  path = tmp_path / logs.METRICS
  path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}')
  write(str(tmp_path), [3], resume_step=3)
  assert [r["step"] for r in read(tmp_path)] == [1, 2, 3]


def test_without_a_checkpoint_the_file_starts_anew(tmp_path):
  write(str(tmp_path), range(3))
  write(str(tmp_path), [0])
  assert [r["step"] for r in read(tmp_path)] == [0]


def test_a_start_writes_no_file_again_that_stays_as_it_is(
  tmp_path, monkeypatch, capsys
):
  """So a full disk does not refuse it; where lines go, one line says why."""

  def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

  write(str(tmp_path), range(3))
  before = (tmp_path / logs.METRICS).read_bytes()
  monkeypatch.setattr(files, "write", full)
  monkeypatch.setattr("tensorboardX.SummaryWriter", full)
  write(str(tmp_path), [], resume_step=2, tensorboard=True)
  assert "no TensorBoard files: they cannot" in capsys.readouterr().err
  with pytest.raises(UserError, match=f"{logs.METRICS} cannot .*No space"):
    write(str(tmp_path), [], resume_step=1)
  assert (tmp_path / logs.METRICS).read_bytes() == before


def test_event_files(tmp_path):
  from tensorboardX.proto import event_pb2

  write(str(tmp_path), [1, 2], tensorboard=True)
  write(str(tmp_path), [2], resume_step=1, tensorboard=True)
  found = []
  for name in sorted(os.listdir(tmp_path / "tensorboard")):
    data = (tmp_path / "tensorboard" / name).read_bytes()
    while data:  # length, its checksum, the event, its checksum
      size = int.from_bytes(data[:8], "little")
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      found += [(event.step, v.tag) for v in event.summary.value]
  assert found == [(1, "loss"), (2, "loss"), (2, "loss")]


def test_time_that_was_spent_stays_when_a_run_goes_back(tmp_path):
  """Unlike what was measured in steps that will be taken again."""
  spent = {"goodput": {"start": 1.0}}
  with logs.MetricsLogger(str(tmp_path), tensorboard=False) as metrics:
    metrics.log(1, {"loss": 1.0})
    metrics.log(5, {"loss": 0.5})
    metrics.log(6, spent)
  for resume_step, kept in ((1, 2), (None, 1)):
    logs.MetricsLogger(
      str(tmp_path), tensorboard=False, resume_step=resume_step
    ).close()
    lines = read(tmp_path)
    assert len(lines) == kept and lines[-1] == {"step": 6, **spent}


def test_lines_wait_for_space_on_a_full_disk(tmp_path, capsys):
  """None is lost or torn, and one note says so."""
  metrics = logs.MetricsLogger(str(tmp_path), tensorboard=False)
  disk = metrics._file

  class Full:
    room = 40

    def write(self, data):
      if not self.room:
        raise OSError(errno.ENOSPC, "No space left on device")
      part = data[: self.room]  # As much as fits, in the middle of a line.
      self.room -= len(part)
      return disk.write(part)

    def close(self):
      disk.close()

  full = metrics._file = Full()
  for step in range(5):
    metrics.log(step, {"loss": step / 2})
  assert (tmp_path / logs.METRICS).stat().st_size == 40
  full.room = 10**6
  metrics.log(5, {"loss": 2.5})
  metrics.close()
  assert read(tmp_path) == [{"step": s, "loss": s / 2} for s in range(6)]
  assert capsys.readouterr().err.count("its lines wait") == 1


def test_lines_are_on_disk_before_a_checkpoint_is(tmp_path, monkeypatch):
  seen = []
  fsync = os.fsync
  monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(fd), fsync(fd)))
  logger = logs.MetricsLogger(str(tmp_path), tensorboard=False)
  seen.clear()
  logger.log(1, {"loss": 2.0})
  logger.sync()
  assert len(seen) == 1
  monkeypatch.setattr(os, "fsync", lambda fd: 1 / 0)
  logger.close()
  logger.sync()  # Of a file that is closed: nothing.


def test_tensorboard_on_a_full_disk_stops_no_run(tmp_path, capsys):
  """Its thread would die, and the eleventh number wait for it for good."""
  metrics = logs.MetricsLogger(str(tmp_path))
  events = metrics._events

  class Full:
    def write_event(self, event):
      raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self):
      pass

    close = flush

  held, events._file = events._file, Full()
  for step in range(100):
    metrics.log(step, {"loss": 1.0})
    if events.failed:
      time.sleep(0.01)
  metrics.close()
  held.close()
  assert len(read(tmp_path)) == 100
  assert capsys.readouterr().err.count("TensorBoard's files end here") == 1


def test_without_tensorboardx_one_line_says_so(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  write(str(tmp_path), [1], tensorboard=True)
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and "install tensorboardX" in lines[0]
  assert len(read(tmp_path)) == 1


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path):
  path = str(tmp_path / "summary.json")
  files.write_json(path, {"step": 1, "loss": float("nan")})
  with pytest.raises(TypeError):
    files.write_json(path, {"step": object()})
  with open(path) as file:
    assert json.load(file) == {"step": 1, "loss": None}
  assert os.listdir(tmp_path) == ["summary.json"]
  mask = os.umask(0)
  os.umask(mask)
  assert os.stat(path).st_mode & 0o777 == 0o666 & ~mask


def test_the_stamp_is_json():
  stamp = logs.stamp()
  assert json.loads(json.dumps(stamp)) == stamp
  assert stamp["devices"] == 8 and stamp["platform"] == "cpu"
  assert stamp["versions"]["jax"] == jax.__version__
