"""Configs: defaults from the functions that use them, files, overrides.

Each section of a config is the keyword arguments of one function (`sections`
names it), so the function's signature is the list of valid keys, of their
defaults and of their types. A config file starts from `default()` and changes
what it needs:

    from cassle_jax import config as config_lib

    def get_config(variant="small"):
      config = config_lib.default()
      config.method.name = "mocov3"
      return config

Config files are Python and are run: load only files that you trust. A run's
folder holds config.json, which is data and is never executed.
"""

import difflib
import functools
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from cassle_jax import config_files, config_values
from cassle_jax.errors import UserError, unknown

TOP = {
  "seed": (int, 0),
  "batch_size": (int, 256),
  "epochs": (float, 100.0),
  "steps": (int | None, None),
  "precision": (str, "float32"),
  "accumulate": (int, 1),
  "log_every": (int, 50),
  # The row of published.json that the run repeats; see published.py.
  "published": (str | None, None),
}


def sections() -> dict[str, tuple[list[Callable], set[str], dict]]:
  """Section -> (functions, arguments that are not config, further keys)."""
  # Imported here: `main --help` and config files need no jax to be read.
  from cassle_jax import (
    augment,
    awareness,
    checkpoint,
    data,
    methods,
    models,
    optim,
    sharding,
  )
  from cassle_jax.evaluation import online

  method = [row.build for row in methods.METHODS.values()]
  aware = list(dict.fromkeys(awareness.AWARENESS.values()))
  return {
    "data": (
      [data.build],
      {"seed", "batch_size", "process_index", "process_count"},
      {},
    ),
    "augment": ([augment.build], {"image_size", "dtype"}, {}),
    "model": (
      [models.build],
      {
        "omega_size",
        "image_size",
        "dtype",
        "prototypes",
        "prototypes_weight_norm",
        "pair_outputs",
        "pair_hidden",
        "descriptor_size",
      },
      {
        "omega": (tuple[str, ...], augment.omega.DEFAULT),
        # None: what the method, or the awareness, has.
        "conditioning": (str | None, None),
        "projector": (tuple[int, ...] | None, None),
        "projector_norm": (str | None, None),
        "projector_hidden_norm": (bool | None, None),
        "projector_activation": (str | None, None),
        "predictor": (tuple[int, ...] | None, None),
        "predictor_norm": (str | None, None),
      },
    ),
    "method": (method, set(methods.CONTEXT), {"name": (str, "simclr")}),
    "awareness": (aware, set(), {"name": (str | None, None)}),
    "optim": (
      [optim.build],
      {"batch_size", "steps_per_epoch", "total_steps", "frozen", "stacked"},
      {},
    ),
    "mesh": ([sharding.make_mesh], {"devices"}, {}),
    "checkpoint": ([checkpoint.Checkpointer], {"folder"}, {}),
    "evaluation": (
      [online.build],
      {"source", "split", "image_size", "class_list", "data_dir"},
      {},
    ),
  }


@functools.cache
def schema() -> dict[str, dict[str, tuple[Any, Any]]]:
  """Section -> key -> (type annotation, default value).

  Where several functions share a section (the methods), a key's default is
  None, which stands for the default of the function that is chosen.
  """
  result = {}
  for section, (functions, internal, further) in sections().items():
    keys = {}
    for function in functions:
      hints = typing.get_type_hints(
        function.__init__ if inspect.isclass(function) else function
      )
      for name, parameter in inspect.signature(function).parameters.items():
        if name in internal or name in ("self", "options"):
          continue
        hint, default = hints.get(name, Any), parameter.default
        if len(functions) > 1:
          hint, default = hint | None, None
        keys[name] = (hint, default)
    result[section] = {**keys, **further}
  return result


