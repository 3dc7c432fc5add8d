"""The documents that follow from the code have a line for everything."""

import importlib
import inspect
import os
import sys

import pytest

from cassle_jax import config as config_lib
from cassle_jax.config import docstrings
from cassle_jax.evaluate import config as evaluation_config

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="module")
def pages():
  sys.path.insert(0, os.path.join(ROOT, "docs"))
  yield importlib.import_module("pages")
  sys.path.remove(os.path.join(ROOT, "docs"))


@pytest.mark.parametrize(
  "schema", [config_lib.TRAINING, evaluation_config.EVALUATION]
)
def test_every_key_says_what_it_means_in_one_line(schema):
  meanings = schema.meanings()
  for section, keys in {"": schema.top, **schema.keys()}.items():
    for key in keys:
      text = meanings[section].get(key, "")
      assert text.strip() and "\n" not in text, f"{section}.{key}: {text!r}"
      # A reader of the page of keys has no source to follow this into.
      assert not text.startswith(("see `", "of `")), f"{section}.{key}: {text}"


def test_the_page_of_keys_has_every_key(pages):
  text = pages.keys()
  for schema in (config_lib.TRAINING, evaluation_config.EVALUATION):
    for section, keys in schema.keys().items():
      _, found = text.split(f"### `{section}`", 1)
      found = found.split("\n#")[0]
      assert all(f"| `{key}` |" in found for key in keys), section


def test_every_public_name_has_a_docstring_in_the_reference(pages):
  text = pages.api()
  for room in pages.ROOMS:
    module = importlib.import_module(f"cassle_jax.{room}")
    assert pages.public(module), room
    for name in pages.public(module):
      value = getattr(module, name)
      if inspect.isfunction(value) or inspect.isclass(value):
        assert f":: {module.__name__}.{name}\n" in text
        assert inspect.getdoc(value), f"{room}.{name}"


def test_arguments_are_taken_out_of_google_docstrings():
  class Base:
    """A base.

    Attributes:
      a: one.
    """

  class Derived(Base):
    """More.

    Attributes:
      b, c: two, that go
        on: here.

    d: not in a section.
    """

    def __init__(self):
      """Makes it.

      Args:
        e (int): four.

      Raises:
        f: never.
      """

  assert docstrings.arguments(Derived) == {
    "a": "one.",
    "b": "two, that go on: here.",
    "c": "two, that go on: here.",
    "e": "four.",
  }
