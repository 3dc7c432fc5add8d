"""The pages that follow from the code: keys, operations, recipes, the API."""

import base64
import importlib
import inspect
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from cassle_jax import augment
from cassle_jax import config as config_lib
from cassle_jax.config import recipes, values
from cassle_jax.config.schema import Schema
from cassle_jax.evaluate import config as evaluation_config

# The rooms that forks import, in the order in which data flows.
ROOMS = (
  "augment",
  "augment.omega",
  "models",
  "methods",
  "awareness",
  "step",
  "optim",
  "data",
  "evaluation",
  "evaluate",
  "weights.reader",
  "runs.published",
)


def write(folder: str) -> None:
  """Writes `generated/*.md` below the folder of the documents."""
  out = os.path.join(folder, "generated")
  shutil.rmtree(out, ignore_errors=True)
  os.makedirs(out)
  made = {
    "keys": keys(),
    "operations": operations(),
    "recipes": published_recipes(),
    "api": api(),
  }
  for name, text in made.items():
    with open(os.path.join(out, f"{name}.md"), "w") as file:
      file.write(text)
  clone = os.path.dirname(folder)
  for name in ("CONTRIBUTING", "CHANGELOG", "launch/grid", "launch/preflight"):
    shutil.copy(os.path.join(clone, f"{name}.md"), out)
  notebooks = os.path.join(clone, "launch", "colab")
  for name in sorted(os.listdir(notebooks)):
    if name.endswith(".ipynb"):
      _notebook(os.path.join(notebooks, name), out)


def _notebook(path: str, out: str) -> None:
  """Copies a notebook; pictures that cells carry become files beside it."""
  with open(path) as file:
    notebook = json.load(file)
  for cell in notebook["cells"]:
    for name, kinds in cell.pop("attachments", {}).items():
      with open(os.path.join(out, name), "wb") as file:
        file.write(base64.b64decode(next(iter(kinds.values()))))
      cell["source"] = [x.replace("attachment:", "") for x in cell["source"]]
  with open(os.path.join(out, os.path.basename(path)), "w") as file:
    json.dump(notebook, file)


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
  """A Markdown table; bars within cells are escaped."""
  head = tuple(head)
  lines = [head, ("---",) * len(head), *rows]
  return "\n".join(
    "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"
    for cells in lines
  )


def keys() -> str:
  """Every key of every section: type, default, range and meaning."""
  text = [
    "# Every config key",
    "A key is set in a config file (`config.optim.learning_rate = 0.1`) or on"
    " the command line (`--config.optim.learning_rate=0.1`). None as a default"
    " stands for what the preset, the method or the backbone has;"
    " `--print_config` shows what a config ends up with.",
    "## Training: `cassle train`, `python -m cassle_jax.main`",
    *_sections(config_lib.TRAINING),
    "## Evaluation: `cassle evaluate`, `python -m cassle_jax.evaluate`",
    *_sections(evaluation_config.EVALUATION),
  ]
  return "\n\n".join(text) + "\n"


def _sections(schema: Schema) -> Iterable[str]:
  meanings, rules = schema.meanings(), schema.rules()
  for section, found in {"": schema.top, **schema.keys()}.items():
    yield f"### `{section}`" if section else "### At the top"
    # Two columns, which a phone has room for.
    yield table(
      ("key", "meaning; type, default, what is valid"),
      (
        (
          f"`{key}`",
          f"{meanings[section][key]}<br>*{values.describe(hint)}*, default"
          f" `{default!r}`{_valid(rules[section].get(key))}",
        )
        for key, (hint, default) in found.items()
      ),
    )


def _valid(rule: Any) -> str:
  if rule is None:
    return ""
  if hasattr(rule, "valid"):
    return "; " + ", ".join(f"`{word}`" for word in rule.valid)
  return f"; {rule.words()}"


def operations() -> str:
  """The operations in the order of the pipeline, and their fields of omega."""
  rows = (
    (
      f"`{name}`",
      record.title,
      ", ".join(f"`{f.name}` ({f.size})" for f in record.fields) or "none",
      ", ".join(f"`{key}`" for key in record.settings.keys()),
    )
    for name, record in augment.OPERATIONS.items()
  )
  head = ("operation", "what it does", "omega: field (size)", "config keys")
  return (
    "# Operations and omega\n\nIn the order in which a view meets them.\n\n"
    + table(head, rows)
    + "\n"
  )


def published_recipes() -> str:
  """Every recipe that a config claims, fact by fact with its source."""
  text = [
    "# Published recipes",
    "What the configs hold on to, and where each figure comes from. A test"
    " compares every config with this table; how a config differs stands in"
    " its docstring.",
  ]
  for name, recipe in recipes.recipes().items():
    text += [f"## {recipe.title}", f"`{name}`"]
    text.append(
      table(
        ("key", "value", "source"),
        (
          (f"`{key}`", f"`{_plain(fact.value)}`", fact.source)
          for key, fact in recipe.facts.items()
        ),
      )
    )
  return "\n\n".join(text) + "\n"


def _plain(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _plain(item) for key, item in value.items()}
  return value


def public(module: Any) -> list[str]:
  """The names that a room offers: `__all__`, or what it defines itself."""
  if hasattr(module, "__all__"):
    return sorted(module.__all__)
  return sorted(
    name
    for name, value in vars(module).items()
    if not name.startswith("_")
    and (inspect.isfunction(value) or inspect.isclass(value))
    and value.__module__.startswith("cassle_jax")
  )


def api() -> str:
  """Every public name of the rooms that forks import."""
  text = ["# The API"]
  for room in ROOMS:
    module = importlib.import_module(f"cassle_jax.{room}")
    text += [f"## `{module.__name__}`", (module.__doc__ or "").strip()]
    for name in public(module):
      value = getattr(module, name)
      if inspect.isclass(value) or inspect.isfunction(value):
        kind = "class" if inspect.isclass(value) else "function"
        text.append(
          "```{eval-rst}\n"
          f".. auto{kind}:: {module.__name__}.{name}\n"
          + ("   :members:\n" if kind == "class" else "")
          + "```"
        )
  return "\n\n".join(text) + "\n"
