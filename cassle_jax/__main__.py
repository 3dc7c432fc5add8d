"""`cassle COMMAND`, also `python -m cassle_jax COMMAND`: every command by name.

`cassle train --config=quickstart` is `python -m cassle_jax.main` with a config
that comes with the package; every command also runs as a module of its own.
"""

import os
import runpy
import sys

from cassle_jax import __version__
from cassle_jax.config import cli
from cassle_jax.errors import chosen

# name: (module, what it does)
COMMANDS = {
  "train": ("cassle_jax.main", "pretrain a backbone, or continue a run"),
  "preview": ("cassle_jax.preview", "draw a config's views with their omega"),
  "prepare": ("cassle_jax.prepare", "pack pictures into files that read fast"),
  "evaluate": ("cassle_jax.evaluate", "measure a run: linear, k-NN, probes"),
  "report": ("cassle_jax.report", "tables and charts of runs, as one page"),
  "convert": ("cassle_jax.convert", "anybody's weights to a run, and back"),
  "embed": ("cassle_jax.embed", "features of any pictures, and a map of them"),
  "benchmark": ("cassle_jax.benchmark", "time this machine"),
  "preflight": ("cassle_jax.preflight", "will it fit, how fast can it be"),
}


def usage() -> str:
  """What `cassle --help` prints."""
  width = max(map(len, COMMANDS))
  lines = [f"  {n:{width}}  {text}" for n, (_, text) in COMMANDS.items()]
  return "\n".join(
    (
      f"cassle_jax {__version__}: self-supervised learning whose projector is"
      " told how each\nview was augmented (CASSLE, arXiv 2306.06082).\n",
      "  cassle train --config=quickstart --workdir=runs/cassle",
      "  cassle evaluate --config=eval/all --workdir=runs/cassle",
      "  cassle report runs/cassle --out=report\n",
      "commands, each with a --help of its own:",
      *lines,
    )
  )


def main(arguments: list[str]) -> int:
  """Hands the arguments behind the command's name to the command's module.

  Raises:
    UserError: there is no such command.
    SystemExit: the command's own status.
  """
  if not arguments or arguments[0] in ("-h", "--help", "help"):
    print(usage())
    return 0
  if arguments[0] in ("-V", "--version"):
    print(f"cassle_jax {__version__}")
    return 0
  module, _ = chosen("command", arguments[0], COMMANDS)
  sys.argv = [f"cassle {arguments[0]}", *arguments[1:]]
  runpy.run_module(module, run_name="__main__")
  return 0


def console() -> None:
  """The console script `cassle`."""
  # As `python -m` does, so that the config files of a fork find their modules.
  sys.path.insert(0, os.getcwd())
  cli.run(main)


if __name__ == "__main__":
  console()
