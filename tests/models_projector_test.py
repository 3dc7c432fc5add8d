"""The conditioned projector against torch's numbers, and what reaches it."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_fill
from random_variables import make, shapes

from cassle_jax.augment import omega as fields
from cassle_jax.errors import UserError
from cassle_jax.models import (
  CONDITIONINGS,
  MLP,
  ConditionedProjector,
)
from cassle_jax.weights import torch_names

KEY = jax.random.key(0)

# Golden configuration: conditioning, sizes, options. gamma: depth 3, width 8.
CASES = {
  "raw_cat": ("concat_raw", (16, 12), {}),
  "raw_none": ("none", (16, 12), {}),
  "raw_add_D13": ("add", (13, 12), {"gamma_depth": 0}),
  "raw_mul_D13": ("multiply", (13, 12), {"gamma_depth": 0}),
  "mlp_cat": ("concat", (16, 12), {}),
  "mlp_add": ("add", (16, 12), {}),
  "mlp_mul": ("multiply", (16, 12), {}),
  "mlp_none": ("none", (16, 12), {}),
  "hn_mlp": ("hypernetwork", (16, 12), {}),
  "hn_mlpbn": ("hypernetwork", (16, 12), {"hypernetwork_norm": True}),
  "hn_mlp_depth3": ("hypernetwork", (6, 6, 12), {}),
  "hn_mlpbn_depth3": (
    "hypernetwork",
    (6, 6, 12),
    {"hypernetwork_norm": True},
  ),
  "mlp_cat_simsiam": ("concat", (20, 20, 12), {"norm": "affine"}),
  "mlp_cat_mocov3": ("concat", (20, 20, 12), {"norm": "plain"}),
  "mlp_cat_allcond": ("concat", (16, 12), {"gamma_depth": 2}),
  "mlp_cat_crop_only": ("concat", (16, 12), {}),
}


@pytest.fixture(scope="module")
def reference(request):
  """All arrays of aug_projector.npz, unpacked: "config/group/name" -> array."""
  path = request.path.parent / "golden" / "aug_projector.npz"
  with np.load(path) as packed:
    arrays, start = {}, 0
    values = packed["values"]
    for name, text in zip(packed["names"], packed["shapes"], strict=True):
      shape = tuple(int(n) for n in text.decode().split("x"))
      stop = start + int(np.prod(shape))
      arrays[name.decode()] = values[start:stop].reshape(shape)
      start = stop
    configs = [str(config) for config in packed["configs"]]
  assert start == len(values)
  assert set(configs) == set(CASES)
  return arrays


def close(actual, expected, what):
  """Compares relative to the largest entry."""
  np.testing.assert_allclose(
    actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=what
  )


def noise(case, group, name):
  """Whether the true value is 0, so that torch stored rounding noise."""
  last = "4" if case == "mlp_cat_allcond" else "7"
  before_norm = "train" in group and name == f"aug_processor.{last}.bias"
  flat = case in ("mlp_cat_simsiam", "mlp_cat_mocov3")
  # A product with the features makes the bias matter even before BatchNorm.
  if case == "mlp_mul":
    before_norm = False
  return before_norm or (flat and group == "grad_train")


@pytest.mark.parametrize("case", CASES)
def test_equals_torch(reference, case):
  conditioning, widths, options = CASES[case]
  arrays = {
    key.removeprefix(case + "/"): value
    for key, value in reference.items()
    if key.startswith(case + "/")
  }
  x, omega = arrays["x"], arrays["omega"]
  projector = ConditionedProjector(
    widths,
    conditioning=conditioning,
    **{"gamma_depth": 3, "gamma_width": 8, **options},
  )
  template = shapes(projector, x, omega)
  state = {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}
  variables = torch_names.from_torch(template, state)
  weights = torch_fill.symmetric((len(x), 12), 903)

  def run(train, variables, x, omega):
    """Output, new statistics and both gradients, in one program."""

    def project(params, x, omega):
      return projector.apply(
        {**variables, "params": params},
        x,
        omega,
        train=train,
        mutable=["batch_stats"],
      )

    z, pull, new = jax.vjp(project, variables["params"], x, omega, has_aux=True)
    return z, new, {"grad": pull(2 * z), "grad2": pull(jnp.asarray(weights))}

  checked = 0
  for mode in ("eval", "train"):
    z, new, gradients = jax.jit(run, static_argnums=0)(
      mode == "train", variables, x, omega
    )
    close(z, arrays[f"out_{mode}"], f"out_{mode}")
    for kind, (params, dx, domega) in gradients.items():
      group = f"{kind}_{mode}"
      if f"{group}/x" not in arrays:
        continue
      named = torch_names.to_torch({"params": params})
      named |= {"x": dx, "omega": domega}
      for name, value in named.items():
        if not noise(case, group, name):
          close(value, arrays[f"{group}/{name}"], f"{group}/{name}")
          checked += 1
  after = torch_names.to_torch(new)
  expected = {k[6:]: v for k, v in arrays.items() if k.startswith("after/")}
  assert set(after) == set(expected)
  for name, value in expected.items():
    close(after[name], value, name)
  assert checked > len(named)


def projector_and_inputs(conditioning, **options):
  projector = ConditionedProjector(
    (16, 8), conditioning=conditioning, gamma_width=16, **options
  )
  features = jax.random.normal(jax.random.key(1), (12, 16))
  omega = jax.random.uniform(jax.random.key(2), (12, fields.size(SORTED)))
  variables = make(projector, features, omega)
  return projector, variables, features, omega


SORTED = sorted(fields.DEFAULT)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_each_omega_field_reaches_the_output(conditioning, train):
  projector, variables, features, omega = projector_and_inputs(conditioning)

  def loss(omega):
    z, _ = projector.apply(
      variables,
      features,
      omega,
      train=train,
      mutable=["batch_stats"],
      rngs={"conditioning": jax.random.key(3)},
    )
    return jnp.sum(jnp.sin(3 * z))

  gradient = np.abs(jax.jit(jax.grad(loss))(omega)).max(axis=0)
  start = 0
  for field in SORTED:
    stop = start + fields.FIELDS[field]
    if conditioning in ("none", "random"):
      assert not gradient[start:stop].any()
    else:
      assert (gradient[start:stop] > 1e-7).all(), field
    start = stop


def test_none_is_the_vanilla_projector():
  projector, variables, features, omega = projector_and_inputs("none")
  assert set(variables["params"]) == {"mlp"}
  z = projector.apply(variables, features, omega, train=False)
  vanilla = {key: tree["mlp"] for key, tree in variables.items()}
  expected = MLP((16, 8)).apply(vanilla, features, train=False)
  np.testing.assert_array_equal(z, expected)


def test_random_is_noise_of_gammas_size():
  projector, variables, features, omega = projector_and_inputs("random")
  kernel = variables["params"]["mlp"]["linear0"]["kernel"]
  assert kernel.shape == (16 + 16, 16)

  def run(seed):
    rngs = {"conditioning": jax.random.key(seed)}
    return projector.apply(variables, features, omega, train=False, rngs=rngs)

  np.testing.assert_array_equal(run(0), run(0))
  assert np.abs(run(0) - run(1)).max() > 1e-2
  with pytest.raises(flax.errors.InvalidRngError, match="conditioning"):
    projector.apply(variables, features, omega, train=False)


def test_default_gamma_is_the_papers():
  projector = ConditionedProjector((512, 128))
  params = shapes(projector, jnp.ones((2, 512)), jnp.ones((2, 14)))["params"]
  gamma = params["gamma"]
  assert {f"linear{i}" for i in range(6)} | {f"bn{i}" for i in range(6)} == set(
    gamma
  )
  for i in range(6):
    assert set(gamma[f"linear{i}"]) == {"kernel"}
  assert gamma["linear0"]["kernel"].shape == (14, 64)
  assert params["mlp"]["linear0"]["kernel"].shape == (512 + 64, 512)
  assert set(params["mlp"]["linear0"]) == {"kernel"}
  assert set(params["mlp"]["linear1"]) == {"kernel", "bias"}


@pytest.mark.parametrize("conditioning", ["concat", "add", "hypernetwork"])
def test_gamma_alone_asks_for_the_highest_precision(conditioning):
  """Else TPUs and GPUs round omega; pi, the large part, stays quick."""
  projector = ConditionedProjector((16, 8), conditioning=conditioning)
  variables = shapes(projector, jnp.ones((2, 5)), jnp.ones((2, 14)))
  found = jax.make_jaxpr(
    lambda variables: projector.apply(
      variables, jnp.ones((2, 5)), jnp.ones((2, 14)), train=False
    )
  )(variables)
  products = [e for e in found.eqns if e.primitive.name == "dot_general"]
  exact = (jax.lax.Precision.HIGHEST,) * 2
  asked = [e.params["precision"] == exact for e in products]
  assert asked == [True] * 6 + [False] * 2


def test_initialisation_is_torchs():
  mlp = MLP((400, 300))
  params = jax.jit(lambda: mlp.init(KEY, jnp.ones((2, 100)), train=False))()
  params = params["params"]
  for value, limit in (
    (params["linear0"]["kernel"], 0.1),
    (params["linear1"]["kernel"], 0.05),
    (params["linear1"]["bias"], 0.05),
  ):
    assert 0.97 * limit < np.abs(value).max() <= limit
    np.testing.assert_allclose(np.mean(value), 0, atol=0.15 * limit)
    # A uniform draw on [-limit, limit] has deviation limit / sqrt(3).
    np.testing.assert_allclose(np.std(value), limit / 3**0.5, rtol=0.1)


@pytest.mark.parametrize(
  "options, expected",
  [
    ({}, {"linear0", "bn0", "linear1", "bias1"}),
    ({"norm": "plain"}, {"linear0", "bn0", "linear1"}),
    ({"norm": "affine"}, {"linear0", "bn0", "linear1", "bn1"}),
    ({"last_bias": False}, {"linear0", "bn0", "linear1"}),
    (
      {"norm": "plain", "last_bias": True},
      {"linear0", "bn0", "linear1", "bias1"},
    ),
    ({"hidden_norm": False}, {"linear0", "bias0", "linear1", "bias1"}),
  ],
)
def test_mlp_options(options, expected):
  mlp = MLP((6, 4), **options)
  variables = make(mlp, jnp.ones((4, 3)))
  found = set(variables["params"])
  for i in range(2):
    if "bias" in variables["params"][f"linear{i}"]:
      found.add(f"bias{i}")
  assert found == expected
  if "norm" in options:
    z, _ = mlp.apply(
      variables,
      jax.random.normal(KEY, (64, 3)),
      train=True,
      mutable=["batch_stats"],
    )
    scale, bias = np.ones(4), np.zeros(4)
    if options["norm"] == "affine":
      scale = variables["params"]["bn1"]["scale"]
      bias = variables["params"]["bn1"]["bias"]
    np.testing.assert_allclose(z.mean(0), bias, atol=1e-5)
    np.testing.assert_allclose(z.std(0), scale, rtol=1e-2)


@pytest.mark.parametrize("hypernetwork_norm", [False, True])
@pytest.mark.parametrize("norm", ["none", "plain", "affine"])
@pytest.mark.parametrize("last_bias", [None, False, True])
def test_hypernetwork_has_the_last_norm_and_bias(
  norm, last_bias, hypernetwork_norm
):
  projector, variables, features, omega = projector_and_inputs(
    "hypernetwork",
    gamma_depth=1,
    norm=norm,
    last_bias=last_bias,
    hypernetwork_norm=hypernetwork_norm,
  )
  params = variables["params"]
  biased = norm == "none" if last_bias is None else last_bias
  total = params["hypernetwork"]["linear0"]["kernel"].shape[1]
  assert total == 16 * 16 + 16 + 16 * 8 + 8 * biased
  names = {"hypernetwork"} | ({"bn0"} if hypernetwork_norm else set())
  assert set(params) == names | ({"last_bn"} if norm == "affine" else set())
  names |= {"last_bn"} if norm != "none" else set()
  assert set(variables["batch_stats"]) == names
  z, new = projector.apply(
    variables, features, omega, train=True, mutable=["batch_stats"]
  )

  # By hand, in float64: emit, two layers, the norms.
  def batchnorm(x, scale=1.0, bias=0.0):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale + bias

  tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  emit = tree["hypernetwork"]
  emitted = np.asarray(omega, np.float64) @ emit["linear0"]["kernel"]
  emitted = batchnorm(emitted, **emit["bn0"])
  first, bias, second, last = np.split(emitted, [256, 272, 400], axis=1)
  x = np.asarray(features, np.float64)
  x = np.einsum("bi,bio->bo", x, first.reshape(-1, 16, 16)) + bias
  if hypernetwork_norm:
    x = batchnorm(x, **tree["bn0"])
  x = np.einsum("bi,bio->bo", np.maximum(x, 0), second.reshape(-1, 16, 8))
  x = x + last if biased else x
  if norm != "none":
    mean = new["batch_stats"]["last_bn"]["mean"]
    old = variables["batch_stats"]["last_bn"]["mean"]
    close(mean, 0.9 * old + 0.1 * x.mean(0), "running mean")
    x = batchnorm(x, **tree.get("last_bn", {}))
  close(z, x, "output")


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_bfloat16_is_close_to_float32(conditioning):
  outputs = []
  for dtype in (jnp.float32, jnp.bfloat16):
    projector, variables, features, omega = projector_and_inputs(
      conditioning, dtype=dtype
    )
    z = projector.apply(
      variables, features, omega, train=False, rngs={"conditioning": KEY}
    )
    assert z.dtype == jnp.float32
    outputs.append(np.asarray(z))
  scale = np.abs(outputs[0]).max()
  np.testing.assert_allclose(outputs[1], outputs[0], atol=0.03 * scale)


@pytest.mark.parametrize(
  "options, match",
  [
    ({"conditioning": "concatenate"}, "concat"),
    ({"conditioning": "add", "gamma_depth": 0}, "gamma_depth"),
    ({"conditioning": "hypernetwork", "gamma_depth": 0}, "gamma_depth"),
    ({"gamma_depth": -1}, "gamma_depth"),
    ({"norm": "batch"}, "affine, none, plain"),
    (
      {"conditioning": "hypernetwork", "norm": "batch"},
      "affine, none, plain",
    ),
    ({"activation": "tanh"}, "gelu, relu"),
  ],
)
def test_impossible_settings_are_user_errors(options, match):
  projector = ConditionedProjector((16, 8), **options)
  with pytest.raises(UserError, match=match):
    shapes(projector, jnp.ones((2, 16)), jnp.ones((2, 14)))
