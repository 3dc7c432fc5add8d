"""The recipes that the files of configs/ claim, as data: recipes.json.

A recipe is a list of facts, each with its source. Facts have the names of
config keys, or those that tests/config_recipes_test.py takes from what is built
("projector.widths"). A claim names the recipes of one variant of a config file
and every fact in which it deviates, in the words of the file's docstring. That
test holds all configs to their claims.
"""

import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any, NamedTuple


class Fact(NamedTuple):
  """One number, or word, of a recipe.

  Attributes:
    value: of JSON's types; lists stand for tuples.
    source: the paper's section, or the file of its code, that says so.
  """

  value: Any
  source: str


class Recipe(NamedTuple):
  """How somebody trained.

  Attributes:
    title: method, network and data set.
    facts: {key: Fact}.
  """

  title: str
  facts: Mapping[str, Fact]


class Claim(NamedTuple):
  """What one variant of a config file says that it is.

  Attributes:
    recipes: names of recipes, whose facts it has together.
    deviations: {key of a fact: how the variant differs}.
    other: what differs and is no fact of the recipes.
  """

  recipes: tuple[str, ...]
  deviations: Mapping[str, str]
  other: tuple[str, ...]


@functools.cache
def _read() -> Mapping[str, Any]:
  path = importlib.resources.files("cassle_jax") / "config" / "recipes.json"
  return json.loads(path.read_text())


def recipes() -> dict[str, Recipe]:
  """All recipes by name."""
  return {
    name: Recipe(
      recipe["title"],
      {
        key: Fact(value, part["source"])
        for part in recipe["parts"]
        for key, value in part["facts"].items()
      },
    )
    for name, recipe in _read()["recipes"].items()
  }


def claims() -> dict[str, dict[str, Claim]]:
  """{config file: {variant: Claim}}; a file that claims none is not there."""
  return {
    file: {
      name: Claim(
        tuple(claim["recipes"]), claim["deviations"], tuple(claim["other"])
      )
      for name, claim in variants.items()
    }
    for file, variants in _read()["claims"].items()
  }
