"""One process at a time in a folder, by a lock of the operating system.

The lock is held on FOLDER/.lock as long as its holder lives, however that
ends; a file beside it says who holds it, or held it last. On NFS it holds
between hosts where the mount passes locks on (version 4, or 3 with lockd; not
with `nolock` or `local_lock`); mounted buckets mostly keep it to one host.
Where there are no locks at all, one line says so.
"""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator

import filelock

from cassle_jax.errors import UserError
from cassle_jax.hosts import distributed
from cassle_jax.runs import files
from cassle_jax.runs.logs import say

NAME = ".lock"
HOLDER = "run.json"
# A file system without locks; some answer to them with "invalid".
_NONE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def held(
  folder: str,
  doing: str,
  *,
  holder: str = HOLDER,
  way_out: str = ", or use another --workdir",
) -> Iterator[None]:
  """Holds a folder's lock; of several processes the first does it for all.

  Args:
    folder: it exists.
    doing: what for, in words: "trained".
    holder: name of the file that says who holds it; a run's is also the mark
      by which its folder is known.
    way_out: what else than waiting a second one may do, in words.

  Raises:
    UserError: another process holds it; the line names host and process.
    OSError: the lock's file cannot be written.
  """
  path = os.path.join(folder, NAME)
  lock = filelock.FileLock(path, timeout=0)

  def take() -> list | None:
    try:
      lock.acquire()
    except filelock.Timeout:
      return ["held", _holder(os.path.join(folder, holder))]
    except NotImplementedError:
      say(_unlocked(folder))
    except OSError as error:
      if error.errno not in _NONE:
        return [error.errno, error.strerror]
      say(_unlocked(folder))
    try:
      files.write_json(os.path.join(folder, holder), _me(doing))
    except OSError as error:
      lock.release()
      return [error.errno, error.strerror]
    return None

  refused = distributed.from_first(f"lock {folder}", take)
  if refused is not None:
    what, words = refused
    if what == "held":
      raise UserError(f"{folder} is being {words}{way_out}")
    raise OSError(what, words, path)
  try:
    yield
  finally:
    lock.release()


def _unlocked(folder: str) -> str:
  return (
    f"{folder} is on a file system without locks: nothing will stop a second"
    " process that writes there"
  )


def _me(doing: str) -> dict[str, object]:
  import cassle_jax

  return {
    "written_by": "cassle_jax",
    "version": cassle_jax.__version__,
    "doing": doing,
    "host": socket.gethostname(),
    "process": os.getpid(),
    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
  }


def _holder(path: str) -> str:
  """Who holds the lock, as far as its file tells."""
  try:
    with open(path) as file:
      held = json.load(file)
    process = held["process"]
    return (
      f"{held['doing']} by process {process} on {held['host']} since"
      f" {held['since']}; wait for it or stop it (kill {process} there)"
    )
  except (OSError, ValueError, KeyError, TypeError):
    return "used by another process; wait for it"
