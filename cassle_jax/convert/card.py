"""The README.md of an exported folder: a model card, as hubs show it."""

import glob
import json
import os
from collections.abc import Mapping
from typing import Any

from cassle_jax import __version__
from cassle_jax.convert.states import Export
from cassle_jax.data import decode
from cassle_jax.report import words
from cassle_jax.runs import folder as run_folder
from cassle_jax.training.trained import Trained

NO_LICENSE = "other"


def text(
  run: Trained,
  export: Export,
  *,
  workdir: str,
  format: str,
  name: str,
  image_size: int,
  license_name: str,
) -> str:
  """The card.

  Args:
    run: from `trained.open_run`.
    export: what is written.
    workdir: the run's folder, whose results are shown.
    format: of the export.
    name: of the exported folder.
    image_size: side of the pictures in pixels.
    license_name: of the weights, "other" where nobody said.
  """
  config, policy = run.config, run.setup.policies[0]
  method = words.method(config.method.name)
  aware = words.awareness(config.awareness.name)
  head = [
    "---",
    f"license: {json.dumps(license_name)}",
    "pipeline_tag: image-feature-extraction",
    f"library_name: {'timm' if format == 'timm' else 'cassle_jax'}",
    "tags: [self-supervised-learning, image-feature-extraction, cassle]",
    "---",
    "",
    f"# {_escaped(name)}",
    "",
    f"{config.model.backbone}, pretrained without labels by {method}"
    f" ({aware}), step {run.step:,}, with"
    f" [cassle_jax](https://arxiv.org/abs/2306.06082) {__version__}.",
    "",
    "| | |",
    "|---|---|",
  ]
  facts = {
    "format": ", ".join(filter(None, (format, export.architecture))),
    "features": f"{run.setup.networks.features:,}",
    "pictures": f"{image_size} x {image_size} px, RGB: short side to"
    f" {decode.short_side_of(image_size)} px (bicubic), then the middle; one"
    " of that very size as it is",
    "mean, std": f"{_numbers(policy.mean)}; {_numbers(policy.std)}",
    "trained on": f"{config.data.source} ({config.data.split}),"
    f" {config.batch_size:,} a step",
    "projector told": ", ".join(run.setup.fields)
    if config.model.conditioning != "none"
    else "nothing",
    "licence": license_name
    if license_name != NO_LICENSE
    else "not stated by who exported it",
  }
  head += [f"| {key} | {_escaped(value)} |" for key, value in facts.items()]
  head += ["", "## Use", "", "```" + _language(format)]
  head += [export.code.replace("FOLDER", name), "```", ""]
  head += [f"{note}\n" for note in export.notes]
  return "\n".join([*head, *_figures(workdir, run.step), *_config(run)])


def _figures(workdir: str, step: int) -> list[str]:
  """What was measured of this step, a row for each result."""
  rows = []
  pattern = os.path.join(glob.escape(workdir), "eval", "*", "*.json")
  for path in sorted(glob.glob(pattern)):
    try:
      with open(path) as file:
        record = json.load(file)
      if record["step"] != step:
        continue
      digits = 1 if record["unit"] == "%" else 3
      value = f"{float(record['value']):.{digits}f}"
      if record.get("interval") is not None:
        value += f" ± {float(record['interval']):.{digits}f}"
      name = os.path.basename(path).removesuffix(".json")
      cells = record["task"], words.dataset(name), record["metric"]
      cells = [_escaped(cell) for cell in (*cells, f"{value} {record['unit']}")]
    except (OSError, ValueError, TypeError, KeyError):
      continue  # A report names what is damaged.
    rows.append(f"| {' | '.join(cell.strip() for cell in cells)} |")
  if not rows:
    return [
      "## Figures",
      "",
      "None were measured; `python -m cassle_jax.evaluate` does.",
      "",
    ]
  head = ["| task | data | metric | value |", "|---|---|---|---|"]
  return ["## Figures", "", *head, *rows, ""]


def _config(run: Trained) -> list[str]:
  """The keys of the config that are set."""
  values: Mapping[str, Any] = run_folder.dotted(run.config.to_dict())
  lines = [
    f"{key} = {json.dumps(value)}"
    for key, value in sorted(values.items())
    if value is not None
  ]
  begin = ["## Config", "", "<details><summary>every key</summary>", "", "```"]
  return [*begin, *lines, "```", "", "</details>", ""]


def _language(format: str) -> str:
  return "yaml" if format == "detectron2" else "python"


def _numbers(numbers: Any) -> str:
  return ", ".join(f"{x:g}" for x in numbers)


def _escaped(text: Any) -> str:
  """Text from data as one cell of Markdown, in which nothing is markup."""
  shown = " ".join(str(text).split())
  for sign in "\\|`*_<>[]":
    shown = shown.replace(sign, f"\\{sign}")
  return shown
