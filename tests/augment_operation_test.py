"""An operation that exists only here: one record, and all else follows."""

import dataclasses
import functools
import pathlib
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import augment, awareness, config, errors, preview
from cassle_jax.augment import draws as draws_lib
from cassle_jax.awareness import amortised, augself, looc
from cassle_jax.config.schema import Schema
from cassle_jax.evaluation import (
  pairs,
  probe,
  sensitivity,
  strength,
  wrong_omega,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TintSettings(augment.Settings):
  operation: ClassVar[str] = "tint"

  probability: float = 0.0
  amount: float = 0.25


class Tint(NamedTuple):
  applied: jax.Array
  amount: jax.Array


def draw(draws, settings, size, batch_draw):
  return Tint(
    draws_lib.happens(draws[0], settings.probability),
    draws_lib.between(draws[1], -settings.amount, settings.amount),
  )


def apply(images, parameters, settings, how):
  amount = jnp.where(parameters.applied, parameters.amount, 0.0)
  return images.at[:, 0].add(amount[:, None, None])


def describe(parameters, settings, sizes, measured, others):
  applied, amount = parameters
  return {"tint": jnp.where(applied, amount, 0.0)[:, None]}


TINT = augment.Operation(
  title="tint",
  settings=TintSettings,
  draws=2,
  draw=draw,
  apply=apply,
  fields=(
    augment.Field(
      name="tint",
      neutral=(0.0,),
      meaning="of red",
      range=lambda s: (-s.amount, s.amount),
    ),
  ),
  describe=describe,
  changes="appearance",
  group="tint",
  example="tint=0.5",
  sweeps=(
    augment.Sweep(
      name="tint",
      values=(-0.5, 0.0, 0.5),
      neutral=0.0,
      unit="of white",
      set=lambda still, value, sizes: Tint(
        jnp.ones_like(still.applied), jnp.full_like(still.amount, value)
      ),
      trained=lambda s: (-s.amount, s.amount) if s.on else None,
    ),
  ),
)


@pytest.fixture(autouse=True)
def with_tint(monkeypatch):
  monkeypatch.setitem(augment.OPERATIONS, "tint", TINT)
  jax.clear_caches()
  yield
  jax.clear_caches()


def pictures(count=12, size=16):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, size, size, 3), np.uint8)


def policies(**options):
  chosen = dict(image_size=16, blur_kernel=3, tint=1.0) | options
  return augment.build(**chosen)


def encode(images):
  """Features that know the mean of each channel, and little else."""
  return jnp.concatenate(
    [jnp.mean(images, (1, 2)), jnp.mean(jnp.square(images), (1, 2))], axis=1
  )


def test_it_draws_applies_and_describes():
  sample = jax.jit(augment.sample, static_argnums=1)
  make = jax.jit(augment.make, static_argnums=3)
  images = pictures()
  sizes = augment.full_sizes(images)
  policy = policies(mean=(0.0,) * 3, std=(1.0,) * 3)[0]
  without = policies(mean=(0.0,) * 3, std=(1.0,) * 3, tint=0.0)[0]
  drawn = sample(jax.random.key(0), policy, sizes)
  for name, value in sample(jax.random.key(0), without, sizes).items():
    if name != "tint":  # The others' draws are what they were.
      chex.assert_trees_all_equal(value, drawn[name])
  view = make(drawn, images, sizes, policy)
  plain = make(drawn, images, sizes, without)
  changed = jnp.mean(view.image - plain.image, (1, 2))
  np.testing.assert_allclose(changed[:, 0], view.omega["tint"][:, 0], atol=1e-5)
  np.testing.assert_allclose(changed[:, 1:], 0, atol=1e-6)
  again = make(drawn, images, sizes, policy)
  chex.assert_trees_all_equal(again, view)
  other = sample(jax.random.key(1), policy, sizes)
  mixed = augment.share(other, drawn, ["tint"])
  chex.assert_trees_all_equal(mixed["tint"], drawn["tint"])
  assert np.std(drawn["tint"].amount) > 0.05
  image, part = augment.single(
    jax.random.key(0), images[0], operation="tint", probability=1.0
  )
  assert image.shape == (16, 16, 3) and set(part) == {"tint"}


def test_omega_has_its_field():
  assert augment.omega.FIELDS["tint"] == 1
  assert "tint" in augment.active_fields(policies())
  omega = augment.omega.neutral((5,), ("crop", "tint"))
  packed = augment.omega.pack(omega, ("tint", "crop"))
  np.testing.assert_array_equal(packed, [[0.5, 0.5, 1, 1, 0]] * 5)


@pytest.mark.parametrize("preset", augment.presets)
@pytest.mark.parametrize("operation", [*augment.OPERATIONS, "tint"])
def test_untouched_is_untouched_and_only_is_one(operation, preset):
  switch = {operation: operation == "crop" or 1.0}
  for policy in policies(preset=preset, local_views=1, **switch):
    assert policy[operation].on
    still = pairs.untouched(policy)
    assert augment.active_fields([still]) == ()
    fields = {f.name for f in augment.OPERATIONS[operation].fields}
    alone = pairs.only(operation, policy)
    assert set(augment.active_fields([alone])) == fields


