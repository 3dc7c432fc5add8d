"""What every number and word of a config may be, told together at start."""

import collections.abc
import math
import typing

import pytest

from cassle_jax import config as config_lib
from cassle_jax import errors, methods
from cassle_jax.errors import Range, UserError, Words
from cassle_jax.evaluate import command
from cassle_jax.evaluate import config as evaluation_config
from cassle_jax.methods import vicreg

SCHEMAS = {"train": config_lib.TRAINING, "eval": evaluation_config.EVALUATION}


def members(hint):
  """All types that an annotation mentions."""
  yield hint
  for each in typing.get_args(hint):
    yield from members(each)


def numbers(schema):
  """(section, key, annotation, default) of every key that holds numbers."""
  every = {"": schema.top, **schema.keys()}
  for section, keys in every.items():
    for key, (hint, default) in keys.items():
      held = set(map(str, members(hint)))
      sequence = collections.abc.Sequence in members(hint)
      if held & {str(int), str(float)} or sequence:
        yield section, key, hint, default


ROWS = [
  (name, section, key)
  for name, schema in SCHEMAS.items()
  for section, key, _, _ in numbers(schema)
]


def put(name, path, value):
  """What a default config with one other value comes to."""
  config = SCHEMAS[name].default()
  section, _, key = path.rpartition(".")
  target = config[section] if section else config
  with target.ignore_type():
    target[key] = value
  SCHEMAS[name].check(config)


@pytest.mark.parametrize("name, section, key", ROWS)
def test_every_number_has_a_range_and_refuses_what_is_outside(
  name, section, key
):
  path = f"{section}.{key}" if section else key
  rule = SCHEMAS[name].rules()[section].get(key)
  if section == "augment":  # Operations check their own settings.
    assert rule is None
    outside = (math.nan,)
  else:
    assert isinstance(rule, Range), f"{path} needs a row in its room's RULES"
    low = [rule.low if rule.above else rule.low - 1]
    high = [rule.high if rule.below else rule.high + 1]
    outside = (math.nan, math.inf, *low, *high)
  _, _, hint, _ = next(
    row for row in numbers(SCHEMAS[name]) if row[:2] == (section, key)
  )
  whole = not any(each is float for each in members(hint))
  text = str(hint)
  for value in outside:
    if value == -math.inf or whole and not math.isfinite(value):
      continue
    value = int(value) if whole else value
    if "tuple[tuple[str" in text:
      value = (("backbone", value),)
    elif "tuple[tuple" in text:
      value = ((value, value),)
    elif "tuple[float, float]" in text:
      value = (value, value)
    elif "tuple[" in text and section != "augment":
      value = (value,)
    elif "Sequence" in text and "float" not in text:
      value = (value, value)
    with pytest.raises(UserError, match=f"{key}.* (must|is) "):
      put(name, path, value)


@pytest.mark.parametrize("name", SCHEMAS)
def test_defaults_are_in_range(name):
  SCHEMAS[name].check(SCHEMAS[name].default())


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_rule_is_of_a_key(name):
  for section, rules in SCHEMAS[name].rules().items():
    keys = SCHEMAS[name].keys()[section] if section else SCHEMAS[name].top
    assert set(rules) <= set(keys), section


@pytest.mark.parametrize(
  "rule, inside, outside, words",
  [
    (errors.ABOVE_0, (1e-9, 1, 1e9), (0, -1, math.nan, math.inf), "above 0"),
    (errors.AT_LEAST_0, (0, 5), (-1, -math.inf, math.nan), "at least 0"),
    (errors.SHARE, (0, 0.5, 1), (-0.1, 1.1, math.nan), "between 0 and 1"),
    (Range(0, 1, below=True), (0, 0.9), (1.0, -1), "at least 0 and below 1"),
    (Range(), (-1e9, 0), (math.inf, math.nan), "a finite number"),
  ],
)
def test_ranges_hold_what_their_words_say(rule, inside, outside, words):
  for value in inside:
    assert rule.problem("x", value) is None
    assert rule.problem("x", (0.5, value)) is None or rule.above
  for value in outside:
    assert f"x={value} must be {words}" == rule.problem("x", value)
    assert words in rule.problem("x", (value, 0.5))


