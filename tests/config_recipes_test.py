"""Every config that claims a recipe is held to the table of recipes."""

import json
import os

import pytest
from config_test import CONFIGS, NAMES, variants_of

from cassle_jax import config as config_lib
from cassle_jax.config import recipes as table
from cassle_jax.hosts.platforms import Platform
from cassle_jax.methods import METHODS
from cassle_jax.optim.options import Options
from cassle_jax.training import setup as setup_lib

RECIPES, CLAIMS = table.recipes(), table.claims()
# They are this project's own.
WITHOUT = ("grid.py", "quickstart.py")
CELLS = [(file, variant) for file in CLAIMS for variant in CLAIMS[file]]


class Vector:
  """Stands for a bias, or a scale of BatchNorm."""

  ndim = 1


def head_facts(name, head):
  """What was built; a conditioned projector's last part is an MLP."""
  norm, bias = head.norm, head.last_bias
  facts = {
    "widths": head.widths,
    "norm": norm,
    "bias": norm == "none" if bias is None else bias,
    "hidden_norm": head.hidden_norm,
    "activation": head.activation,
  }
  return {f"{name}.{key}": value for key, value in facts.items()}


def effective(config):
  """What a config comes to, by the names that facts have."""
  config = setup_lib.resolve(config)
  made = setup_lib.build(config, Platform("cpu"))
  facts = {}
  for section, values in config.to_dict().items():
    if isinstance(values, dict):
      facts |= {f"{section}.{key}": value for key, value in values.items()}
    else:
      facts[section] = values
  row = METHODS[config.method.name]
  for key, default in row.options.items():
    if facts[f"method.{key}"] is None:
      facts[f"method.{key}"] = default
  for key in ("momentum_schedule", "momentum_per", "target_update"):
    facts[f"method.{key}"] = getattr(made.method, key)
  facts["model.conv_init"] = config.model.conv_init or "he_normal"
  facts["evaluation.network"] = made.method.evaluated
  facts |= head_facts("projector", made.networks.projector)
  if made.networks.predictor is not None:
    facts |= head_facts("predictor", made.networks.predictor)
  kinds = made.policies[:3]
  local = len(made.policies) - 2
  facts["augment.views"] = [2, local]
  facts["augment.local_size"] = kinds[-1].image_size[0]
  keys = [key for one in kinds[0].settings for key in one.keys()]
  for key in (*keys, "mean", "std"):
    found = [getattr(policy, key) for policy in kinds]
    same = all(value == found[0] for value in found)
    facts[f"augment.{key}"] = found[0] if same else found
  facts["decays.vectors"] = Options(**config.optim).decays("bias", Vector())
  return json.loads(json.dumps(facts, default=str))


def in_words(text):
  return " ".join(text.lower().split())


def test_every_config_claims_a_recipe_or_is_our_own():
  assert set(CLAIMS) | set(WITHOUT) == set(NAMES)
  for file, variants in CLAIMS.items():
    assert {*variants, "tiny"} == set(variants_of(file)), file


@pytest.mark.parametrize("file, variant", CELLS)
def test_a_config_is_what_it_claims(file, variant):
  claim = CLAIMS[file][variant]
  found = effective(config_lib.load(os.path.join(CONFIGS, f"{file}:{variant}")))
  facts = {}
  for name in claim.recipes:
    facts |= RECIPES[name].facts
  wrong = {
    key: (found.get(key), fact.value, fact.source)
    for key, fact in facts.items()
    if found.get(key, "no such key") != fact.value
  }
  assert set(wrong) == set(claim.deviations), wrong
  with open(os.path.join(CONFIGS, file)) as stream:
    docstring = in_words(stream.read().split('"""')[1])
  for text in (*claim.deviations.values(), *claim.other):
    assert in_words(text) in docstring, text


def test_a_run_of_before_has_none_of_the_keys_that_came_later():
  """A key that is None in one config is no difference to one that lacks it."""
  config = config_lib.default()
  for path in (
    "augment.interpolation",
    "augment.solarize_place",
    "evaluation.network",
    "model.conv_init",
  ):
    section, key = path.split(".")
    assert config[section][key] is None, path


def test_recipes_agree_where_a_config_claims_several():
  for file, variant in CELLS:
    held = {}
    for name in CLAIMS[file][variant].recipes:
      for key, fact in RECIPES[name].facts.items():
        assert held.setdefault(key, fact.value) == fact.value, (file, key)


def test_every_fact_has_a_source_and_every_recipe_is_claimed():
  named = {n for f, v in CELLS for n in CLAIMS[f][v].recipes}
  assert named == set(RECIPES)
  for recipe in RECIPES.values():
    assert recipe.title
    for key, fact in recipe.facts.items():
      assert fact.source.startswith(("github.com/", "arXiv", "torchvision")), (
        key
      )
