"""What every command shares: flags, one-line errors, exit statuses.

A command declares its flags with argparse and is run by `run`. Besides its
own flags it takes `--config=FILE[:VARIANT]` and any number of
`--config.section.key=value`. Status 0 means that the work was done, 2 that
the user can mend something (one line says what); 143, 130 and 129 that SIGTERM,
Ctrl-C or the end of the terminal stopped a run after it was saved; 75 that the
watchdog ended a run in which nothing moved. On 143 and 75 a scheduler should
start it again.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from cassle_jax.config import answers
from cassle_jax.errors import UserError, together
from cassle_jax.hosts import cluster, distributed, job


class _Parser(argparse.ArgumentParser):
  def error(self, message: str):
    raise UserError(f"{message}; see {self.prog} --help.")


def parser(module: str, description: str) -> argparse.ArgumentParser:
  """A parser whose --help prints the module's docstring as it stands."""
  # Started as `cassle COMMAND`, errors should name that.
  named = sys.argv[0].startswith("cassle ")
  return _Parser(
    prog=sys.argv[0] if named else f"python -m {module}",
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


def add_config(
  flags: argparse.ArgumentParser,
  *,
  required: bool = True,
  example: str = "configs/quickstart.py:vanilla",
) -> None:
  """Adds --config; overrides are taken apart by `parse`."""
  flags.add_argument(
    "--config",
    required=required,
    metavar="FILE[:VARIANT]",
    help=f"a config file, e.g. {example}, or the name of one that comes along,"
    f" e.g. {example.removeprefix('configs/').replace('.py', '')}; override any"
    " key with"
    " --config.section.key=value",
  )


def add_distributed(flags: argparse.ArgumentParser) -> None:
  """Adds the flags of a job of several processes; see `distributed.start`."""
  group = flags.add_argument_group("several processes")
  group.add_argument(
    "--distributed",
    default="auto",
    metavar="|".join(cluster.MODES),
    help="auto (default) joins the processes that SLURM, a TPU, GKE or Open MPI"
    " has started; on insists on them; off trains in this process alone",
  )
  group.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="where process 0 can be reached; any free port on its machine",
  )
  group.add_argument(
    "--num_processes", type=int, metavar="N", help="how many there are"
  )
  group.add_argument(
    "--process_id", type=int, metavar="I", help="which this is, from 0"
  )
  group.add_argument(
    "--heartbeat",
    type=int,
    default=distributed.HEARTBEAT,
    metavar="SECONDS",
    help="a process that is silent for so long is dead, and the others end;"
    f" default {distributed.HEARTBEAT}",
  )


def join(values: argparse.Namespace) -> bool:
  """Joins the job that flags or the cluster name, if any; tells whether it did.

  Raises:
    UserError: flags or variables that make no sense.
  """
  found = cluster.choose(
    values.distributed,
    coordinator=values.coordinator,
    num_processes=values.num_processes,
    process_id=values.process_id,
  )
  if found is not None:
    distributed.start(found, heartbeat=values.heartbeat)
  return found is not None


def parse(
  flags: argparse.ArgumentParser,
  arguments: Sequence[str],
  schema: Callable[[], Any] | None = None,
) -> tuple[argparse.Namespace, list[str]]:
  """Parses flags and takes out the `--config.key=value` overrides.

  `schema` gives the kind of config that the command takes, by which mistyped
  words are answered; a training run's where it is not given.

  Returns:
    The flags' values, and the overrides as "key=value" strings.

  Raises:
    UserError: an unknown flag, or a word without dashes such as `lr=3`,
      which would otherwise be ignored in silence.
  """
  rest, overrides = [], []
  pending = list(arguments)
  while pending:
    word = pending.pop(0)
    if word.startswith("--config."):
      text = word.removeprefix("--config.")
      if "=" not in text and pending and not pending[0].startswith("--"):
        text = f"{text}={pending.pop(0)}"
      overrides.append(text)
    else:
      rest.append(word)
  # What is unknown comes first: with it, a required flag is often missing.
  required = [action for action in flags._actions if action.required]
  for action in required:
    action.required = False
  values, unknown = flags.parse_known_args(rest)
  if unknown:
    found = (schema or _training)()
    words = [
      f"{word!r}{answers.unknown(flags, word, found)}" for word in unknown
    ]
    raise together(f"unknown argument {text}" for text in words)
  for action in required:
    action.required = True
    if getattr(values, action.dest) is None:
      flags.error(
        f"the following arguments are required: {action.option_strings[0]}"
      )
  return values, overrides


def _training() -> Any:
  from cassle_jax import config

  return config.TRAINING


def check_output(flag: str, path: str) -> None:
  """Raises UserError where no file can be written, before the work is done."""
  folder = os.path.dirname(path) or "."
  if not os.path.isdir(folder):
    reason = f"there is no folder {folder!r}"
  elif not path or os.path.isdir(path):
    reason = "it is not a file"
  elif not os.access(path if os.path.exists(path) else folder, os.W_OK):
    reason = "it is write-protected"
  else:
    return
  raise unwritable(flag, path, reason)


def unwritable(flag: str, path: str, reason: object) -> UserError:
  """The error for a flag's file that cannot be written."""
  return UserError(
    f"{flag}={path}: cannot write it ({reason}); name a file in an existing"
    " folder that you can write to."
  )


def _refuse(error: UserError) -> int:
  job.fail(error)
  print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
  return 2


def _about_platforms(error: Exception) -> bool:
  """Whether JAX failed to find the devices that it was told to take."""
  frames = traceback.extract_tb(error.__traceback__)
  return bool(os.environ.get("JAX_PLATFORMS")) and frames[-1].filename.endswith(
    "xla_bridge.py"
  )


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Runs a command and exits with its status; UserError is one line."""
  try:
    status = main(sys.argv[1:])
    sys.stdout.flush()
  except UserError as error:
    status = _refuse(error)
  except BrokenPipeError:
    # `... | head` has read enough. What is still to be written goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    status = 141
  except (RuntimeError, AssertionError) as error:
    if not _about_platforms(error):
      raise
    platforms = os.environ.get("JAX_PLATFORMS", "")
    text = " ".join(str(error).split()) or "there is none"
    status = _refuse(
      UserError(
        f"JAX_PLATFORMS={platforms}: no such device can be used here ({text});"
        " leave JAX_PLATFORMS out to take what there is, or set"
        " JAX_PLATFORMS=cpu; GPUs need pip install -e '.[cuda]', TPUs '.[tpu]'."
      )
    )
  except KeyboardInterrupt as error:
    job.fail(error)
    # Compilation and evaluation cannot be waited for as steps are, and a
    # tear-down while the device is busy can crash (status 139, not 130).
    print("interrupted", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(130)
  sys.exit(status or 0)
