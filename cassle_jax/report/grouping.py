"""Which runs repeat each other, and which may be compared.

Runs that differ in their seed alone are one group. Groups of the same method,
backbone, pictures and length of training are one block, whose rows of a table
and bars stand side by side; where they differ in more than their awareness, the
settings are part of their names. A difference is taken of groups that differ in
awareness alone, and of results that were measured alike.
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
# What belongs to the awareness: how omega is told, and to what.
_OF_AWARENESS = (
  "awareness",
  "model.conditioning",
  "model.omega",
  "model.gamma_depth",
  "model.gamma_width",
  "model.hypernetwork_norm",
  "model.amortised_rank",
  "model.prompt_mlps",
)
# So many settings are named where groups differ in more than their awareness.
_NAMED = 2
# What a setting is that a result does not name.
_USUAL = frozenset({"default"})


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
  everything: dict[Block, list[Run]] = {}
  for (block, _), members in kinds.items():
    everything.setdefault(block, []).extend(members)
  for (block, awareness), members in sorted(kinds.items(), key=_order):
    apart_by = _apart(everything[block], but=_OF_AWARENESS)
    for variant, repeated in _variants(members, apart_by).items():
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
  """The vanilla group that differs from a group in awareness alone, or None."""
  for other in _vanillas(one, groups):
    if not differing(one, other):
      return other
  return None


def nearest(
  one: Group, groups: Iterable[Group]
) -> tuple[Group, list[str]] | None:
  """The vanilla group that differs in the fewest settings, and in which.

  None where there is no other vanilla group in the block.
  """
  found = [(other, differing(one, other)) for other in _vanillas(one, groups)]
  return min(found, key=lambda pair: len(pair[1]), default=None)


def _vanillas(one: Group, groups: Iterable[Group]) -> list[Group]:
  if one.awareness == "vanilla":
    return []
  return [x for x in groups if x[:2] == (one.block, "vanilla")]


def differing(one: Group, other: Group) -> list[str]:
  """Settings beside the awareness in which groups differ, with both values."""
  first, second = one.runs[0].settings, other.runs[0].settings
  keys = _apart([one.runs[0], other.runs[0]], but=_OF_AWARENESS)
  return [
    f"{key} {_shown(first.get(key))} (vanilla {_shown(second.get(key))})"
    for key in keys
  ]


def unlike(first: Result, second: Result) -> list[str]:
  """In what the measurement of two results differs, with both values."""
  facts = [measured(each) for each in (first, second)]
  keys = sorted(facts[0].keys() | facts[1].keys())
  return [
    f"{key} {_shown(facts[0].get(key))} (vanilla {_shown(facts[1].get(key))})"
    for key in keys
    if facts[0].get(key) != facts[1].get(key)
  ]


def measured(result: Result) -> dict[str, Any]:
  """What a result depends on beside the run: step, settings, pictures."""
  told = {"step": result.step} | dict(result.how)
  return {k: v for k, v in told.items() if not k.startswith("descriptor")}


def measurements(groups: Sequence[Group], task: str) -> dict[int, str]:
  """What tells the measurements of a task's groups apart, in words.

  Groups of one block are compared; "" where they were all measured alike. By
  the groups' `id`.
  """
  words = {}
  for members in blocks(groups).values():
    facts = {}
    for one in members:
      found = facts.setdefault(id(one), {})
      for run in one.runs:
        for (of, _), result in run.results.items():
          for key, value in measured(result).items() if of == task else ():
            found.setdefault(key, set()).add(_shown(value))
    keys = sorted({key for found in facts.values() for key in found})
    apart_by = [
      key
      for key in keys
      if len({frozenset(x.get(key, _USUAL)) for x in facts.values() if x}) > 1
      # Sets differ in their pictures, and groups in the sets they have.
      and not key.startswith("protocol.")
    ]
    for one in members:
      found = facts[id(one)]
      told = [
        f"{key} {'/'.join(sorted(found.get(key, _USUAL)))}" for key in apart_by
      ]
      words[id(one)] = ", ".join(told)
  return words


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


def _apart(runs: Sequence[Run], *, but: Sequence[str] = ()) -> list[str]:
  """The settings in which runs differ, but for those that are free."""
  free = (*_FREE, *but)
  keys = sorted({key for run in runs for key in run.settings})
  return [
    key
    for key in keys
    if not any(key == name or key.startswith(f"{name}.") for name in free)
    and len({repr(run.settings.get(key)) for run in runs}) > 1
  ]


def _variants(
  runs: Sequence[Run], others: Sequence[str]
) -> dict[str, list[Run]]:
  """Runs of one awareness by the settings in which they differ, in words.

  `others` are those in which the runs of the whole block differ.
  """
  # Own differences first: they tell the rows of an awareness apart.
  own = _apart(runs)
  differing = [*own, *(key for key in others if key not in own)]
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
