"""Measures what the backbone of a run keeps.

  python -m cassle_jax.evaluate --config=configs/eval/all.py --workdir=runs/a
  python -m cassle_jax.evaluate --config=configs/eval/linear.py \\
      --workdir=runs/a --config.data_dir=/data --config.datasets=cars,cub200

The files of configs/eval/ choose tasks, as does --config.tasks=knn,linear; all
keys, with their values, are listed by --print_config.

Runs every task on every data set that is there, and names what is missing. Each
result is a file, RUN/eval/TASK/NAME.json; one that is there, of the same step,
seed and settings, is not computed again unless --again is given. The run itself
is never changed. `python -m cassle_jax.report RUN` draws what was found.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cassle_jax.config import cli
from cassle_jax.errors import UserError, unknown


def main(arguments: Sequence[str]) -> int:
  """Parses the flags, evaluates, and says what came out."""
  flags = cli.parser("cassle_jax.evaluate", __doc__)
  cli.add_config(flags, example="configs/eval/all.py")
  flags.add_argument("--workdir", help="folder of the run")
  flags.add_argument(
    "--step", type=int, help="of the checkpoint; default the newest"
  )
  flags.add_argument(
    "--again", action="store_true", help="compute results that are there too"
  )
  flags.add_argument(
    "--print_config",
    action="store_true",
    help="print the resolved config and exit",
  )

  def schema() -> Any:
    from cassle_jax.evaluate import config

    return config.EVALUATION

  values, overrides = cli.parse(flags, arguments, schema)

  from cassle_jax.evaluate import config as evaluation_config
  from cassle_jax.runs import folder

  config = evaluation_config.load(values.config, overrides)
  if values.print_config:
    print(evaluation_config.listing(config))
    return 0
  if values.workdir is None:
    raise UserError("name the run's folder with --workdir=RUN.")
  values.workdir = folder.expanded(values.workdir)
  return _run(values, config)


def _run(values: argparse.Namespace, config: Any) -> int:
  from cassle_jax.evaluate.context import Context
  from cassle_jax.evaluate.subject import of_run
  from cassle_jax.training import trained

  jobs = plan(config)
  run = trained.open_run(
    values.workdir,
    values.step,
    precision=config.precision,
    network=config.network,
  )
  context = Context(
    of_run(run),
    values.workdir,
    data_dir=config.data_dir,
    image_size=config.image_size,
    dtype=config.features,
    seed=config.seed,
    learning=dict(config.descriptor),
  )
  perform(jobs, context, config, again=values.again)
  return 0


def perform(
  jobs: list[tuple[str, Any, str]], context: Any, config: Any, *, again: bool
) -> dict[tuple[str, str], Any]:
  """Does the jobs, writes their results and says what came out.

  Args:
    jobs: from `plan`.
    context: a `Context`: the network and its data.
    config: from `evaluation_config.load`.
    again: whether to compute results that are there too.

  Returns:
    {(task, name of the result): `results.Result`} of those that were computed.

  Raises:
    UserError: there is nothing to do, or all of it failed.
  """
  from cassle_jax.evaluate import representations

  subject, workdir = context.subject, context.workdir
  chosen = representations.choose(subject.run, tuple(config.representations))
  contexts = {each: context.of(each) for each in chosen}
  jobs = [
    (name, task, dataset, each)
    for name, task, dataset in jobs
    for each in chosen
    if each in task.of
  ]
  if not jobs:
    raise UserError(
      f"none of the tasks takes the representations {', '.join(chosen)}; add"
      " to --config.tasks or --config.representations."
    )
  _say_what_is_missing(config)
  with contextlib.ExitStack() as stack:
    for name in dict.fromkeys(name for name, *_ in jobs):
      stack.enter_context(_alone(os.path.join(workdir, "eval", name)))
    return _perform(jobs, contexts, config, again=again)


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
  """Holds the folder of a task's results, where anybody can write there."""
  from cassle_jax.runs import lock

  with contextlib.ExitStack() as stack:
    try:
      os.makedirs(folder, exist_ok=True)
      stack.enter_context(
        lock.held(folder, "written", holder=".lock.json", way_out="")
      )
    except OSError:
      pass  # Nor can anybody else; the results will say so.
    yield


