"""Configs of training runs: their sections, and `:tiny`.

Each section of a config is the keyword arguments of one function, or the fields
of one dataclass: `sections` names it, and its signature is the list of keys,
defaults and types. A config file starts from `default()` and changes what it
needs:

    from cassle_jax import config as config_lib

    def get_config(variant="small"):
      config = config_lib.default()
      config.method.name = "mocov3"
      return config

Config files are Python and are run: load only files that you trust. A run's
folder holds config.json, which is data and is never executed.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cassle_jax import errors
from cassle_jax.config.schema import Schema, Section
from cassle_jax.config.schema import listing as listing
from cassle_jax.config.schema import to_dict as to_dict
from cassle_jax.errors import unknown

TOP = {
  "seed": (int, 0),
  "batch_size": (int, 256),
  "epochs": (float, 100.0),
  "steps": (int | None, None),
  "precision": (str, "float32"),
  "accumulate": (int, 1),
  "log_every": (int, 50),
  "compilation_cache": (bool, True),
  "published": (str | None, None),
  "init": (str | None, None),
  "init_heads": (bool, False),
}

RULES = {
  # More do not fit into a key.
  "seed": errors.Range(0, 2**32 - 1),
  "batch_size": errors.Range(2, because="less leaves nothing to contrast with"),
  "epochs": errors.AT_LEAST_0,
  "steps": errors.Range(1, because="the run has no steps"),
  "precision": errors.Words(("float32", "bfloat16")),
  "accumulate": errors.AT_LEAST_1,
  "log_every": errors.AT_LEAST_1,
}
MEANINGS = {
  "seed": "of parameters, order and augmentations.",
  "batch_size": "pictures in a step, over all devices.",
  "epochs": "passes over the training set; `steps` goes before it.",
  "steps": "updates in the run; None: from `epochs`.",
  "precision": "of the networks' activations; parameters are float32.",
  "accumulate": "parts of a batch that are computed one after another.",
  "log_every": "steps between lines of the log.",
  "compilation_cache": "whether the run's folder keeps compiled programs.",
  "init": "weights to start from: a file that `convert` reads, or a run.",
  "init_heads": "whether the heads come along with `init`.",
  "published": "row of the paper's tables that the run repeats.",
}
# An image size that every setting of the augmentation fits.
_LARGE = 2**14


def sections() -> dict[str, Section]:
  """Whose arguments, or fields, are the keys of each section."""
  # Imported here: `main --help` and config files need no jax to be read.
  from cassle_jax import augment, awareness, data, methods, models, optim
  from cassle_jax.data import pipeline
  from cassle_jax.evaluation import online
  from cassle_jax.hosts import sharding
  from cassle_jax.runs import checkpoint, guard

  method = Section(
    *(row.build for row in methods.METHODS.values()),
    given=methods.NEEDS,
    keys={"name": (str, "simclr")},
    meanings={"name": "of the method, a row of `methods.METHODS`."},
    rules=methods.RULES | {"name": errors.Words(methods.METHODS)},
  )
  # None: what the method, the awareness or the backbone has. So are keys that
  # came later: a run that has none of them goes on.
  model = Section(
    models.Options,
    keys={
      "backbone": (str, models.Options.backbone),
      "omega": (tuple[str, ...], augment.omega.DEFAULT),
      "conditioning": (str | None, None),
      "conv_init": (str | None, None),
      "projector": (tuple[int, ...] | None, None),
      "projector_norm": (str | None, None),
      "projector_hidden_norm": (bool | None, None),
      "projector_activation": (str | None, None),
      "predictor": (tuple[int, ...] | None, None),
      "predictor_norm": (str | None, None),
    },
    meanings=_of_networks(),
    rules=models.RULES,
  )
  return {
    "data": Section(
      data.build, given=("seed", "batch_size", "rows"), rules=pipeline.RULES
    ),
    "augment": Section(
      augment.build,
      given=("image_size", "dtype"),
      keys={key: (hint, None) for key, hint in augment.recipes.keys().items()},
      check=functools.partial(augment.build, image_size=_LARGE),
      meanings=_of_operations(),
    ),
    "model": model,
    "method": method,
    "awareness": Section(
      *(row.build for row in awareness.AWARENESS.values()),
      keys={"name": (str | None, None)}
      | {
        key: (float | None, None)
        for row in awareness.AWARENESS.values()
        for key in row.weights()
      },
      meanings={"name": 'of the awareness; "vanilla" has none.'}
      | {
        key: "AugSelf: weight of the loss of this field of omega."
        for key in awareness.augself.weight_keys()
      },
      rules=awareness.rules(),
    ),
    "optim": Section(optim.Options, rules=optim.options.RULES),
    "mesh": Section(
      sharding.make_mesh, given=("devices",), rules=sharding.RULES
    ),
    "checkpoint": Section(
      checkpoint.Checkpointer, given=("folder",), rules=checkpoint.RULES
    ),
    "guard": Section(guard.Limits, rules=guard.RULES),
    "evaluation": Section(
      online.build,
      given=("source", "split", "image_size", "class_list", "data_dir"),
      rules=online.RULES,
    ),
  }


def _of_networks() -> dict[str, str]:
  """What the keys of `model` mean that are attributes of a network."""
  from cassle_jax import models
  from cassle_jax.config import docstrings

  found = {"omega": "fields of omega that the projector is told."}
  options = docstrings.arguments(models.Options)
  networks = models.ResNet, models.VisionTransformer, models.ConvNet
  for network in networks:
    for name, text in docstrings.arguments(network).items():
      if name not in options or options[name].startswith("of `"):
        found.setdefault(name, text)
  heads = {"projector": models.ConditionedProjector, "predictor": models.MLP}
  named = {"bias": "last_bias"}
  for head, network in heads.items():
    texts = docstrings.arguments(network)
    for name in ("norm", "bias", "hidden_norm", "activation"):
      found[f"{head}_{name}"] = texts[named.get(name, name)]
  projector = docstrings.arguments(models.ConditionedProjector)
  for name in ("conditioning", "gamma_depth", "gamma_width"):
    found[name] = projector[name]
  found["hypernetwork_norm"] = projector["hypernetwork_norm"]
  return found


def _of_operations() -> dict[str, str]:
  """What the keys of `augment` mean that are operations' settings."""
  from cassle_jax import augment
  from cassle_jax.config import docstrings

  found = {
    "mean": "subtracted from each channel of the views, in [0, 1].",
    "std": "by which each channel is divided after that.",
  }
  for record in augment.OPERATIONS.values():
    texts = docstrings.arguments(record.settings)
    for key, name in record.settings.keys().items():
      if name not in texts:
        continue  # An operation of one's own need not say what its keys mean.
      text = texts[name].replace(f" (key `{key}`)", "")
      found[key] = f"probability {text}" if name == "probability" else text
  return found


