"""What a kind of config may hold: keys, types and defaults, from signatures.

A config has plain keys at the top and sections, see `Section`. __init__.py
has the training runs' sections, evaluate/config.py the evaluations'.
"""

import difflib
import functools
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cassle_jax import errors
from cassle_jax.config import docstrings, files, values
from cassle_jax.errors import UserError

# `*arguments` and `**options` are no keys.
_VARIADIC = (
  inspect.Parameter.VAR_POSITIONAL,
  inspect.Parameter.VAR_KEYWORD,
)

# Key -> (type annotation, default value).
Keys = Mapping[str, tuple[Any, Any]]


class Section:
  """One section: the keyword arguments of a function, or a dataclass's fields.

  Where there are several functions (the methods), of which a run chooses one,
  a key's default is None: that of the one that is chosen.
  """

  def __init__(
    self,
    *functions: Callable,
    given: Sequence[str] = (),
    keys: Keys | None = None,
    rules: errors.Rules | None = None,
    check: Callable[..., Any] | None = None,
    meanings: Mapping[str, str] | None = None,
  ):
    """Takes the keys from functions, or from classes' constructors.

    Args:
      *functions: whose arguments they are.
      given: arguments that are no keys, for the run gives them.
      keys: those that no signature has, or that are otherwise in a config.
      rules: what the keys' values may be; the room that takes them has them.
      check: of the whole section as keyword arguments, where rules for single
        keys do not say it; raises UserError.
      meanings: of the keys that no function's docstring has, one line each.
    """
    self.keys, self.rules, self.check = {}, rules or {}, check
    self._functions, self._meanings = functions, meanings or {}
    for function in functions:
      hints = typing.get_type_hints(
        function.__init__ if inspect.isclass(function) else function
      )
      for name, parameter in inspect.signature(function).parameters.items():
        if name in given or name == "self" or parameter.kind in _VARIADIC:
          continue
        hint, default = hints.get(name, Any), parameter.default
        if len(functions) > 1:
          hint, default = hint | None, None
        self.keys[name] = (hint, default)
    self.keys |= keys or {}

  def meanings(self) -> dict[str, str]:
    """Key -> what it means, in one line; of several functions, the first's."""
    found = {}
    for function in self._functions:
      found = docstrings.arguments(function) | found
    found |= self._meanings
    return {key: found[key] for key in self.keys if key in found}


