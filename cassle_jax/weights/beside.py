"""What our exports say of their weights, in a file beside them.

Shapes tell neither normalisation nor heads nor fields of omega; with
`cassle_jax.json` an export is imported again without a flag.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from cassle_jax.errors import UserError

NAME = "cassle_jax.json"
FORMAT = 1
_KINDS = {
  "files": list,
  "image_size": int,
  "mean": list,
  "std": list,
  "method": str,
  "heads": int,
  "pool": str,
  "omega": list,
  "conditioning": str,
  "augment": dict,
}


def packed(files: list[str], values: Mapping[str, Any]) -> dict[str, Any]:
  """The content of NAME.

  Args:
    files: names of the weights files that it speaks of.
    values: of keys of `_KINDS`: `image_size` in px; `mean` and `std` of colours
      in [0, 1]; `method` that it was trained with; `heads` and `pool` of a ViT;
      `omega` and `conditioning` of a conditioned projector; `augment`, keys of
      that config section.
  """
  return {"format": FORMAT, "files": files, **values}


def read(path: str) -> dict[str, Any]:
  """What is said of a weights file; {} where nothing is.

  Raises:
    UserError: the file beside it is damaged, or of a newer version.
  """
  name = os.path.join(os.path.dirname(path), NAME)
  try:
    with open(name, encoding="utf-8") as file:
      found = json.load(file)
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, RecursionError) as error:
    raise _unreadable(name, "is damaged") from error
  if not isinstance(found, dict):
    raise _unreadable(name, "is damaged")
  if found.get("format") != FORMAT:
    raise _unreadable(name, f"is not of format {FORMAT}")
  for key, kind in _KINDS.items():
    if key in found and type(found[key]) is not kind:
      raise _unreadable(name, f"has {key} {found[key]!r:.40}")
  for key in ("mean", "std"):
    numbers = found.get(key, [0.5, 0.5, 0.5])
    if len(numbers) != 3 or {type(x) for x in numbers} - {int, float}:
      raise _unreadable(name, f"has {key} {found[key]!r:.40}")
  if not all(isinstance(field, str) for field in found.get("omega", [])):
    raise _unreadable(name, f"has omega {found['omega']!r:.40}")
  # Other weights may have been put beside it.
  if os.path.basename(path) not in found.get("files", []):
    return {}
  return found


def _unreadable(name: str, what: str) -> UserError:
  return UserError(
    f"{name} {what}; export again, or delete it and give what it said by flags."
  )
