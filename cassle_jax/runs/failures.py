"""What an error says of a checkpoint: damage, or a machine that has trouble."""

import errno
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cassle_jax.errors import UserError
from cassle_jax.runs import logs

# How TensorStore begins where a file does not hold what it should. What it
# says of the machine begins otherwise: RESOURCE_EXHAUSTED (open files), ABORTED
# (a stale handle), UNKNOWN (an input or output error), PERMISSION_DENIED.
PROOF = (
  "DATA_LOSS",
  "OUT_OF_RANGE",
  "NOT_FOUND",
  "INVALID_ARGUMENT",
  "FAILED_PRECONDITION",
)
GONE = (errno.ENOENT, errno.ENOTDIR)


def check_spec(
  wanted: Mapping[str, Any],
  saved: Mapping[str, Sequence[Any]],
  partial: bool,
  place: str,
) -> None:
  """Compares names, shapes and types; says all there is to say in one line."""
  complaints = [f"{path} is not in it" for path in wanted if path not in saved]
  if not partial:
    complaints += [
      f"{path} is only in it" for path in saved if path not in wanted
    ]
  for path, x in wanted.items():
    if path in saved:
      shape, dtype, _ = saved[path]
      if [dtype, shape] != [x.dtype.name, list(x.shape)]:
        complaints.append(
          f"{path} is {dtype}{shape} in it, not {x.dtype.name}{list(x.shape)}"
        )
  if complaints:
    more = f" and {len(complaints) - 4} more" if len(complaints) > 4 else ""
    raise UserError(
      f"checkpoint {place} does not fit this config: "
      f"{'; '.join(complaints[:4])}{more}. Use the config of that run, or "
      "another --workdir"
    )


def cause(error: BaseException) -> str:
  """Why a file could not be read, in the system's words where it says so."""
  if isinstance(error, OSError):
    return f"{error.strerror or error} ({error.filename})"
  # 'STATUS: ... "FILE": the system's words [details]'
  said = re.findall(r'": ([A-Za-z][^":\[]*) \[', str(error))
  return said[-1] if said else first_line(error)


def remedy(
  error: BaseException, machine: bool, versions: Mapping[str, str] | None
) -> str:
  """What to do about an error that proves no damage."""
  if "Too many open files" in str(error):
    return "Raise the limit (ulimit -n 65536) and give the same command again"
  if machine or re.match("[A-Z_]+: ", str(error)):
    return (
      "When the file system answers again, the same command continues; move"
      " that folder away to go on from the step before"
    )
  here = logs.versions(("orbax-checkpoint",)).get("orbax-checkpoint")
  theirs = (versions or {}).get("orbax-checkpoint", "another version of it")
  return (
    f"It was written with orbax-checkpoint {theirs}, here is {here}: if they"
    " differ, install that one; else move that folder away to go on from the"
    " step before"
  )


def first_line(error: BaseException) -> str:
  """What an error says, short enough for one line of ours."""
  text = str(error).strip() or type(error).__name__
  return text.splitlines()[0].split(" See full TensorStore")[0][:160]
