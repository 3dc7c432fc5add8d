"""What the folders in a data set's folder are: splits, classes, or neither.

Splits go by customary names, in any case: train, Training, train2017,
cars_train beside cars_test. Whatever would otherwise become a class by accident
(held-out pictures trained on, k-NN at 100 %) is recognised here or refused.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from cassle_jax.errors import UserError

# Role -> the words for it.
ROLES = {
  "train": ("train", "training", "trn", "trainval", "labeled", "labelled"),
  "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
  "test": ("test", "testing", "tst", "query", "gallery", "holdout", "heldout"),
  "unlabeled": ("unlabeled", "unlabelled", "unsup", "unsupervised", "extra"),
}
_ROLE_OF = {word: role for role, words in ROLES.items() for word in words}
# A word, "set" or "data" behind it, a year or a number.
_NAME = re.compile(r"([a-z]+?)[-_ ]?(?:set|data|split)?[-_ ]?[0-9]{0,4}")
# These are classes or folders of other things as often as they are splits.
_WEAK = ("labeled", "labelled", "query", "gallery", "extra", "dev", "eval")


class Layout(NamedTuple):
  """What was understood of a folder.

  Attributes:
    splits: {folder: role} of the splits, () for a tree of classes.
    aside: folders that are neither, where there are splits.
  """

  splits: dict[str, str]
  aside: tuple[str, ...] = ()


def role_of(name: str) -> str | None:
  """The role of a split's customary name, None for any other name."""
  match = _NAME.fullmatch(name.lower())
  return _ROLE_OF.get(match[1]) if match else None


def roles(names: Iterable[str]) -> dict[str, str]:
  """{name: role} of the names that look like splits among names.

  Beside customary names these are pairs such as cars_train and cars_test, which
  differ in a split's word alone.
  """
  names = list(names)
  found = {name: role for name in names if (role := role_of(name)) is not None}
  pairs: dict[tuple[str, ...], dict[str, str]] = {}
  for name in names:
    words = re.split(r"[-_ .]", name.lower())
    for place, word in enumerate(words):
      role = role_of(word) if word not in _WEAK else None
      if role and len(words) > 1:
        rest = (*words[:place], "", *words[place + 1 :])
        pairs.setdefault(rest, {})[name] = role
  for each in pairs.values():
    if "train" in each.values() and len(set(each.values())) > 1:
      found |= each
  known = set(found.values())
  strong = {role for name, role in found.items() if name.lower() not in _WEAK}
  alone = len(found) == 1 or known == {"train"}
  halves = known == {"train", "unlabeled"}  # labeled beside unlabeled.
  return (
    found if alone or halves or strong & {"train"} or len(strong) > 1 else {}
  )


def understand(
  path: str, names: Sequence[str], holds: Callable[[str], int]
) -> Layout:
  """Tells splits from classes.

  Args:
    path: the data set's folder, for the message.
    names: the folders in it.
    holds: a folder's name -> 0 without pictures, 1 with pictures directly
      inside alone, 2 with pictures in folders of its own.

  Returns:
    The splits. A folder whose name is a split's is a class where the folders
    beside it are classes: bus, car and train, each with its pictures.

  Raises:
    UserError: it could be both.
  """
  found = {n: r for n, r in roles(names).items() if holds(n)}
  others = [name for name in names if name not in found]
  filled = [name for name in others if holds(name)]
  if not found:
    return Layout({})
  several = len(set(found.values())) > 1
  deep = any(holds(name) == 2 for name in found)
  if filled and not several and not deep:
    return Layout({})
  if "train" not in found.values() and filled and not several:
    return Layout({})
  if len(found) == 1 and not filled and "train" not in found.values():
    (name,) = found
    raise UserError(
      f"folder:{path} holds the split {name!r} alone; give --config.data.source"
      f"=folder:{os.path.join(path, name)} to train on it."
    )
  return Layout(found, tuple(others))


def check_classes(
  path: str, names: Iterable[str], below: Callable[[str], Sequence[str]]
) -> None:
  """Refuses classes that hold splits: images/train, cat/val.

  Args:
    path: the data set's folder.
    names: the classes.
    below: a class -> the folders in it.

  Raises:
    UserError: one does; the line says what to give instead.
  """
  for name in names:
    inner = roles(below(name))
    if "train" in inner.values() and len(set(inner.values())) > 1:
      raise UserError(
        f"folder:{path}: the class folder {name!r} holds splits"
        f" ({', '.join(inner)}), so held-out pictures would be trained on;"
        f" give folder:{os.path.join(path, name)} if that is the data set, or"
        " sort the pictures into PATH/train/CLASS and PATH/val/CLASS (a"
        f" data.class_list that names {name} takes all of them as one class)."
      )


def choose(path: str, split: str, splits: dict[str, str]) -> str | None:
  """The folder of a split: that of the very name, or of its role.

  Args:
    path: the data set's folder, for the message.
    split: as in `data.split`.
    splits: {folder: role}.

  Returns:
    None where there is none.

  Raises:
    UserError: several folders have that role.
  """
  if split in splits:
    return split
  role = role_of(split)
  fit = [name for name, r in splits.items() if r == role and role is not None]
  # Not `valid` for `val2017` where there is a nearer one.
  near = [name for name in fit if name.lower() == split.lower()]
  fit = near if len(near) == 1 else fit
  if len(fit) > 1:
    raise UserError(
      f"folder:{path} has several folders for the split {split!r}:"
      f" {', '.join(fit)}; name one, e.g. --config.data.split={fit[0]}."
    )
  return fit[0] if fit else None