def check_variant(variant: str, valid: Sequence[str]) -> None:
  """Raises UserError unless a config file knows this variant."""
  if variant not in valid:
    raise unknown("variant of the config file", variant, valid)


def put(config: ConfigDict, values: Mapping[str, Any]) -> None:
  """Sets {"section.key": value}, in place."""
  for path, value in values.items():
    section, key = path.split(".")
    config[section][key] = value


def tiny(config: ConfigDict) -> ConfigDict:
  """Shrinks a run to seconds on any machine: bundled images, a thin net.

  Method, optimiser, augmentation and conditioning stay what they are; data,
  sizes and length become the smallest that still exercise them, and the
  backbone a thin ResNet-18 or ViT.
  """
  # Imported here: see `sections`.
  from cassle_jax import methods

  config.data.source, config.data.split = "bundled:earth", "train"
  config.data.image_size = 32
  config.precision = "float32"
  config.batch_size = 32
  config.epochs, config.steps = 1.0, 8
  config.log_every = 1
  config.published = None
  config.checkpoint.every = 4
  config.evaluation.every = 0
  config.evaluation.max_images = 512
  model = config.model
  if model.backbone.startswith("vit"):
    model.backbone, model.patch_size = "vit_debug", 8
  else:
    model.backbone, model.width = "resnet18", 8
    model.stem, model.stem_factor = "space_to_depth", 4
  model.norm = "batch"  # The one that both of these take.
  model.gamma_depth, model.gamma_width = 3, 16
  put(config, methods.METHODS[config.method.name].tiny)
  config.optim.warmup_epochs = min(config.optim.warmup_epochs, 0.02)
  config.optim.freeze = tuple(
    (prefix, min(epochs, 0.02)) for prefix, epochs in config.optim.freeze
  )
  return config


RETIRED = {
  "data.workers": "threads alone read, see data.threads, and are faster",
}
TRAINING = Schema(TOP, sections, RULES, MEANINGS, retired=RETIRED)
default = TRAINING.default
load = TRAINING.load
apply_override = TRAINING.apply_override
check = TRAINING.check
rules = TRAINING.rules
