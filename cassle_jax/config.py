"""Configs: defaults from the functions that use them, files, overrides.

Each section of a config is the keyword arguments of one function (`SECTIONS`
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

import ast
import difflib
import importlib.util
import inspect
import json
import os
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cassle_jax.errors import UserError, unknown

TOP = {
  "seed": (int, 0),
  "batch_size": (int, 256),
  "epochs": (float, 100.0),
  "steps": (int | None, None),
  "precision": (str, "float32"),
  "accumulate": (int, 1),
  "log_every": (int, 50),
}

# Method -> (projector, predictor) of `tiny`, where the method's own are wide.
TINY_HEADS = {
  "mocov3": ((64, 32), (64, 32)),
  "byol": ((64, 32), (64, 32)),
  "simsiam": ((64, 64, 32), (16, 32)),
  "barlow_twins": ((64, 64, 64), ()),
  "vicreg": ((64, 64, 64), ()),
}


def sections() -> dict[str, tuple[list[Callable], set[str], dict]]:
  """Section -> (functions, arguments that are not config, further keys)."""
  # Imported here: `main --help` and config files need no jax to be read.
  from cassle_jax import (
    augment,
    checkpoint,
    data,
    methods,
    models,
    optim,
    sharding,
  )
  from cassle_jax.evaluation import online

  method = list(methods.METHODS.values())
  return {
    "data": (
      [data.build],
      {"seed", "batch_size", "process_index", "process_count"},
      {},
    ),
    "augment": ([augment.build], {"image_size", "dtype"}, {}),
    "model": (
      [models.build],
      {"omega_size", "image_size", "dtype"},
      {
        "omega": (tuple[str, ...], augment.omega.DEFAULT),
        # None: what the method, or the awareness, has.
        "conditioning": (str | None, None),
        "projector": (tuple[int, ...] | None, None),
        "projector_norm": (str | None, None),
        "predictor": (tuple[int, ...] | None, None),
        "predictor_norm": (str | None, None),
      },
    ),
    "method": (method, {"features", "vit"}, {"name": (str, "simclr")}),
    "awareness": ([], set(), {"name": (str | None, None)}),
    "optim": (
      [optim.build],
      {"batch_size", "steps_per_epoch", "total_steps", "frozen"},
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
  file, _, variant = path.partition(":")
  if not os.path.isfile(file):
    raise UserError(f"no config file {file!r}{_nearest_file(file)}.")
  if file.endswith(".json"):
    config = _read_json(file, variant)
  else:
    config = _run_file(file, variant)
  known = schema()
  _complete(config, file)
  for override in overrides:
    apply_override(config, override, known)
  check(config, known)
  return config


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
  """A config from plain data (config.json); lists become tuples."""

  def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
      return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
      return tuple(plain(item) for item in value)
    return value

  return ConfigDict(plain(values))


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
  config.data.source, config.data.split = "bundled:earth", "train"
  config.data.image_size = 32
  config.precision = "float32"
  config.batch_size = 32
  config.epochs, config.steps = 1.0, 8
  config.log_every = 1
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
  if config.method.name in TINY_HEADS:
    model.projector, model.predictor = TINY_HEADS[config.method.name]
  if config.method.name == "mocov2":
    config.method.queue_size = 256
  config.optim.warmup_epochs = min(config.optim.warmup_epochs, 0.02)
  return config


def listing(config: ConfigDict) -> str:
  """Every key with its value, one line each, as overrides are written."""
  return "\n".join(
    f"--config.{path}={value}" for path, value in _leaves(config)
  )


def apply_override(
  config: ConfigDict, override: str, known: Mapping[str, Mapping] | None = None
) -> None:
  """Sets one key from "section.key=value" or "key=value", in place."""
  known = schema() if known is None else known
  path, equals, text = override.partition("=")
  if not equals:
    raise UserError(
      f"--config.{path} has no value; write --config.{path}=VALUE."
    )
  section, _, key = path.rpartition(".")
  keys = TOP if not section else known.get(section)
  if keys is None or key not in keys:
    raise _unknown_key(path, known)
  value = parse(text, keys[key][0], path)
  target = config[section] if section else config
  with target.ignore_type():
    target[key] = value


def check(config: ConfigDict, known: Mapping[str, Mapping] | None = None):
  """Raises UserError for a key that no function takes, or a wrong type."""
  known = schema() if known is None else known
  for path, value in _leaves(config):
    section, _, key = path.rpartition(".")
    keys = TOP if not section else known.get(section, {})
    if path in known:
      raise _not_a_section(path, value)
    if key not in keys:
      raise _unknown_key(path, known)
    if not _fits(value, keys[key][0]):
      shown = " ".join(repr(value).split())  # A ConfigDict's has lines.
      raise UserError(
        f"config.{path}={shown} is a {type(value).__name__}; it must be"
        f" {_name(keys[key][0])}."
      )


def parse(text: str, hint: Any, path: str) -> Any:
  """Reads an override's text as a value of the annotated type."""
  options = _members(hint)
  if text in ("None", "none", "null") and type(None) in options:
    if str not in options or text == "None":
      return None
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    lowered = text.lower()
    value = {"true": True, "false": False}.get(lowered, text)
  candidates = [value]
  if isinstance(value, int) and float in options and int not in options:
    candidates.insert(0, float(value))
  if isinstance(value, float) and value.is_integer():
    candidates.append(int(value))
  if isinstance(value, list):
    candidates.append(tuple(value))
  if isinstance(value, str) and "," in value:
    candidates.insert(
      0, tuple(x.strip(" ()'\"") for x in value.split(",") if x)
    )
  candidates += [(value,), text]
  for candidate in candidates:
    if _fits(candidate, hint):
      return candidate
  raise UserError(
    f"--config.{path}={text} is not valid; it must be {_name(hint)}."
  )