def default() -> ConfigDict:
  """All sections with all their defaults, ready to be changed."""
  config = ConfigDict({key: value for key, (_, value) in TOP.items()})
  for section, keys in schema().items():
    config[section] = ConfigDict(
      {key: value for key, (_, value) in keys.items()}
    )
  return config


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Reads a config file, applies overrides and checks every key.

  Args:
    path: a Python file with `get_config`, or a run's config.json; a colon
      and a word after a Python file are `get_config`'s argument. Sections and
      keys that it lacks, say because they are newer, get their defaults.
    overrides: strings such as "optim.learning_rate=0.1".

  Raises:
    UserError: no such file, an error in it, an unknown key, a wrong type.
  """
  config = config_files.read(path, schema())
  _complete(config, path.partition(":")[0])
  for override in overrides:
    apply_override(config, override)
  check(config)
  return config


def to_dict(config: ConfigDict) -> dict[str, Any]:
  """The config as JSON gives it back: plain dicts, tuples as lists."""
  return json.loads(json.dumps(config.to_dict()))


def check_variant(variant: str, valid: Sequence[str]) -> None:
  """Raises UserError unless a config file knows this variant."""
  if variant not in valid:
    raise unknown("variant of the config file", variant, valid)


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
  for path, value in methods.METHODS[config.method.name].tiny.items():
    section, key = path.split(".")
    config[section][key] = value
  config.optim.warmup_epochs = min(config.optim.warmup_epochs, 0.02)
  config.optim.freeze = tuple(
    (prefix, min(epochs, 0.02)) for prefix, epochs in config.optim.freeze
  )
  return config


def listing(config: ConfigDict) -> str:
  """Every key with its value, one line each, as overrides are written."""
  return "\n".join(
    f"--config.{path}={value}" for path, value in _leaves(config)
  )


def apply_override(config: ConfigDict, override: str) -> None:
  """Sets one key from "section.key=value" or "key=value", in place."""
  known = schema()
  path, equals, text = override.partition("=")
  if not equals:
    raise UserError(
      f"--config.{path} has no value; write --config.{path}=VALUE."
    )
  section, _, key = path.rpartition(".")
  keys = TOP if not section else known.get(section)
  if keys is None or key not in keys:
    raise _unknown_key(path)
  value = config_values.parse(text, keys[key][0], path)
  target = config[section] if section else config
  with target.ignore_type():
    target[key] = value


def check(config: ConfigDict) -> None:
  """Raises UserError for a key that no function takes, or a wrong type."""
  known = schema()
  for path, value in _leaves(config):
    section, _, key = path.rpartition(".")
    keys = TOP if not section else known.get(section, {})
    if path in known:
      raise _not_a_section(path, value)
    if key not in keys:
      raise _unknown_key(path)
    if not config_values.fits(value, keys[key][0]):
      shown = " ".join(repr(value).split())  # A ConfigDict's has lines.
      raise UserError(
        f"config.{path}={shown} is a {type(value).__name__}; it must be"
        f" {config_values.describe(keys[key][0])}."
      )


def _complete(config: ConfigDict, file: str) -> None:
  """Gives a config the sections and keys that it lacks, in place."""
  with config.unlocked():
    for name, value in default().items():
      if name not in config:
        config[name] = value
      elif isinstance(value, ConfigDict):
        section = config[name]
        if not isinstance(section, ConfigDict):
          raise _not_a_section(name, section, f"{file}: ")
        for key in value:
          if key not in section:
            section[key] = value[key]


def _not_a_section(name: str, value: Any, where: str = "") -> UserError:
  return UserError(
    f"{where}config.{name}={value!r} must be a section; set the keys that"
    f" it has as config.{name}.KEY."
  )


def _leaves(config: ConfigDict) -> Iterator[tuple[str, Any]]:
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      yield from ((f"{key}.{k}", v) for k, v in value.items())
    else:
      yield key, value


def _unknown_key(path: str) -> UserError:
  known = schema()
  every = list(TOP) + [f"{s}.{k}" for s, keys in known.items() for k in keys]
  section, _, key = path.rpartition(".")
  valid = known.get(section, TOP if not section else {})
  # "lr" for learning_rate: initials are nearer than spelling can tell.
  near = [
    f"{section}.{name}".lstrip(".")
    for name in valid
    if "_" in name and key.startswith("".join(w[0] for w in name.split("_")))
  ]
  if not section:
    near += [
      f"{s}.{name}"
      for s, keys in known.items()
      for name in keys
      if "_" in name and key == "".join(w[0] for w in name.split("_"))
    ]
  near += difflib.get_close_matches(path, every, n=1, cutoff=0.6)
  listing = ", ".join(sorted(valid) or sorted(known))
  kind = f"keys of {section or 'the top level'}" if valid else "sections"
  hint = f" Did you mean config.{near[0]}?" if near else ""
  return UserError(f"unknown key config.{path}.{hint} The {kind}: {listing}.")
