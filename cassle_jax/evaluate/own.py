"""The suite over a network of one's own, which no run's folder holds."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cassle_jax.errors import UserError
from cassle_jax.evaluate import command
from cassle_jax.evaluate import config as evaluation_config

if TYPE_CHECKING:
  from cassle_jax.augment import ViewPolicy
  from cassle_jax.evaluate.results import Result

# Keys of an evaluation's config that are about a run's own network.
_OF_RUNS = ("precision", "descriptor")


def measure(
  *,
  encode: Callable[..., Any],
  policy: "ViewPolicy",
  out: str,
  project: Callable[..., Any] | None = None,
  name: str = "mine",
  method: str = "own",
  awareness: str = "vanilla",
  seed: int = 0,
  step: int = 0,
  source: str = "own",
  tasks: Sequence[str] = (),
  datasets: Sequence[str] = (),
  data_dir: str = "~/data",
  settings: Mapping[str, Any] | None = None,
) -> "dict[tuple[str, str], Result]":
  """Measures a network as `python -m cassle_jax.evaluate` measures a run.

  OUT gets the result files of a run's folder and a config.json with what tables
  call the network, so that `python -m cassle_jax.report OUT RUN ...` puts it
  beside others: in one table with those of the same method, name, source, image
  size and step. Everything is computed anew each time.

  Args:
    encode: images [b, h, w, 3] float32, normalised -> features [b, d], or
      (features, {block: outputs [b, ..., c]}), in eval mode: a jitted function
      that holds its parameters, say functools.partial(jax.jit(f), variables).
    policy: of the views that it was trained on, see `augment.build`: side of
      the pictures, mean and std, and the intervals of the operations.
    out: a folder for the results; made where it does not exist.
    project: (features [b, d], omega {field: [b, k]}) -> projections [b, out],
      likewise; None leaves out what looks at projections.
    name: of the network; where runs have their backbone's.
    method: that it was trained with, e.g. "simclr".
    awareness: e.g. "cassle" or "vanilla"; its row in tables.
    seed: of the training; those that differ in it alone are repetitions.
    step: of the training.
    source: the pictures that it was trained on.
    tasks: names of `evaluate.tasks.TASKS`; () = all.
    datasets: that classifiers are measured on; () = all that are there.
    data_dir: the folder of the data sets; the bundled tiles need none.
    settings: other keys of the evaluation's config, e.g.
      {"knn.headline": 1, "measure_on": ("earth",)}; not `precision` and
      `descriptor.*`, which are for runs.

  Returns:
    {(task, name of the result): Result}.

  Raises:
    UserError: OUT holds something else, an unknown name or key, nothing to do.
  """
  from cassle_jax.evaluate.context import Context
  from cassle_jax.evaluate.subject import of_functions
  from cassle_jax.evaluate.tasks import TASKS

  for task in tasks:
    if project is None and task in TASKS and TASKS[task].projects:
      raise UserError(f"the task {task!r} needs project=, a projector.")
  if project is None:
    tasks = tasks or tuple(n for n, task in TASKS.items() if not task.projects)
  config = evaluation_config.default()
  config.tasks, config.datasets = tuple(tasks), tuple(datasets)
  config.data_dir = data_dir
  for key, value in (settings or {}).items():
    if key.partition(".")[0] in _OF_RUNS:
      raise UserError(
        f"settings: {key!r} is for runs, whose network is built anew; here"
        " encode= computes as it does: leave it out."
      )
    evaluation_config.EVALUATION.apply_override(config, f"{key}={value}")
  jobs = command.plan(config)
  size = policy.image_size[0]
  _claim(
    out,
    {
      "measured_by": "cassle_jax.evaluate.measure",
      "method": {"name": method},
      "model": {"backbone": name},
      "awareness": {"name": awareness},
      "data": {"source": source, "image_size": size},
      "steps": step,
      "seed": seed,
    },
  )
  subject = of_functions(
    encode, project, policy=policy, name=f"{name}, {awareness}", step=step
  )
  context = Context(
    subject,
    out,
    data_dir=data_dir,
    image_size=config.image_size,
    dtype=config.features,
    seed=config.seed,
  )
  return command.perform(jobs, context, config, again=True)


def _claim(out: str, config: dict[str, Any]) -> None:
  """Writes a folder's config.json, unless it is somebody else's."""
  from cassle_jax.runs import files, folder

  path = os.path.join(out, folder.CONFIG)
  try:
    with open(path) as file:
      held = json.load(file)
  except FileNotFoundError:
    held = config
  except ValueError:
    held = None
  if held != config:
    differing = (
      folder.differences(held, config)
      if isinstance(held, dict) and "measured_by" in held
      else ["it is a run's folder, for python -m cassle_jax.evaluate"]
    )
    raise UserError(
      f"out={out} holds the results of another network ({differing[0]}); name"
      " another folder."
    )
  os.makedirs(out, exist_ok=True)
  files.write_json(path, config)
