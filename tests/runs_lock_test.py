"""One process at a time in a folder."""

import errno
import os
import socket
import subprocess
import sys

import filelock
import pytest

from cassle_jax.errors import UserError
from cassle_jax.runs import folder, lock


def test_a_second_one_is_told_who_holds_it(tmp_path):
  path = str(tmp_path / "run")
  with folder.held(path):
    with pytest.raises(UserError) as error:
      with folder.held(path):
        pass
    line = str(error.value)
    assert f"{path} is being trained by process {os.getpid()} on " in line
    assert socket.gethostname() in line and "another --workdir" in line
  # Its end sets the folder free.
  with folder.held(path):
    pass


@pytest.mark.parametrize("text", [None, "", "[]", "{}"])
def test_a_holder_that_cannot_be_named(tmp_path, text):
  with lock.held(str(tmp_path), "trained"):
    os.unlink(tmp_path / "run.json")
    if text is not None:
      (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match="is being used by another process"):
      with lock.held(str(tmp_path), "trained"):
        pass


def test_a_killed_process_sets_the_folder_free(tmp_path):
  """Only the file is left: the lock itself went with the process."""
  program = (
    "import filelock, os, sys; filelock.FileLock(sys.argv[1]).acquire();"
    " os.kill(os.getpid(), 9)"
  )
  path = str(tmp_path / lock.NAME)
  assert subprocess.call([sys.executable, "-c", program, path]) == -9
  assert os.path.exists(path)
  with lock.held(str(tmp_path), "trained"):
    pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capfd):
  def fail(self):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(filelock.FileLock, "acquire", fail)
  with lock.held(str(tmp_path), "trained"):
    assert os.path.exists(tmp_path / "run.json")
  assert "file system without locks" in capfd.readouterr().err