def test_config_has_its_keys():
  keys = Schema(
    config.TOP, config.sections, config.RULES, config.MEANINGS
  ).keys()
  assert {"tint", "tint_amount"} <= set(keys["augment"])
  assert "tint_weight" in keys["awareness"]
  with pytest.raises(errors.UserError, match="tint must be a probability"):
    policies(tint=2.0)


def test_augself_predicts_it():
  aware = awareness.build(name="augself", tint_weight=1.0, crop_weight=0.0)
  assert ("tint", 1) in aware.pair_outputs
  aware.check(policies())
  with pytest.raises(errors.UserError, match="tint_weight is above 0"):
    aware.check(policies(tint=0.0))
  quiet = awareness.build(name="augself")
  assert "tint" not in dict(quiet.pair_outputs)
  first, second = {"tint": jnp.asarray([[0.5]])}, {"tint": jnp.asarray([[0.1]])}
  target = augself.targets(first, second)
  np.testing.assert_allclose(target["tint"], [[0.4]], atol=1e-6)
  loss = augself.field_loss("tint", jnp.asarray([[0.0]]), target["tint"])
  np.testing.assert_allclose(loss, 0.16, atol=1e-6)


def test_looc_has_its_group():
  aware = awareness.build(name="looc", groups=("tint",))
  aware.check(policies())
  with pytest.raises(errors.UserError, match="tint=0.5 or take it"):
    aware.check(policies(tint=0.0))
  images = pictures()
  views = functools.partial(looc.views, policies=policies(), groups=("tint",))
  query, free, kept = jax.jit(views)(
    jax.random.key(0), images, augment.full_sizes(images)
  )
  np.testing.assert_array_equal(query.omega["tint"], kept.omega["tint"])
  assert not np.array_equal(query.omega["tint"], free.omega["tint"])
  assert not np.array_equal(query.omega["color"], kept.omega["color"])


def test_ai_knows_that_it_changes_appearance():
  policy = policies(tint=0.5)[0]
  dorsal = amortised.descriptor_policy(policy, (0.0, 1.0))
  ventral = amortised.descriptor_policy(policy, (1.0, 0.0))
  assert dorsal.tint == 0.5 and ventral.tint == 0.0
  assert amortised.descriptor_policy(policy, (1.0, 1.0)) == policy


def test_evaluations_measure_it():
  policy = policies()[0]
  images = pictures(24)
  found = sensitivity.measure(
    jax.random.key(0),
    images,
    policy=policy,
    blocks=lambda images: {"backbone": encode(images)},
    operations=("tint",),
    batch=8,
  )
  assert found.operations == ("tint",) and np.all(found.info_nce > 0)
  assert "tint" in strength.sweeps()
  curve = strength.measure(
    images, policy=policy, encode=encode, names=("tint",)
  )["tint"]
  assert curve.trained == (-0.25, 0.25) and curve.unit == "of white"
  np.testing.assert_allclose(curve.mean[1], 1.0, atol=1e-6)
  assert curve.mean[0] < 0.99 and curve.mean[2] < 0.99

  def project(features, omega):
    shift = jnp.asarray(omega["tint"])[:, 0] / policy.std[0]
    return jnp.asarray(features).at[:, 0].add(-shift)

  told = wrong_omega.measure(
    jax.random.key(0),
    images,
    policy=policy,
    encode=encode,
    project=project,
    operations=("tint",),
  )["tint"]
  assert told.drop["other"].mean > 0.01 and told.drop["neutral"].mean > 0.01


def test_probe_reads_it():
  policy = pairs.only("tint", policies()[0])
  rng = np.random.default_rng(0)
  images = np.full((400, 16, 16, 3), 90, np.uint8)
  images += rng.integers(0, 20, (400, 1, 1, 1), np.uint8)
  found = probe.measure(
    jax.random.key(0),
    images[:200],
    images[200:],
    policy=policy,
    encode=encode,
    steps=2,
  )
  for given in ("single", "pair"):
    assert found[given]["linear"].metric == {"tint": "r2"}
    assert found[given]["linear"].value["tint"] > 0.9


def test_preview_prints_it():
  assert preview.text_of("tint", np.asarray([0.0])) == ("no", False)
  assert preview.text_of("tint", np.asarray([0.25])) == ("0.25", True)


def test_the_page_of_parts_has_every_operation(monkeypatch):
  monkeypatch.delitem(augment.OPERATIONS, "tint")
  page = pathlib.Path(__file__).parents[1] / "docs" / "parts.md"
  table = page.read_text().partition("| operation, a key of")[2]
  table = table.partition("\n\n")[0].splitlines()[2:]
  assert table == [
    f"| `{record.name}`: {record.title} | "
    + "; ".join(f"`{f.name}` ({f.size}): {f.meaning}" for f in record.fields)
    + " |"
    for record in augment.OPERATIONS.values()
  ]
