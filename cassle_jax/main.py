"""Pretrains a backbone with a conditioned projector.

  python -m cassle_jax.main --config=configs/quickstart.py --workdir=runs/a
  python -m cassle_jax.main --config=configs/mocov3_vit.py:small \\
      --config.data.source=folder:/data/imagenet --config.batch_size=1024

The same command again continues the run in --workdir from its last complete
checkpoint, bit for bit. Ctrl-C saves and exits with status 130 (a second one
stops at once), SIGTERM saves and exits with status 143, so that a
scheduler starts the run again, as it should on 75: nothing moved, and the
stacks are in the run's folder. Status 0 means that it is done.

Several processes train as one when each is started with this command by srun,
on each worker of a TPU, by GKE or mpirun; elsewhere add, to each:

  --coordinator=HOST:PORT --num_processes=N --process_id=I
"""

import argparse
import datetime
import os
import textwrap
import time
from collections.abc import Sequence

from cassle_jax.config import cli, files
from cassle_jax.hosts import distributed, job
from cassle_jax.hosts.preemption import Watch


def main(arguments: Sequence[str]) -> int:
  """Parses the flags and trains; returns the exit status."""
  began = time.time()
  flags = cli.parser("cassle_jax.main", __doc__)
  flags.epilog = (
    "configs that come along, by name (--config=quickstart) or as files:\n"
    + textwrap.indent(textwrap.fill(" ".join(files.names()), 76), "  ")
    + "\nsections: data augment model method awareness optim mesh checkpoint"
    " guard evaluation;\n--print_config shows every key with its value."
  )
  cli.add_config(flags)
  flags.add_argument(
    "--workdir",
    help="folder of the run; default runs/CONFIG-DATE-TIME",
  )
  flags.add_argument(
    "--print_config",
    action="store_true",
    help="print the resolved config and exit",
  )
  cli.add_distributed(flags)
  values, overrides = cli.parse(flags, arguments)

  with Watch(command=True) as watch:  # From here on SIGTERM means 143.
    if not values.print_config and cli.join(values):
      watch.join()
    status = _run(values, overrides, began)
    distributed.finish()
    return status


def _run(
  values: argparse.Namespace, overrides: Sequence[str], began: float
) -> int:
  from cassle_jax import config as config_lib

  config = config_lib.load(values.config, overrides)
  if values.print_config:
    print(config_lib.listing(config))
    return 0
  workdir = distributed.from_first("workdir", lambda: _workdir(values))
  if job.several():
    from cassle_jax.runs import folder, logs

    distributed.check_same(
      "start",
      {
        "--workdir": values.workdir,
        "cassle_jax": distributed.code_version(),
        **logs.versions(("jax", "jaxlib")),
        **folder.dotted(config_lib.to_dict(config), "--config"),
      },
    )

  from cassle_jax.training import loop

  return loop.run(config, workdir, began=began)


def _workdir(values: argparse.Namespace) -> str:
  from cassle_jax.runs import folder

  if values.workdir is not None:
    return folder.expanded(values.workdir)
  name = os.path.basename(values.config).replace(".py", "")
  now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  workdir = os.path.join("runs", f"{name.replace(':', '-')}-{now}")
  return workdir if not os.path.exists(workdir) else f"{workdir}-{os.getpid()}"


if __name__ == "__main__":
  cli.run(main)