def test_words_and_none_and_names_between_numbers():
  assert Words(("a", "b")).problem("x", "a") is None
  assert Words(("abc",)).problem("x", None) is None
  assert "Did you mean 'abc'" in Words(("abc",)).problem("x", ("abc", "abd"))
  assert errors.AT_LEAST_0.problem("x", (("head", 1.0),)) is None
  assert errors.AT_LEAST_0.problem("x", True) is None
  assert "x=() must be 1 or more numbers" in Range(1, items=1).problem("x", ())


def test_problems_of_one_config_are_told_together(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(
    "from cassle_jax import config as c\n"
    "def get_config():\n"
    "  config = c.default()\n"
    "  config.guard.watchdog_seconds = float('nan')\n"
    "  config.augment.preset = 'casle'\n"
    "  config.optim.unlock()\n"
    "  config.optim.wieght_decay = 1.0\n"
    "  return config\n"
  )
  with pytest.raises(UserError) as error:
    config_lib.load(
      str(path),
      ["seed=-1", "evaluation.knn_k=0", "optim.name=adam", "batch_size=many"],
    )
  text = str(error.value)
  assert "\n" not in text and text.startswith("7 problems: (1) ")
  for words in (
    "--config.batch_size=many is not valid; it must be int",
    "unknown key config.optim.wieght_decay",
    "seed=-1 must be between 0 and 4294967295",
    "unknown optim.name 'adam'",
    "guard.watchdog_seconds=nan must be at least 0",
    "evaluation.knn_k=0 must be at least 1",
    "unknown augment.preset 'casle'. Did you mean 'cassle'?",
  ):
    assert words in text, words


@pytest.mark.parametrize(
  "override, words",
  [
    ("sensitivity.operations=crop,colour", "operations 'colour'.*Did you mean"),
    ("sensitivity.negatives=every", "sensitivity.negatives 'every'.*published"),
    ("strength.parameters=hue,angel", "parameters 'angel'"),
    ("few_shot.form=one_vs_all", "form 'one_vs_all'.*one_vs_rest"),
    ("few_shot.shots=()", "few_shot.shots=.. must be 1 or more numbers"),
    ("linear.dtype=float16", "linear.dtype 'float16'"),
    ("linear.weights=0.1,0", "linear.weights=.* must be each above 0"),
    ("knn.temperature=0.0", "knn.temperature=0.0 must be above 0"),
    ("knn.neighbours=0,20", "knn.neighbours=.0, 20. must be each at least 1"),
    ("seed=-1", "seed=-1 must be between"),
    ("precision=float16", "precision 'float16'"),
    ("representations=backbon", "representation 'backbon'.*'backbone'"),
    ("tasks=knm", "task 'knm'. Did you mean 'knn'"),
    ("sensitivity.batch=2048", "sensitivity.batch=2048 is more than"),
  ],
)
def test_what_only_a_task_would_meet_is_told_at_start(override, words):
  config = evaluation_config.default()
  with pytest.raises(UserError, match=words):
    evaluation_config.EVALUATION.apply_override(config, override)
    command.plan(config)


@pytest.mark.parametrize("name", methods.METHODS)
def test_methods_check_their_numbers_in_python_too(name):
  for key, rule in methods.RULES.items():
    if key not in methods.METHODS[name].options or isinstance(rule, Words):
      continue
    wrong = -0.5 if rule.low >= 0 else math.nan
    with pytest.raises(UserError, match=f"method.{key}={wrong} must be"):
      methods.build(name=name, **{key: wrong})


def test_a_methods_own_build_checks_too():
  with pytest.raises(UserError, match="variance_weight=nan must be at least 0"):
    vicreg.build(variance_weight=math.nan)
