"""Prototypes, heads over pairs of views, and what all heads share."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_variables import make, shapes

from cassle_jax import models
from cassle_jax.errors import UserError
from cassle_jax.models import (
  MLP,
  ConditionedProjector,
  PairHeads,
  Prototypes,
)
from cassle_jax.weights import torch_names

KEY = jax.random.key(0)


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def double(tree):
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def normed(x, axis):
  return x / np.linalg.norm(x, axis=axis, keepdims=True)


@pytest.mark.parametrize("weight_norm", [False, True])
def test_prototypes_equal_float64(weight_norm):
  prototypes = Prototypes(5, weight_norm=weight_norm)
  z, kernel, weights = draw(7, 4), draw(4, 5, seed=1), draw(7, 5, seed=2)

  def twin(z, kernel):
    columns = normed(kernel, 0) if weight_norm else kernel
    return normed(z, 1) @ columns

  def loss(kernel, z):
    scores = prototypes.apply({"params": {"kernel": kernel}}, z)
    return jnp.sum(scores * weights), scores

  gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
  (by_kernel, by_z), scores = gradient(kernel, z)
  z, kernel = double(z), double(kernel)
  assert scores.dtype == jnp.float32
  np.testing.assert_allclose(scores, twin(z, kernel), rtol=1e-4, atol=1e-6)
  # Central differences along a random direction.
  for index, actual in enumerate((by_kernel, by_z)):
    inputs = [kernel, z]
    way = double(draw(*inputs[index].shape, seed=3))
    ends = []
    for step in (1e-6, -1e-6):
      moved = list(inputs)
      moved[index] = inputs[index] + step * way
      ends.append(np.sum(twin(moved[1], moved[0]) * weights))
    expected = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(np.sum(actual * way), expected, rtol=1e-3)


def test_prototypes_by_hand():
  z = jnp.array([[3.0, 4.0], [0.0, 2.0]])
  kernel = jnp.array([[1.0, 0.0], [0.0, 5.0]])
  plain = Prototypes(2).apply({"params": {"kernel": kernel}}, z)
  np.testing.assert_allclose(plain, [[0.6, 4.0], [0.0, 5.0]], rtol=1e-6)
  unit = Prototypes(2, weight_norm=True).apply(
    {"params": {"kernel": kernel}}, z
  )
  np.testing.assert_allclose(unit, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)


def test_prototypes_start_as_directions():
  prototypes = Prototypes(200)
  params = jax.jit(prototypes.init)(KEY, jnp.ones((1, 50)))["params"]
  assert set(params) == {"kernel"}
  kernel = np.asarray(params["kernel"])
  assert kernel.shape == (50, 200)
  np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-5)
  # A uniform draw of unit length is bounded; a normal one would go beyond.
  np.testing.assert_allclose(kernel.mean(), 0, atol=0.01)
  assert np.abs(kernel).max() < 1.5 * math.sqrt(3 / 50)


def test_zero_projection_has_a_finite_gradient():
  kernel = jnp.ones((2, 3))
  gradient = jax.jit(
    jax.grad(
      lambda z: jnp.sum(Prototypes(3).apply({"params": {"kernel": kernel}}, z))
    )
  )(jnp.zeros((1, 2)))
  assert np.isfinite(gradient).all()


def mlp_twin(params, x):
  """Linear, BatchNorm by the batch's statistics and ReLU; last a Linear."""
  last = len([name for name in params if name.startswith("linear")]) - 1
  for i in range(last):
    x = x @ params[f"linear{i}"]["kernel"]
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    x = np.maximum(x * params[f"bn{i}"]["scale"] + params[f"bn{i}"]["bias"], 0)
  return x @ params[f"linear{last}"]["kernel"] + params[f"linear{last}"]["bias"]


def test_pair_heads_equal_float64():
  heads = PairHeads((("color", 4), ("blur", 1)), hidden=(6, 5))
  first, second = draw(8, 3), draw(8, 3, seed=1)
  variables = make(heads, first, second)
  params = variables["params"]
  assert set(params) == {"color", "blur"}
  assert set(params["color"]["linear0"]) == {"kernel"}
  assert params["color"]["linear0"]["kernel"].shape == (6, 6)
  # Per head 2d * 6 + 2 * 6 + 6 * 5 + 2 * 5, and 5 n + n.
  total = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert total == 2 * (36 + 12 + 30 + 10) + (5 + 1) * (4 + 1)

  outputs, new = jax.jit(
    lambda v, a, b: heads.apply(v, a, b, train=True, mutable=["batch_stats"])
  )(variables, first, second)
  rows = np.array(
    [
      np.concatenate(pair)
      for a, b in zip(first, second, strict=True)
      for pair in ((a, b), (b, a))
    ],
    np.float64,
  )
  assert set(outputs) == {"color", "blur"}
  for field, size in (("color", 4), ("blur", 1)):
    assert outputs[field].shape == (16, size)
    assert outputs[field].dtype == jnp.float32
    expected = mlp_twin(double(params[field]), rows)
    np.testing.assert_allclose(outputs[field], expected, rtol=1e-3, atol=1e-4)
  old = variables["batch_stats"]["color"]["bn0"]["mean"]
  mean = (rows @ double(params["color"]["linear0"]["kernel"])).mean(0)
  np.testing.assert_allclose(
    new["batch_stats"]["color"]["bn0"]["mean"],
    0.9 * old + 0.1 * mean,
    rtol=1e-3,
    atol=1e-5,
  )


