"""Files that hold many pictures each: which ones a pattern means, and a split.

A pattern is a file, a folder, or a path with wildcards and braces such as
/data/imagenet-train-{0000..1023}.tar. A split is told by the words of a file's
path, as the Hugging Face hub does it: data/train-00000-of-00294.parquet,
default/validation/0000.parquet. Files without such words are the split "train".
"""

import glob
import os
import re

from absl import logging

from cassle_jax.data import layout
from cassle_jax.errors import UserError, unknown

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand(pattern: str) -> list[str]:
  """Writes out {a,b} and {000..123}: all paths that a pattern stands for."""
  match = _BRACES.search(pattern)
  if match is None:
    return [pattern]
  head, tail = pattern[: match.start()], pattern[match.end() :]
  numbers = _RANGE.fullmatch(match[1])
  words = match[1].split(",")
  if numbers:
    first, last = map(int, numbers.groups())
    words = [f"{n:0{len(numbers[1])}}" for n in range(first, last + 1)]
  return [each for word in words for each in expand(f"{head}{word}{tail}")]


def splits(kind: str, pattern: str, ending: str) -> dict[str, list[str]]:
  """Split -> its files, sorted.

  Args:
    kind: of the source, for messages, e.g. "wds".
    pattern: see above; in a folder all files of the ending count, at any depth.
    ending: ".tar" or ".parquet".

  Raises:
    UserError: no such files, or one of several that braces name is missing.
  """
  if os.path.isdir(pattern):
    root = pattern
    files = glob.glob(os.path.join(glob.escape(root), "**", f"*{ending}"),
                      recursive=True)  # fmt: skip
  else:
    root = os.path.dirname(re.split(r"[*?\[{]", pattern)[0])
    files = []
    for each in expand(pattern):
      found = glob.glob(each, recursive=True)
      if not found:
        raise UserError(f"{kind}:{pattern}: there is no file {each}.")
      files.extend(found)
  if not files:
    raise UserError(f"{kind}:{pattern} holds no file ending in {ending}.")
  result: dict[str, list[str]] = {}
  for path in sorted(set(files)):
    result.setdefault(_split(os.path.relpath(path, root or ".")), []).append(
      path
    )
  nameless = result.pop("", [])
  if nameless and result:
    logging.warning(
      "%s:%s: left out %d files whose names tell no split, the first %s.",
      kind, pattern, len(nameless), nameless[0],
    )  # fmt: skip
  return result or {"train": nameless}


def of_split(kind: str, pattern: str, ending: str, split: str) -> list[str]:
  """The files of one split.

  Raises:
    UserError: as `splits`, or there is no such split.
  """
  found = splits(kind, pattern, ending)
  if split not in found:
    raise unknown(f"split of {kind}:{pattern}", split, found)
  return found[split]


def _split(path: str) -> str:
  """The word of a path that names a split, the last one; "" without."""
  words = re.split(r"[^A-Za-z]+", os.path.splitext(path)[0].lower())
  named = [word for word in words if layout.role_of(word)]
  return named[-1] if named else ""
