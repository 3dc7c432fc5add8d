"""Another path to a folder, for libraries that misread the folder's own.

Orbax expands its paths as glob patterns: below a folder called `cw[1]` it
writes checkpoints that nothing can read back, and below `a*` it may find
another run's. It is given a link from a plain place instead.
"""

import contextlib
import os
import re
import tempfile
from types import TracebackType

from cassle_jax.errors import UserError
from cassle_jax.hosts import distributed

# Letters of any language, digits, and what neither globs nor URLs give a sense.
_PLAIN = re.compile(r"[\w /.,+=@:-]*")


class Alias:
  """A path to a folder of plain characters: its own, or a link to it.

  Attributes:
    path: what to give to the library.
  """

  def __init__(self, folder: str):
    """Makes the link where the folder's own path is not plain.

    Args:
      folder: an absolute path; of several processes all must call it.

    Raises:
      UserError: a link is needed and cannot be made.
    """
    self.path, self._place = folder, None
    # Surrogates stand for bytes that are no text.
    if _PLAIN.fullmatch(folder) and folder.isprintable():
      return
    try:
      # The same path on all hosts: Orbax compares what they are to write to.
      self._place = distributed.from_first("alias", _make_place)
      os.makedirs(self._place, mode=0o700, exist_ok=True)
      self.path = os.path.join(self._place, "folder")
      with contextlib.suppress(FileExistsError):  # Another process's here.
        os.symlink(folder, self.path)
    except OSError as error:
      raise UserError(
        f"the path {folder!r} has characters that checkpoints cannot be read"
        f" back from, and no link to it can be made ({error}); use a --workdir"
        " of letters, digits, - and _"
      ) from error

  def close(self) -> None:
    """Removes the link; a second call does nothing."""
    if self._place is not None:
      with contextlib.suppress(OSError):
        os.unlink(self.path)
      with contextlib.suppress(OSError):
        os.rmdir(self._place)
      self._place = None

  def __enter__(self) -> "Alias":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()


def _make_place() -> str:
  usual = tempfile.gettempdir()
  place = usual if _PLAIN.fullmatch(usual) else "/tmp"
  return tempfile.mkdtemp(prefix="cassle_jax-", dir=place)
