"""Config files: Python that is run, or a run's config.json, which is data."""

import difflib
import importlib.util
import inspect
import json
import os
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

import cassle_jax
from cassle_jax.errors import UserError


def read(path: str, valid: Iterable[str]) -> ConfigDict:
  """Reads a config file as it stands; nothing is filled in or checked.

  Args:
    path: FILE.py, FILE.py:VARIANT (`get_config`'s argument), a config.json, or
      the NAME of a config that comes with the package: `quickstart:tiny`.
    valid: names of the sections, for the error message.

  Raises:
    UserError: no such file, or anything that goes wrong in it, in one line.
  """
  named, variant = split(path)
  file = _found(named)
  if file is None:
    raise UserError(f"no config file {named!r}{_nearest(named)}")
  if not file.endswith(".json"):
    return _run(file, variant)
  if variant:
    raise UserError(f"{file} takes no variant; drop ':{variant}'.")
  return _parse_json(file, valid)


def split(path: str) -> tuple[str, str]:
  """FILE:VARIANT apart; colons that belong to folders stay with FILE."""
  if os.path.isfile(path):
    return path, ""
  file, _, variant = path.rpartition(":")
  if os.path.isfile(file):
    return file, variant
  file, _, variant = path.partition(":")
  return file, variant


def _parse_json(file: str, valid: Iterable[str]) -> ConfigDict:
  try:
    with open(file) as stream:
      values = json.load(stream)
  except (OSError, ValueError) as error:
    raise UserError(
      f"{file} cannot be read as JSON ({_flat(error)}); mend it, or give"
      " the Python file that the run was started with."
    ) from error
  if not isinstance(values, dict):
    raise UserError(
      f"{file} holds a {type(values).__name__}; a config is an object with the"
      f" sections {', '.join(valid)}."
    )
  try:
    return from_dict(values)
  except (KeyError, ValueError) as error:  # A key that cannot be one.
    raise UserError(f"{file}: {_flat(error)}") from error


def _run(file: str, variant: str) -> ConfigDict:
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
  cause = f"{type(error).__name__}: {_flat(error)}".rstrip(": ")
  if isinstance(error, SyntaxError) and error.filename == origin:
    lines, cause = [error.lineno], error.msg
  where = f"{file}, line {lines[-1]}" if lines else file
  return UserError(f"{where}: {cause}{'' if cause[-1] in '.?' else '.'}")


def _flat(error: Exception) -> str:
  text = str(error)
  # ml_collections wraps a KeyError, whose text is quoted, into others.
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  if isinstance(error, KeyError) and "\n" in str(*error.args[:1]):
    text = error.args[0]
  return " ".join(text.split())


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
  """A config from plain data (config.json); lists become tuples."""

  def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
      return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
      return tuple(plain(item) for item in value)
    return value

  return ConfigDict(plain(values))


def shipped() -> str:
  """The folder of the configs that come with the package."""
  package = os.path.dirname(cassle_jax.__file__)
  own = os.path.join(package, "configs")  # In a clone a link.
  beside = os.path.join(os.path.dirname(package), "configs")
  return own if os.path.isdir(own) else beside


def names() -> list[str]:
  """The configs that came with the package, as --config takes them."""
  folder = shipped()
  files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  return [n.removesuffix(".py") for n in files if n.endswith(".py")]


def _found(file: str) -> str | None:
  """The file itself, or else the package's own of that name."""
  if os.path.isfile(file):
    return file
  # configs/NAME.py, as in a clone, means the same where there is none.
  name = file.removeprefix("configs/").removesuffix(".py")
  own = os.path.join(shipped(), f"{name}.py")
  return own if os.path.isfile(own) else None


def _nearest(file: str) -> str:
  folder = os.path.dirname(file) or "."
  near = difflib.get_close_matches(file, names(), n=1)
  if near:
    return f"; did you mean {near[0]!r}?"
  if not os.path.isdir(folder):
    return f" (there is no folder {folder!r} in {os.getcwd()})."
  files = [n for n in sorted(os.listdir(folder)) if n.endswith(".py")]
  near = difflib.get_close_matches(os.path.basename(file), files, n=1)
  return f"; did you mean {os.path.join(folder, near[0])!r}?" if near else "."