class Schema:
  """The keys of one kind of config."""

  def __init__(
    self,
    top: Keys,
    sections: Callable[[], Mapping[str, Section]],
    rules: errors.Rules | None = None,
    meanings: Mapping[str, str] | None = None,
    *,
    retired: Mapping[str, str] | None = None,
  ):
    """Binds the keys at the top, with rules and meanings, and the sections.

    Args:
      top: the keys at the top.
      rules: what their values may be.
      meanings: of each, in one line.
      sections: called when they are first needed, so that `--help` and config
        files need no jax.
      retired: keys of former versions, each with what came of it; the
        config.json of an old run may have them.
    """
    self.top, self._top_rules = top, rules or {}
    self._top_meanings = meanings or {}
    self._retired = retired or {}
    self._sections = functools.cache(sections)

  def keys(self) -> dict[str, Keys]:
    """Section -> key -> (type annotation, default value)."""
    return {name: section.keys for name, section in self._sections().items()}

  def rules(self) -> dict[str, errors.Rules]:
    """Section, "" for the top -> key -> what its value may be."""
    sections = {name: s.rules for name, s in self._sections().items()}
    return {"": self._top_rules, **sections}

  def meanings(self) -> dict[str, dict[str, str]]:
    """Section, "" for the top -> key -> what it means, in one line."""
    sections = {name: s.meanings() for name, s in self._sections().items()}
    return {"": dict(self._top_meanings), **sections}

  def default(self) -> ConfigDict:
    """All sections with all their defaults, ready to be changed."""
    config = ConfigDict({key: value for key, (_, value) in self.top.items()})
    for section, keys in self.keys().items():
      config[section] = ConfigDict(
        {key: value for key, (_, value) in keys.items()}
      )
    return config

  def load(
    self, path: str, overrides: Sequence[str] = (), *, ranges: bool = True
  ) -> ConfigDict:
    """Reads a config file, applies overrides and checks every key.

    Args:
      path: a Python file with `get_config`, or a run's config.json; a colon
        and a word after a Python file are `get_config`'s argument. Sections
        and keys that it lacks, say because they are newer, get their defaults.
      overrides: strings such as "optim.learning_rate=0.1".
      ranges: whether values have to be in range; not for a run of an earlier
        version that is only looked at.

    Raises:
      UserError: no such file, an error in it; all unknown keys, wrong types
        and values out of range, together.
    """
    config = files.read(path, self.keys())
    other = sorted(set(config) - set(self.top) - set(self.keys()))
    if len(other) > 2:
      raise UserError(
        f"{path} is a config of another command: here is no {other[0]},"
        f" {other[1]} or {other[2]}. cassle_jax.main takes configs/*.py,"
        " cassle_jax.evaluate configs/eval/*.py."
      )
    if path.endswith(".json"):
      self._drop_retired(config)
    self._complete(config, files.split(path)[0])
    found = []
    for override in overrides:
      try:
        self.apply_override(config, override)
      except UserError as error:
        found.append(str(error))
    found += self._misfits(config)
    if ranges:
      found += self._out_of_range(config)
    if found:
      raise errors.together(found)
    return config

  def apply_override(self, config: ConfigDict, override: str) -> None:
    """Sets one key from "section.key=value" or "key=value", in place."""
    path, equals, text = override.partition("=")
    if not equals:
      raise UserError(
        f"--config.{path} has no value; write --config.{path}=VALUE."
      )
    section, _, key = path.rpartition(".")
    keys = self.top if not section else self.keys().get(section)
    if keys is None or key not in keys:
      raise self._unknown_key(path)
    value = values.parse(text, keys[key][0], path)
    target = config[section] if section else config
    with target.ignore_type():
      target[key] = value

  def check(self, config: ConfigDict) -> None:
    """Raises UserError for all that is wrong with single keys.

    That is a key that no function takes, a wrong type, a value out of range.
    """
    found = [*self._misfits(config), *self._out_of_range(config)]
    if found:
      raise errors.together(found)

  def _misfits(self, config: ConfigDict) -> Iterator[str]:
    """Keys that no function takes, and values of a wrong type."""
    known = self.keys()
    for path, value in _leaves(config):
      section, _, key = path.rpartition(".")
      keys = self.top if not section else known.get(section, {})
      if path in known:
        yield str(_not_a_section(path, value))
      elif key not in keys:
        yield str(self._unknown_key(path))
      elif not values.fits(value, keys[key][0]):
        shown = " ".join(repr(value).split())  # A ConfigDict's has lines.
        yield (
          f"config.{path}={shown} is a {type(value).__name__}; it must be"
          f" {values.describe(keys[key][0])}"
        )

  def _out_of_range(self, config: ConfigDict) -> Iterator[str]:
    """Values of the right type that make no sense by themselves."""
    for section, rules in self.rules().items():
      given = config[section] if section else config
      if isinstance(given, ConfigDict):
        keys = self.keys()[section] if section else self.top
        fit = {
          key: value
          for key, value in given.items()
          if key in keys and values.fits(value, keys[key][0])
        }
        yield from errors.problems(section, rules, fit)
        check = section and self._sections()[section].check
        if check and len(fit) == len(keys):
          try:
            check(**fit)
          except UserError as error:
            yield str(error)

  def _drop_retired(self, config: ConfigDict) -> None:
    """Drops retired keys, and unknown ones that a run left at None."""
    known = self.keys()
    with config.unlocked():
      for section, keys in config.items():
        if section in known and isinstance(keys, ConfigDict):
          for key in [k for k in keys if k not in known[section]]:
            if keys[key] is None or f"{section}.{key}" in self._retired:
              del keys[key]

  def _complete(self, config: ConfigDict, file: str) -> None:
    """Gives a config the sections and keys that it lacks, in place."""
    with config.unlocked():
      for name, value in self.default().items():
        if name not in config:
          config[name] = value
        elif isinstance(value, ConfigDict):
          section = config[name]
          if not isinstance(section, ConfigDict):
            raise _not_a_section(name, section, f"{file}: ")
          for key in value:
            if key not in section:
              section[key] = value[key]

  def nearest(self, path: str) -> list[str]:
    """The keys that somebody may have meant by a path, the nearest."""
    known = self.keys()
    every = [*self.top, *(f"{s}.{k}" for s in known for k in known[s])]
    section, _, key = path.rpartition(".")
    if path in every:
      return [path]
    # The right key in the wrong section, or in none.
    same = [full for full in every if full.rpartition(".")[2] == key]
    if same and (section not in known or len(same) == 1):
      return same[:3]
    if section and section not in known:
      found = difflib.get_close_matches(section, known, n=1)
      return self.nearest(f"{found[0]}.{key}") if found else []
    # "lr" for learning_rate: initials are nearer than spelling can tell.
    near = []
    for full in every:
      place, _, name = full.rpartition(".")
      initials = "".join(word[0] for word in name.split("_"))
      here = place == section and key.startswith(initials)
      if "_" in name and (here or not section and key == initials):
        near.append(full)
    near += difflib.get_close_matches(path, every, n=1, cutoff=0.6)
    if not near and not section:
      names = sorted({full.rpartition(".")[2] for full in every})
      found = difflib.get_close_matches(key, names, n=1, cutoff=0.75)
      near = [x for x in every if found and x.rpartition(".")[2] == found[0]]
    return near[:1]

  def _unknown_key(self, path: str) -> UserError:
    if path in self._retired:
      return UserError(f"config.{path} is gone: {self._retired[path]}.")
    known = self.keys()
    section, _, key = path.rpartition(".")
    valid = known.get(section, self.top if not section else {})
    near = self.nearest(path)
    names = ", ".join(sorted(valid) or sorted(known))
    kind = f"keys of {section or 'the top level'}" if valid else "sections"
    meant = " or ".join(f"config.{full}" for full in near)
    hint = f" Did you mean {meant}?" if near else ""
    return UserError(f"unknown key config.{path}.{hint} The {kind}: {names}.")


def to_dict(config: ConfigDict) -> dict[str, Any]:
  """The config as JSON gives it back: plain dicts, tuples as lists."""
  return json.loads(json.dumps(config.to_dict()))


def listing(config: ConfigDict) -> str:
  """Every key with its value, one line each, as overrides are written."""
  return "\n".join(
    f"--config.{path}={value}" for path, value in _leaves(config)
  )


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
