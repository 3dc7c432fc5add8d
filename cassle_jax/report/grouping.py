"""Which runs repeat each other, and which may be compared.

Runs that differ in their seed alone are one group. Groups of the same method,
backbone, pictures and length of training are one block, in which rows of a
table may be compared and bars stand side by side.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from cassle_jax.awareness import AWARENESS
from cassle_jax.methods import METHODS
from cassle_jax.report.results import Result
from cassle_jax.report.runs import Run, apart

# What may differ between repetitions: it has no say in what is learned.
_FREE = (
  "seed",
  "published",
  "checkpoint",
  "compilation_cache",
  "evaluation",
  "guard",
  "log_every",
  "mesh",
  "model.attention",
  "model.remat",
  "data.allow_change",
  "data.data_dir",
  "data.prefetch",
  "data.resident_bytes",
  "data.threads",
  "data.workers",
)
# So many settings are named where groups differ in more than their awareness.
_NAMED = 2


def headline(result: Result) -> float:
  """The number that a result is known by."""
  return result.value


class Block(NamedTuple):
  """What comparable groups share.

  Attributes:
    method: as in `config.method.name`.
    backbone: as in `config.model.backbone`.
    training: pictures, their size and the length of training, in words.
  """

  method: str
  backbone: str
  training: str


class Group(NamedTuple):
  """Repetitions.

  Attributes:
    block: what it is comparable in.
    awareness: as in `config.awareness.name`; "looc++" and "ai, learned" where
      it is not the backbone's features that are measured.
    variant: the settings that set it apart from groups of the same block and
      awareness; "" where there are none.
    runs: by seed, each seed once.
  """

  block: Block
  awareness: str
  variant: str
  runs: tuple[Run, ...]

  @property
  def represented(self) -> bool:
    """Whether it is something else than the backbone's features."""
    return any(run.representation != "backbone" for run in self.runs)

  def of(self, task: str, name: str) -> list[tuple[int, Any]]:
    """(seed, Result) of the runs that have one."""
    key = (task, name)
    return [(r.seed, r.results[key]) for r in self.runs if key in r.results]

  def data(self, task: str, name: str) -> list[Any]:
    """`Result.data` of the runs that have one."""
    return [result.data for _, result in self.of(task, name)]

  def values(
    self,
    task: str,
    name: str,
    read: Callable[[Result], float] = headline,
  ) -> dict[int, float]:
    """{seed: number} of the runs that have one."""
    found = {seed: read(result) for seed, result in self.of(task, name)}
    return {seed: x for seed, x in found.items() if not math.isnan(x)}


def group(
  runs: Sequence[Run], warn: Callable[[str], None]
) -> tuple[Group, ...]:
  """Groups runs; blocks and awareness in the order of the method's tables.

  Args:
    runs: in any order.
    warn: is told of runs that repeat a seed, which are left out, and of groups
      whose results are of different steps.
  """
  kinds: dict[tuple[Block, str], list[Run]] = {}
  for whole in runs:
    for run in apart(whole):
      kinds.setdefault((_block(run), run.awareness), []).append(run)
  groups = []
  for (block, awareness), members in sorted(kinds.items(), key=_order):
    for variant, repeated in _variants(members).items():
      by_seed: dict[int, Run] = {}
      for run in repeated:
        first = by_seed.setdefault(run.seed, run)
        if first is not run and run.representation == "backbone":
          warn(
            f"{run.folder} repeats seed {run.seed} of {first.folder} and is"
            " left out"
          )
      ordered = tuple(by_seed[seed] for seed in sorted(by_seed))
      one = Group(block, awareness, variant, ordered)
      _check_steps(one, warn)
      groups.append(one)
  return tuple(groups)


def blocks(groups: Iterable[Group]) -> dict[Block, list[Group]]:
  """Groups by block, in their order."""
  found: dict[Block, list[Group]] = {}
  for one in groups:
    found.setdefault(one.block, []).append(one)
  return found


def baseline(one: Group, groups: Iterable[Group]) -> Group | None:
  """The vanilla group that a group may be held against, or None."""
  if one.awareness == "vanilla":
    return None
  found = [x for x in groups if x[:2] == (one.block, "vanilla")]
  if len(found) > 1:
    found = [x for x in found if x.variant == one.variant]
  return found[0] if found else None


def _block(run: Run) -> Block:
  get = run.settings.get
  source, size = _shown(get("data.source")), _shown(get("data.image_size"))
  unit = "epochs" if get("steps") is None else "steps"
  training = f"{source}, {size} px, {_shown(get(unit))} {unit}"
  return Block(run.method, run.backbone, training)


def _order(item: tuple[tuple[Block, str], Any]) -> tuple:
  (block, awareness), _ = item
  return (
    _place(block.method, METHODS),
    block.backbone,
    block.training,
    # LooC++ after LooC.
    _place(awareness.partition(",")[0].removesuffix("++"), AWARENESS),
    awareness,
  )


def _place(name: str, known: Iterable[str]) -> tuple[int, str]:
  names = list(known)
  return (names.index(name) if name in names else len(names), name)


def _variants(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Runs by the settings in which they differ, in words."""
  keys = sorted({key for run in runs for key in run.settings})
  differing = [
    key
    for key in keys
    if not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    and len({repr(run.settings.get(key)) for run in runs}) > 1
  ]
  found: dict[tuple[str, ...], list[Run]] = {}
  for run in runs:
    values = tuple(_shown(run.settings.get(key)) for key in differing)
    found.setdefault(values, []).append(run)
  named: dict[str, list[Run]] = {}
  for values, members in sorted(found.items()):
    pairs = zip(differing[:_NAMED], values, strict=False)
    text = ", ".join(f"{_key(key)} {value}" for key, value in pairs)
    if len(differing) > _NAMED:
      text += f" and {len(differing) - _NAMED} more"
    words, number = text, 1
    while words in named:
      number += 1
      words = f"{text} ({number})"
    named[words] = members
  return named


def _key(path: str) -> str:
  """A setting without its section, where that says nothing more."""
  section, _, key = path.rpartition(".")
  return path if section in ("method", "optim", "awareness") else key


def _shown(value: Any) -> str:
  if isinstance(value, list | tuple):
    return "+".join(str(item) for item in value) or "none"
  if isinstance(value, float):
    return f"{value:g}"
  return "default" if value is None else str(value)


def _check_steps(one: Group, warn: Callable[[str], None]) -> None:
  steps: dict[int, list[str]] = {}
  for run in one.runs:
    for result in run.results.values():
      steps.setdefault(result.step, []).append(result.path)
  if len(steps) > 1:
    shown = "; ".join(
      f"step {step}: {paths[0]}" + (" and others" if len(paths) > 1 else "")
      for step, paths in sorted(steps.items())
    )
    warn(f"results of different steps are put together: {shown}")