def _read_json(file: str, variant: str) -> ConfigDict:
  if variant:
    raise UserError(f"{file} takes no variant; drop ':{variant}'.")
  try:
    with open(file) as stream:
      values = json.load(stream)
  except (OSError, ValueError) as error:
    raise UserError(
      f"{file} cannot be read as JSON ({_one_line(error)}); mend it, or give"
      " the Python file that the run was started with."
    ) from error
  if not isinstance(values, dict):
    raise UserError(
      f"{file} holds a {type(values).__name__}; a config is an object with the"
      f" sections {', '.join(sections())}."
    )
  try:
    return from_dict(values)
  except (KeyError, ValueError) as error:  # A key that cannot be one.
    raise UserError(f"{file}: {_one_line(error)}") from error


def _run_file(file: str, variant: str) -> ConfigDict:
  """Runs a config file; whatever goes wrong in it is one line."""
  spec = importlib.util.spec_from_file_location("_cassle_jax_config", file)
  if spec is None:
    raise UserError(f"config file {file!r} ends in neither .py nor .json.")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
      raise UserError(f"{file} has no function get_config(); add one.")
    arguments = (variant,) if variant else ()
    if variant and not inspect.signature(module.get_config).parameters:
      raise UserError(f"{file} takes no variant; drop ':{variant}'.")
    config = module.get_config(*arguments)
  except UserError:
    raise
  except Exception as error:
    raise _error_in(file, spec.origin, error) from error
  if not isinstance(config, ConfigDict):
    raise UserError(
      f"get_config() of {file} returns a {type(config).__name__}; it must"
      " return config_lib.default() with its changes."
    )
  return config


def _error_in(file: str, origin: str, error: Exception) -> UserError:
  """Names the file, the last of its lines that ran, and the cause."""
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == origin]
  cause = f"{type(error).__name__}: {_one_line(error)}".rstrip(": ")
  if isinstance(error, SyntaxError) and error.filename == origin:
    lines, cause = [error.lineno], error.msg
  where = f"{file}, line {lines[-1]}" if lines else file
  return UserError(f"{where}: {cause}{'' if cause[-1] in '.?' else '.'}")


def _one_line(error: Exception) -> str:
  text = str(error)
  # ml_collections wraps a KeyError, whose text is quoted, into others.
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  if isinstance(error, KeyError) and "\n" in str(*error.args[:1]):
    text = error.args[0]
  return " ".join(text.split())


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


def _members(hint: Any) -> tuple:
  if isinstance(hint, types.UnionType) or (
    typing.get_origin(hint) is typing.Union
  ):
    return typing.get_args(hint)
  return (hint,)


def _fits(value: Any, hint: Any) -> bool:
  for option in _members(hint):
    origin = typing.get_origin(option) or option
    if option is Any or option is type(None) and value is None:
      return True
    if origin is tuple:
      if isinstance(value, tuple) and _tuple_fits(value, option):
        return True
    elif origin is bool or isinstance(value, bool):
      if origin is bool and isinstance(value, bool):
        return True
    elif origin is float and isinstance(value, (int, float)):
      return True
    elif isinstance(origin, type) and isinstance(value, origin):
      return True
  return False


def _tuple_fits(value: tuple, hint: Any) -> bool:
  arguments = typing.get_args(hint)
  if not arguments:
    return True
  if len(arguments) == 2 and arguments[1] is Ellipsis:
    return all(_fits(item, arguments[0]) for item in value)
  return len(value) == len(arguments) and all(map(_fits, value, arguments))


def _name(hint: Any) -> str:
  names = {type(None): "None", bool: "True or False"}
  return " or ".join(
    names.get(
      option,
      str(option)
      if typing.get_origin(option)
      else getattr(option, "__name__", str(option)),
    )
    for option in _members(hint)
  )


def _unknown_key(path: str, known: Mapping[str, Mapping]) -> UserError:
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


def _nearest_file(file: str) -> str:
  folder = os.path.dirname(file) or "."
  named = os.path.join("configs", file.removesuffix(".py") + ".py")
  if os.path.isfile(named):
    return f"; did you mean {named!r}?"
  if not os.path.isdir(folder):
    return f" (there is no folder {folder!r} in {os.getcwd()})"
  names = [n for n in sorted(os.listdir(folder)) if n.endswith(".py")]
  near = difflib.get_close_matches(os.path.basename(file), names, n=1)
  return f"; did you mean {os.path.join(folder, near[0])!r}?" if near else ""
