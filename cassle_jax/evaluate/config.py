"""Configs of evaluations: which tasks on which data sets, and their settings.

from cassle_jax.evaluate import config as evaluation_config

def get_config():
  config = evaluation_config.default()
  config.tasks = ("knn", "linear")
  return config
"""

from cassle_jax import errors
from cassle_jax.config.schema import Schema, Section, listing

TOP = {
  # () = all that there are.
  "tasks": (tuple[str, ...], ()),
  # () = all that lie in data_dir.
  "datasets": (tuple[str, ...], ()),
  # The sets whose pictures measure the network itself.
  "measure_on": (tuple[str, ...], ("earth",)),
  "data_dir": (str, "~/data"),
  # 0 = as trained.
  "image_size": (int, 0),
  "precision": (str, "float32"),
  # "online" or "target"; None = the run's evaluation.network.
  "network": (str | None, None),
  # Of the features that are kept in the run's folder.
  "features": (str, "float32"),
  # Of what: see evaluate/representations.py; () = all that the run has.
  "representations": (tuple[str, ...], ()),
  "seed": (int, 0),
}
TOP_RULES = {
  "image_size": errors.AT_LEAST_0,
  "precision": errors.Words(("float32", "bfloat16")),
  "network": errors.Words(("online", "target")),
  "features": errors.Words(("float32", "bfloat16")),
  "seed": errors.Range(0, 2**32 - 1),
}
MEANINGS = {
  "tasks": "names of tasks; () is all.",
  "datasets": "names of data sets; () is all that lie in data_dir.",
  "measure_on": "sets whose pictures measure the network itself.",
  "data_dir": "folder of the data sets.",
  "image_size": "side of the pictures in px; 0 is the size of the training.",
  "precision": "of the network's activations.",
  "network": '"online" or "target"; None is the run\'s evaluation.network.',
  "features": "precision of the features that are kept in the run's folder.",
  "representations": "what of a run is measured; () is all that it has.",
  "seed": "of whatever a task draws.",
}


def sections() -> dict[str, Section]:
  """Task -> its function, whose keyword arguments are the keys.

  And "descriptor", of what AI's runs learn before the others are measured.
  """
  # Imported here: `--help` and config files need no jax to be read.
  from cassle_jax.evaluate import representations
  from cassle_jax.evaluate.tasks import RULES, TASKS

  functions = {name: task.run for name, task in TASKS.items()}
  functions["descriptor"] = representations.descriptor
  return {
    name: Section(function, given=("context", "dataset"), rules=RULES[name])
    for name, function in functions.items()
  }


EVALUATION = Schema(TOP, sections, TOP_RULES, MEANINGS)
default = EVALUATION.default
load = EVALUATION.load

__all__ = ["EVALUATION", "TOP", "default", "listing", "load", "sections"]