def _perform(
  jobs: list[tuple[str, Any, str, str]],
  contexts: dict[str, Any],
  config: Any,
  *,
  again: bool,
) -> dict[tuple[str, str], Any]:
  """As `perform`, for jobs with the representation of each."""
  from cassle_jax.evaluate import representations, results
  from cassle_jax.runs import feature_cache, logs

  context = next(iter(contexts.values()))
  subject, workdir = context.subject, context.workdir
  computed, failed, unwritten = {}, 0, []
  for number, (name, task, dataset, each) in enumerate(jobs, 1):
    settings = dict(config[name]) | {
      "image_size": context.image_size,
      "precision": config.precision,
      "features": config.features,
    }
    if subject.network != "online":  # Results of earlier versions had no other.
      settings["network"] = subject.network
    if each == representations.LEARNED:
      settings["descriptor"] = dict(config.descriptor)
    kept = dict(step=subject.step, seed=config.seed, settings=settings)
    label = f"{number}/{len(jobs)} {name} on {results.named(dataset, each)}"
    names = task.names(dataset, config[name])
    names = [results.named(one, each) for one in names]
    began = time.time()
    try:
      kept["source"] = {
        **contexts[each].source(dataset),
        "code": [task.version, feature_cache.VERSION],
      }
      if not again and results.current(workdir, name, names, **kept):
        logs.say(f"{label}: is there")
        continue
      found = list(task.run(contexts[each], dataset, **config[name]))
    except UserError as error:
      # One set that is damaged must not cost the others.
      logs.say(f"{label}: left out: {error}")
      failed += 1
      continue
    told = contexts[each].descriptor(dataset)
    for result in found:
      if told is not None:
        protocol = {**result.protocol, "descriptor": list(told)}
        result = result._replace(protocol=protocol)
      try:
        path = results.write(
          workdir,
          name,
          dataset,
          result,
          representation=each,
          network=subject.network,
          **kept,
        )
      except OSError as error:
        # The work is done; its outcome must not go with the disk.
        path = f"not written ({error.strerror})"
        unwritten.append(path)
      computed[name, results.named(result.name, each)] = result
      seconds = time.time() - began
      logs.say(f"{label}: {result.shown()}  ({seconds:.0f} s)  {path}")
  if failed == len(jobs):
    raise UserError("no task could be done; each says why above.")
  if unwritten:
    raise UserError(
      f"{len(unwritten)} results are above and in no file of"
      f" {os.path.join(workdir, 'eval')}: {unwritten[0]}. Free some space or"
      " let yourself write there, and give the same command again"
    )
  return computed


def _say_what_is_missing(config: Any) -> None:
  """Names the data sets that are left out because they are not there."""
  from cassle_jax.data import downstream
  from cassle_jax.runs import logs

  there = downstream.available(config.data_dir)
  missing = [name for name in downstream.DATASETS if name not in there]
  if missing and not config.datasets:
    logs.say(
      f"not in {config.data_dir}, left out: {', '.join(missing)}"
      " (--config.datasets=NAME says what to download)"
    )


def plan(config: Any) -> list[tuple[str, Any, str]]:
  """The jobs (name, task, data set), in order.

  Args:
    config: from `evaluation_config.load`.

  Raises:
    UserError: an unknown task or set, one that was asked for by name and is
      not there, or nothing to do.
  """
  from cassle_jax.data import downstream
  from cassle_jax.evaluate import config as evaluation_config
  from cassle_jax.evaluate import representations
  from cassle_jax.evaluate.tasks import TASKS

  evaluation_config.EVALUATION.check(config)
  for name in config.tasks:
    if name not in TASKS:
      raise unknown("task", name, TASKS)
  for name in config.representations:
    if name not in representations.NAMES:
      raise unknown("representation", name, representations.NAMES)
  if config.sensitivity.batch > config.sensitivity.pictures:
    raise UserError(
      f"sensitivity.batch={config.sensitivity.batch} is more than its"
      f" pictures={config.sensitivity.pictures}; lower the one or raise the"
      " other."
    )
  there = downstream.available(config.data_dir)
  for name in (*config.datasets, *config.measure_on):
    if name not in downstream.DATASETS:
      raise unknown("data set", name, downstream.DATASETS)
    if name not in there:
      downstream.open_set(name, config.data_dir)  # Says what to download.
  jobs = []
  for name in config.tasks or tuple(TASKS):
    task = TASKS[name]
    chosen = config.measure_on if task.measured else config.datasets or there
    jobs += [
      (name, task, dataset)
      for dataset in chosen
      if task.suits(downstream.DATASETS[dataset])
    ]
  if not jobs:
    raise UserError(
      f"none of the tasks {', '.join(config.tasks or TASKS)} suits the data"
      f" sets {', '.join(config.datasets or there)}; add to --config.tasks or"
      " --config.datasets."
    )
  return jobs