def test_pair_heads_by_hand():
  heads = PairHeads((("flip", 1),), hidden=())
  params = {"flip": {"linear0": {"kernel": [[2.0], [-1.0]], "bias": [0.5]}}}
  params = jax.tree.map(jnp.asarray, params, is_leaf=lambda x: type(x) is list)
  first, second = jnp.array([[1.0], [3.0]]), jnp.array([[4.0], [0.0]])
  outputs = heads.apply({"params": params}, first, second, train=True)
  # 2 a - b + 1/2 of (1, 4), (4, 1), (3, 0), (0, 3).
  np.testing.assert_array_equal(outputs["flip"], [[-1.5], [7.5], [6.5], [-2.5]])


def test_hidden_layer_is_returned_on_demand():
  mlp = MLP((6, 5, 4))
  x = draw(8, 3)
  variables = make(mlp, x)
  (z, new), (again, less) = jax.jit(
    lambda: [
      mlp.apply(variables, x, train=True, mutable=mutable)
      for mutable in (["batch_stats", "intermediates"], ["batch_stats"])
    ]
  )()
  (hidden,) = new["intermediates"]["hidden"]
  params = double(variables["params"])
  expected = x @ params["linear0"]["kernel"]
  expected = (expected - expected.mean(0)) / np.sqrt(expected.var(0) + 1e-5)
  expected = expected * params["bn0"]["scale"] + params["bn0"]["bias"]
  np.testing.assert_allclose(hidden, np.maximum(expected, 0), atol=1e-4)
  assert set(less) == {"batch_stats"}
  np.testing.assert_array_equal(again, z)
  assert set(shapes(mlp, x)) == {"params", "batch_stats"}


@pytest.mark.parametrize("conditioning", ["concat", "hypernetwork"])
def test_projectors_return_their_hidden_layer(conditioning):
  projector = ConditionedProjector((6, 4), conditioning=conditioning)
  inputs = draw(8, 5), draw(8, 14, seed=1)

  def run(features, omega):
    variables = projector.init(KEY, features, omega, train=False)
    return projector.apply(
      variables, features, omega, train=False, mutable=["intermediates"]
    )[1]["intermediates"]

  tree = jax.eval_shape(run, *inputs)
  tree = tree["mlp"] if conditioning == "concat" else tree
  assert tree["hidden"][0].shape == (8, 6)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_hypernetwork_has_the_activation(activation):
  projector = ConditionedProjector(
    (2, 2), conditioning="hypernetwork", gamma_depth=1, activation=activation
  )
  features, omega = draw(4, 3), draw(4, 2, seed=1)
  variables = make(projector, features, omega)
  z = projector.apply(variables, features, omega, train=False)

  tree = double(variables)
  norm, stats = tree["params"]["hypernetwork"]["bn0"], tree["batch_stats"]
  stats = stats["hypernetwork"]["bn0"]
  emitted = omega @ tree["params"]["hypernetwork"]["linear0"]["kernel"]
  emitted = (emitted - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
  emitted = emitted * norm["scale"] + norm["bias"]
  kernel0, bias0, kernel1, bias1 = np.split(emitted, [6, 8, 12], axis=1)
  x = np.einsum("bi,bio->bo", features, kernel0.reshape(4, 3, 2)) + bias0
  if activation == "relu":
    x = np.maximum(x, 0)
  else:
    x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
  x = np.einsum("bi,bio->bo", x, kernel1.reshape(4, 2, 2)) + bias1
  np.testing.assert_allclose(z, x, rtol=1e-4, atol=1e-5)


def test_build_makes_the_heads_that_are_asked_for():
  plain = models.build()
  assert plain.prototypes is None and plain.pair_heads is None
  networks = models.build(
    projector=(0, 0, 16),
    projector_hidden_norm=False,
    projector_activation="gelu",
    prototypes=30,
    prototypes_weight_norm=True,
    pair_outputs=(("crop", 4),),
    pair_hidden=(8,),
    dtype=jnp.bfloat16,
  )
  assert networks.prototypes == Prototypes(30, weight_norm=True)
  assert networks.projector.activation == "gelu"
  assert not networks.projector.hidden_norm
  assert networks.pair_heads.outputs == (("crop", 4),)
  assert networks.pair_heads.hidden == (8,)
  assert networks.pair_heads.dtype == jnp.bfloat16


@pytest.mark.parametrize(
  "options, match",
  [
    ({"prototypes": -1}, "model.prototypes=-1"),
    ({"projector_activation": "glu"}, "projector_activation .* gelu, relu"),
    ({"descriptor_size": -1}, "descriptor_size=-1"),
    ({"amortised_rank": 0}, "amortised_rank=0"),
    ({"prompt_mlps": 0}, "prompt_mlps=0"),
    (
      {
        "conditioning": "hypernetwork",
        "hypernetwork_norm": True,
        "projector_hidden_norm": False,
      },
      "hypernetwork_norm=True .*projector_hidden_norm=False",
    ),
  ],
)
def test_mistakes_are_one_line(options, match):
  with pytest.raises(UserError, match=match) as error:
    models.build(**options)
  assert "\n" not in str(error.value)


def test_heads_have_torch_names():
  heads = PairHeads((("color", 4),), hidden=(6,))
  tree = make(heads, draw(2, 3), draw(2, 3))
  state = torch_names.to_torch(tree)
  assert state["color.0.weight"].shape == (6, 6)
  assert state["color.1.running_var"].shape == (6,)
  assert state["color.3.bias"].shape == (4,)
  jax.tree.map(
    np.testing.assert_array_equal, torch_names.from_torch(tree, state), tree
  )
  prototypes = {"params": {"kernel": draw(3, 5)}}
  assert torch_names.to_torch(prototypes)["weight"].shape == (5, 3)
