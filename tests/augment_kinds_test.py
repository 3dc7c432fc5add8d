"""Operations of every kind that exist only here: all else follows from each.

"binary" inverts pictures; "one-hot" turns their channels round; "several" moves
pictures sideways, is switched by a bool, has three fields and measures one.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import augment, awareness, config, errors, preview
from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment import operations
from cassle_jax.augment.operations import table
from cassle_jax.awareness import amortised, augself
from cassle_jax.benchmark import augment as benchmark
from cassle_jax.config.schema import Schema
from cassle_jax.evaluation import pairs, probe_scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chance(augment.Settings):
  operation: ClassVar[str] = "made"

  probability: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switch(augment.Settings):
  operation: ClassVar[str] = "made"

  on_or_off: bool = False
  most: float = 0.5


class Applied(NamedTuple):
  applied: jax.Array


class Places(NamedTuple):
  places: jax.Array


def applied(draws, settings, size, batch_draw):
  return Applied(draws_lib.happens(draws[0], settings.probability))


def turned(draws, settings, size, batch_draw):
  happens = draws_lib.happens(draws[0], settings.probability)
  return Places(jnp.where(happens, draws_lib.integer(draws[1], 3), 0))


def moved(draws, settings, size, batch_draw):
  places = draws_lib.integer(draws[0], int(8 * settings.most))
  return Places(jnp.where(settings.on, places, 0))


def invert(images, parameters, settings, how):
  chosen = parameters.applied[:, None, None, None]
  return jnp.where(chosen, 1 - images, images)


def turn(images, parameters, settings, how):
  return jax.vmap(lambda x, n: jnp.roll(x, n, 0))(images, parameters.places)


def move(images, parameters, settings, how):
  images = jax.vmap(lambda x, n: jnp.roll(x, n, 2))(images, parameters.places)
  return images, jnp.mean(images[..., 0], (1, 2))[:, None]


def one(name, **options):
  usual = dict(neutral=(0.0,), meaning="made up")
  return augment.Field(name=name, **usual | options)


SHARED = dict(title="made up", group="made", example="made=0.5", draws=2)
MADE = {
  "binary": augment.Operation(
    **SHARED,
    settings=Chance,
    draw=applied,
    apply=invert,
    fields=(one("made", kind="binary"),),
    describe=lambda parameters, *_: {
      "made": parameters.applied[:, None].astype(jnp.float32)
    },
    changes="appearance",
    amortised="always",
  ),
  "one-hot": augment.Operation(
    **SHARED,
    settings=Chance,
    draw=turned,
    apply=turn,
    fields=(one("made", neutral=(1.0, 0.0, 0.0), kind="one-hot"),),
    describe=lambda parameters, *_: {
      "made": jax.nn.one_hot(parameters.places, 3)
    },
    changes="appearance",
  ),
  "several": augment.Operation(
    **SHARED | dict(example="made=True"),
    settings=Switch,
    draw=moved,
    apply=move,
    measures=1,
    fields=(
      one("made"),
      one("made_edge", kind="continuous"),
      one("made_far", kind="binary"),
    ),
    describe=lambda parameters, settings, sizes, measured, others: {
      "made": parameters.places[:, None] / 8.0,
      "made_edge": measured,
      "made_far": (parameters.places[:, None] > 1) * 1.0,
    },
    changes="position",
  ),
}
OFF = dict(crop=False, flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)


@pytest.fixture(params=MADE)
def made(request, monkeypatch):
  monkeypatch.setitem(augment.OPERATIONS, "made", MADE[request.param])
  return MADE[request.param]


def switch(record):
  return True if record.settings is Switch else 1.0


def policies(record, **options):
  chosen = dict(image_size=8, blur_kernel=3, made=switch(record)) | options
  return augment.build(**chosen)


def names(record):
  return tuple(field.name for field in record.fields)


def made_of(images, sizes, policy):
  @jax.jit  # A function of its own: policies do not tell records apart.
  def make(images):
    drawn = augment.sample(jax.random.key(2), policy, sizes)
    return augment.make(drawn, images, sizes, policy)

  return make(images)


def test_views_and_omega(made):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
  sizes = augment.full_sizes(images)
  policy = policies(made, **OFF, mean=(0.0,) * 3, std=(1.0,) * 3)[0]
  off = policy.untouched()
  view, nothing = (made_of(images, sizes, p) for p in (policy, off))
  x, expected = images / np.float32(255), []
  for image, value in zip(x, np.asarray(view.omega["made"]), strict=True):
    if made.settings is Switch:
      expected.append(np.roll(image, int(8 * value[0]), 1))
    elif made.fields[0].kind == "binary":
      expected.append(1 - image if value[0] else image)
    else:
      expected.append(np.roll(image, int(value.argmax()), 2))
  np.testing.assert_allclose(view.image, expected, atol=1e-6)
  different = len(np.unique(view.omega["made"], axis=0))
  assert different == 1 if made.fields[0].kind == "binary" else different > 1
  if made.measures:
    edge = np.mean(expected, axis=1)[:, 0].mean(1)
    np.testing.assert_allclose(view.omega["made_edge"][:, 0], edge, atol=1e-6)
  # What the jitter measures stays its own.
  np.testing.assert_array_equal(view.omega["color_diff"], np.zeros((6, 3)))
  neutral = augment.omega.neutral((6,), ("made",))["made"]
  np.testing.assert_array_equal(nothing.omega["made"], neutral)


def test_what_is_on_follows_from_the_policy(made):
  both = policies(made)
  assert set(names(made)) <= set(augment.active_fields(both))
  assert augment.active_fields([pairs.untouched(both[0])]) == ()
  assert augment.active_fields([pairs.only("made", both[0])]) == names(made)
  assert pairs.usual(both[0])[-1] == "made"
  with pytest.raises(errors.UserError, match="augment.made must be"):
    policies(made, made=2.0)


def test_config_keys_are_read_as_they_are_written(made):
  schema = Schema(config.TOP, config.sections, config.RULES, config.MEANINGS)
  changed = schema.default()
  pair = ("True,False", (True, False))
  text, value = pair if made.settings is Switch else ("0.5,1", (0.5, 1))
  schema.apply_override(changed, f"augment.made={text}")
  assert changed.augment.made == value
  schema.check(changed)
  chosen = {k: v for k, v in changed.augment.items() if v is not None}
  built = augment.build(**chosen, image_size=8)
  assert [view.made for view in built] == list(value)


def test_augself_and_pairs_compare_by_kind(made):
  weights = {f"{name}_weight": 1.0 for name in names(made)}
  aware = awareness.build(
    name="augself", crop_weight=0, color_weight=0, **weights
  )
  sizes = {field.name: field.size for field in made.fields}
  assert dict(aware.pair_outputs) == sizes
  aware.check(policies(made))
  with pytest.raises(errors.UserError, match="made.*_weight is above 0"):
    aware.check(policies(made, made=False if made.settings is Switch else 0.0))
  for field in made.fields:
    a = jnp.asarray([[1.0, 0, 0], [0, 1, 0]])[:, : field.size]
    b = jnp.asarray([[1.0, 0, 0], [0, 0, 1]])[:, : field.size]
    a = a.at[1, 0].set(1.0) if field.size == 1 else a
    first, second = {field.name: a}, {field.name: b}
    difference = augment.omega.difference(first, second)[field.name]
    target = augself.targets(first, second)[field.name]
    np.testing.assert_array_equal(target, difference)
    expected = a - b if field.kind == "continuous" else a == b
    np.testing.assert_array_equal(difference, expected)
    loss = augself.field_loss(field.name, jnp.zeros(a.shape), target)
    per_number = 0.5 if field.kind == "continuous" else np.log(2)
    np.testing.assert_allclose(loss, per_number, rtol=1e-6)


def test_the_probe_scores_by_kind(made):
  rng = np.random.default_rng(0)
  omega = {
    field.name: {
      "continuous": rng.uniform(size=(20, 1)),
      "binary": rng.integers(0, 2, (20, 1)),
      "one-hot": np.eye(3)[rng.integers(0, 3, 20)],
    }[field.kind]
    for field in made.fields
  }
  single = probe_scores.lay_out(omega, omega)
  other = {name: x[::-1] for name, x in omega.items()}
  found = jax.device_get(augment.omega.difference(omega, other))
  both = probe_scores.lay_out(found, found)
  for field in made.fields:
    auc = field.kind != "continuous"
    for laid in (single, both):
      assert np.all(laid.binary[laid.columns[field.name]] == auc)


def test_looc_and_ai_know_it(made):
  aware = awareness.build(name="looc", groups=("made",))
  aware.check(policies(made))
  off = False if made.settings is Switch else 0.0
  with pytest.raises(errors.UserError, match=f"{made.example} or take it"):
    aware.check(policies(made, made=off))
  half = switch(made) if made.settings is Switch else 0.5
  policy = policies(made, made=half)[0]
  dorsal = amortised.descriptor_policy(policy, (0.0, 1.0)).made
  ventral = amortised.descriptor_policy(policy, (1.0, 0.0)).made
  always = made.amortised == "always"
  appears = made.changes == "appearance"
  assert dorsal == ((1.0 if always else half) if appears else off)
  assert ventral == (off if appears else half)
  # Where it is all that happens, views differ by it, but not by an always.
  alone = policies(made, **OFF, made=half)
  kind = (0.0, 1.0) if appears else (1.0, 0.0)
  check = amortised.build(descriptors=(kind,)).check
  if always:
    with pytest.raises(errors.UserError, match="jitter=0.8"):
      check(alone)
  else:
    check(alone)


def test_preview_prints_it(made):
  for field in made.fields:
    neutral = np.asarray(field.neutral)
    assert preview.text_of(field.name, neutral) == ("no", False)
    other = np.roll(neutral, 1) if field.size > 1 else neutral + 1
    shown = {"binary": "yes", "one-hot": "1", "continuous": "1.00"}[field.kind]
    assert preview.text_of(field.name, other) == (shown, True)


def test_benchmark_has_its_stage(made):
  both = policies(made)
  stages = benchmark._steps(both)
  assert list(stages) == [
    *("crop+flip", "jitter", "grayscale", "blur", "made", "normalize")
  ]
  assert [p.made for p in stages["blur"]] == [
    both[0]["made"].switched(False).switch
  ] * 2
  for name in ("made", "normalize"):
    assert [p.settings for p in stages[name]] == [p.settings for p in both]
  assert stages["made"][0].std == (1.0,) * 3 and stages["normalize"] is both


def test_two_operations_cannot_have_one_name(made):
  records = [r for r in augment.OPERATIONS.values() if r is not made]
  assert list(table(*records, made))[-1] == "made"
  jitter = augment.OPERATIONS["jitter"]

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Other(Chance):
    operation: ClassVar[str] = "blur"

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Same(Chance):
    kernel: int = dataclasses.field(default=0, metadata={"key": "blur_kernel"})

  for changed, words in (
    (dict(settings=Other), "the name 'blur'"),
    (dict(settings=Same), "the config key 'blur_kernel'"),
    (dict(fields=(one("crop"),)), "the field of omega 'crop'"),
    (dict(sweeps=jitter.sweeps), "the sweep 'brightness'"),
  ):
    with pytest.raises(ValueError, match=words):
      table(*records, dataclasses.replace(made, **changed))


def test_only_places_in_a_circle_turn():
  with pytest.raises(ValueError, match="'made' turns, but is not one-hot"):
    one("made", compared="turn")
  assert operations.fields()["rotation"].compared == "turn"
