"""Optimisers against float64 twins written from their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cassle_jax import optim
from cassle_jax.errors import UserError
from cassle_jax.step import encode

RUN = {"batch_size": 512, "steps_per_epoch": 4, "total_steps": 12}
PATHS = (
  ("backbone", "conv", "kernel"),
  ("backbone", "conv", "bias"),
  ("backbone", "norm", "scale"),
  ("predictor", "dense", "kernel"),
)


def make_params():
  draw = np.random.default_rng(0).normal
  params = {
    "backbone": {
      "conv": {"kernel": draw(size=(3, 4)), "bias": draw(size=4)},
      "norm": {"scale": draw(size=4)},
      "empty": {},
    },
    "predictor": {"dense": {"kernel": draw(size=(2, 2))}},
  }
  return jax.tree.map(lambda x: np.asarray(x, np.float32), params)


def at(tree, path):
  for name in path:
    tree = tree[name]
  return tree


def run(optimizer, params, steps=3):
  """Applies `steps` updates with the gradients of `gradient`; all params."""
  params = jax.tree.map(jnp.asarray, params)
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  history = []
  for step in range(steps):
    gradients = jax.tree.map(lambda x, s=step: gradient(x, s), params)
    updates, state = update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    history.append(params)
  assert update._cache_size() == 1
  return history, state


def gradient(x, step):
  return 0.3 * x + 0.1 * (step + 1)


def twin(x, rule, steps=3):
  """The same loop for one array in float64; rule(p, g, memory, step)."""
  x, memory, history = np.float64(x), {}, []
  for step in range(steps):
    x = rule(x, gradient(x, step), memory, step)
    history.append(x)
  return history


def check(history, path, expected):
  for params, value in zip(history, expected, strict=True):
    np.testing.assert_allclose(at(params, path), value, rtol=2e-5, atol=1e-7)


def cosine(step):
  return 0.5 * (1 + np.cos(np.pi * step / 12))


def sgd(rate=0.06, decay=1e-2, momentum=0.9, fraction=cosine):
  def rule(p, g, memory, step):
    g = g + decay * p
    memory["m"] = momentum * memory["m"] + g if memory else g
    return p - rate * fraction(step) * memory["m"]

  return rule


def test_sgd_is_torchs():
  optimizer = optim.build(weight_decay=1e-2, **RUN)
  params = make_params()
  history, state = run(optimizer, params)
  for path in PATHS:
    check(history, path, twin(at(params, path), sgd()))
  assert int(state.count) == 3
  np.testing.assert_allclose(optimizer.learning_rate(0), 0.06)
  np.testing.assert_allclose(optimizer.weight_decay(5), 1e-2)


def adamw(rate=2e-3, decay=0.1):
  def rule(p, g, memory, step):
    memory["t"] = memory.get("t", 0) + 1
    memory["m"] = 0.8 * memory.get("m", 0) + 0.2 * g
    memory["v"] = 0.95 * memory.get("v", 0) + 0.05 * g**2
    m, v = memory["m"] / (1 - 0.8 ** memory["t"]), memory["v"]
    v = v / (1 - 0.95 ** memory["t"])
    fraction = rate * cosine(step)
    return p * (1 - fraction * decay) - fraction * m / (np.sqrt(v) + 1e-8)

  return rule


def test_adamw_decays_apart_from_the_gradient():
  params = make_params()
  history, _ = run(
    optim.build(
      name="adamw",
      learning_rate=1e-3,
      weight_decay=0.1,
      betas=(0.8, 0.95),
      **RUN,
    ),
    params,
  )
  for path in PATHS:
    check(history, path, twin(at(params, path), adamw()))


def lars(adapt, rate=0.4, decay=1e-2, trust=0.001):
  def rule(p, g, memory, step):
    u = g
    if adapt:
      u = g + decay * p
      norms = np.linalg.norm(p), np.linalg.norm(u)
      u = u * (trust * norms[0] / norms[1] if min(norms) > 0 else 1.0)
    memory["m"] = 0.9 * memory.get("m", 0) + u
    return p - rate * cosine(step) * memory["m"]

  return rule


def test_lars_adapts_matrices_only():
  params = make_params()
  history, _ = run(
    optim.build(name="lars", learning_rate=0.2, weight_decay=1e-2, **RUN),
    params,
  )
  for path in PATHS:
    x = at(params, path)
    check(history, path, twin(x, lars(adapt=x.ndim > 1)))


def test_lars_adapts_all_if_told_to():
  params = make_params()
  history, _ = run(
    optim.build(
      name="lars", learning_rate=0.2, weight_decay=1e-2, adapt_all=True, **RUN
    ),
    params,
  )
  for path in PATHS:
    check(history, path, twin(at(params, path), lars(adapt=True)))


def test_lars_on_two_by_two_by_hand():
  params = {"w": jnp.asarray([[3.0, 0.0], [0.0, 4.0]])}  # norm 5
  gradients = {"w": jnp.asarray([[0.0, 2.0], [0.0, 0.0]])}  # norm 2
  optimizer = optim.build(
    name="lars",
    learning_rate=1.0,
    weight_decay=0.0,
    trust_coefficient=0.1,
    schedule="constant",
    scale_learning_rate=False,
    **RUN,
  )
  state = optimizer.init(params)
  updates, state = optimizer.update(gradients, state, params)
  # 0.1 * 5 / 2 = 0.25 of the gradient, then 1.9 times that.
  np.testing.assert_allclose(updates["w"], [[0, -0.5], [0, 0]], rtol=1e-6)
  updates, state = optimizer.update(gradients, state, params)
  np.testing.assert_allclose(updates["w"], [[0, -0.95], [0, 0]], rtol=1e-6)


def test_lars_leaves_zero_norms_alone():
  params = {"w": jnp.zeros((2, 2))}
  optimizer = optim.build(name="lars", weight_decay=0.0, **RUN)
  updates, _ = optimizer.update(
    {"w": jnp.ones((2, 2))}, optimizer.init(params), params
  )
  np.testing.assert_allclose(updates["w"], -0.06 * np.ones((2, 2)), rtol=1e-6)


@pytest.mark.parametrize(
  "exclude, spared",
  [
    (("ndim1",), {1, 2}),
    (("bias$",), {1}),
    (("norm/", "^predictor"), {2, 3}),
  ],
)
def test_excluded_parameters_do_not_decay(exclude, spared):
  params = make_params()
  history, _ = run(
    optim.build(weight_decay=1e-2, exclude=exclude, **RUN), params
  )
  for index, path in enumerate(PATHS):
    rule = sgd(decay=0.0 if index in spared else 1e-2)
    check(history, path, twin(at(params, path), rule))


def test_lars_does_not_adapt_what_is_excluded():
  params = make_params()
  history, _ = run(
    optim.build(
      name="lars",
      learning_rate=0.2,
      weight_decay=1e-2,
      exclude=("predictor",),
      **RUN,
    ),
    params,
  )
  for index, path in enumerate(PATHS):
    check(history, path, twin(at(params, path), lars(adapt=index == 0)))


def test_frozen_parameters_keep_still_and_have_no_state():
  params = make_params()
  optimizer = optim.build(
    name="adamw", weight_decay=0.5, frozen=("backbone/conv",), **RUN
  )
  history, state = run(optimizer, params)
  for last in history:
    np.testing.assert_array_equal(
      last["backbone"]["conv"]["kernel"], params["backbone"]["conv"]["kernel"]
    )
  assert not np.array_equal(
    history[-1]["backbone"]["norm"]["scale"],
    params["backbone"]["norm"]["scale"],
  )
  paths = [
    jax.tree_util.keystr(p, simple=True, separator="/")
    for p, _ in jax.tree_util.tree_leaves_with_path(state)
  ]
  assert any("norm/scale" in path for path in paths)
  assert not any("conv" in path for path in paths)


@pytest.mark.parametrize(
  "options, rule",
  [
    ({"weight_decay": 1e-2}, sgd()),
    (
      {"name": "lars", "learning_rate": 0.2, "weight_decay": 1e-2},
      lars(adapt=True),
    ),
    (
      {
        "name": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "betas": (0.8, 0.95),
      },
      adamw(),
    ),
  ],
)
def test_what_is_frozen_at_first_starts_afresh(options, rule):
  """Half an epoch of 4 steps: two steps of rest, then as if nothing had been.

  The moments are empty and adamw corrects their bias from that step on; the
  rate is the schedule's.
  """
  params = make_params()
  freeze = (("predictor", 0.25), ("predictor/dense", 0.5), ("backbone", 0.0))
  history, _ = run(optim.build(freeze=freeze, **options, **RUN), params, 5)

  def late(p, g, memory, step):
    return p if step < 2 else rule(p, g, memory, step)

  for path, own in (PATHS[0], rule), (PATHS[3], late):
    check(history, path, twin(at(params, path), own, steps=5))
  np.testing.assert_array_equal(at(history[1], PATHS[3]), at(params, PATHS[3]))


def test_freezing_by_hand():
  """One step of rest, whose gradient is not even a number, then two of SGD.

  1 - (1 + 0.1 * 1) = -0.1; then the momentum is 0.5 * 1.1 + 1 - 0.01 = 1.54.
  """
  optimizer = optim.build(
    learning_rate=1.0,
    scale_learning_rate=False,
    schedule="constant",
    weight_decay=0.1,
    momentum=0.5,
    freeze=(("b", 1.0),),
    batch_size=2,
    steps_per_epoch=1,
    total_steps=3,
  )
  params = {"a": jnp.ones(()), "b": jnp.ones(())}
  state, values = optimizer.init(params), []
  for gradient_of_b in (jnp.nan, 1.0, 1.0):
    gradients = {"a": jnp.zeros(()), "b": jnp.asarray(gradient_of_b)}
    updates, state = optimizer.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    values.append(float(params["b"]))
  np.testing.assert_allclose(values, [1.0, -0.1, -1.64], rtol=1e-6)


def test_groups_with_other_rates():
  params = make_params()
  history, _ = run(
    optim.build(
      weight_decay=0.0,
      bias_learning_rate=0.005,
      constant=("predictor",),
      learning_rate_scale=(("backbone", 0.5), ("predictor/dense", 4.0)),
      **RUN,
    ),
    params,
  )
  rules = (
    sgd(0.03, 0.0),
    sgd(0.005, 0.0),
    sgd(0.005, 0.0),
    sgd(0.24, 0.0, fraction=lambda step: 1.0),
  )
  for path, rule in zip(PATHS, rules, strict=True):
    check(history, path, twin(at(params, path), rule))


def test_weight_decay_ramps():
  params = make_params()
  optimizer = optim.build(weight_decay=0.04, final_weight_decay=0.4, **RUN)
  history, _ = run(optimizer, params)

  def rule(p, g, memory, step):
    g = g + (0.4 - 0.36 * cosine(step)) * p
    memory["m"] = 0.9 * memory.get("m", 0) + g
    return p - 0.06 * cosine(step) * memory["m"]

  check(history, PATHS[0], twin(at(params, PATHS[0]), rule))
  np.testing.assert_allclose(optimizer.weight_decay(12), 0.4)


def test_clipping_sees_trained_gradients_only():
  params = {"a": jnp.ones(2), "b": jnp.ones(2)}
  optimizer = optim.build(
    weight_decay=0.0,
    clip_norm=1.0,
    scale_learning_rate=False,
    learning_rate=1.0,
    frozen=("b",),
    **RUN,
  )
  gradients = {"a": jnp.asarray([3.0, 4.0]), "b": jnp.asarray([1e6, 0.0])}
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_allclose(updates["a"], [-0.6, -0.8], rtol=1e-6)
  np.testing.assert_array_equal(updates["b"], [0, 0])


def test_clipping_leaves_out_what_is_frozen_at_first():
  params = {"a": jnp.ones(2), "b": jnp.ones(2)}
  optimizer = optim.build(
    weight_decay=0.0,
    momentum=0.0,
    clip_norm=1.0,
    scale_learning_rate=False,
    learning_rate=1.0,
    schedule="constant",
    freeze=(("b", 0.25),),
    **RUN,
  )
  state = optimizer.init(params)
  gradients = {"a": jnp.asarray([3.0, 4.0]), "b": jnp.asarray([12.0, 0.0])}
  updates, state = optimizer.update(gradients, state, params)
  np.testing.assert_allclose(updates["a"], [-0.6, -0.8], rtol=1e-6)
  np.testing.assert_array_equal(updates["b"], [0, 0])
  updates, state = optimizer.update(gradients, state, params)  # norm 13
  np.testing.assert_allclose(updates["a"], [-3 / 13, -4 / 13], rtol=1e-6)
  np.testing.assert_allclose(updates["b"], [-12 / 13, 0], rtol=1e-6)


def test_a_stopped_run_goes_on_bit_for_bit():
  params = make_params()
  optimizer = optim.build(
    name="adamw",
    warmup_epochs=1,
    final_weight_decay=0.3,
    freeze=(("predictor", 0.75),),
    **RUN,
  )
  straight, _ = run(optimizer, params, steps=4)
  update = jax.jit(optimizer.update)
  state = optimizer.init(params)
  for step in range(4):
    if step == 2:
      state = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
    gradients = jax.tree.map(lambda x, s=step: gradient(x, s), params)
    updates, state = update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  jax.tree.map(np.testing.assert_array_equal, params, straight[-1])


def test_it_is_an_optax_transformation():
  params = make_params()
  optimizer = optim.build(**RUN)
  chained = optax.chain(optax.scale(2.0), optimizer)
  updates, _ = chained.update(params, chained.init(params), params)
  alone, _ = optimizer.update(
    jax.tree.map(lambda x: 2 * x, params), optimizer.init(params), params
  )
  jax.tree.map(np.testing.assert_array_equal, updates, alone)


@pytest.mark.parametrize(
  "options, words",
  [
    ({"name": "adam"}, "Did you mean 'adamw'"),
    ({"learning_rate": -1.0}, "optim.learning_rate=-1.0 must"),
    ({"weight_decay": float("nan")}, "optim.weight_decay=nan must"),
    ({"momentum": 1.0}, r"optim.momentum=1.0 must be at least 0 and below 1"),
    ({"momentum": -0.1}, "optim.momentum=-0.1 must"),
    ({"momentum": float("nan")}, "optim.momentum=nan must"),
    ({"name": "adamw", "betas": (0.9, 1.0)}, r"optim.betas=\(0.9, 1.0\)"),
    ({"name": "adamw", "betas": (-0.9, 0.9)}, r"optim.betas=\(-0.9, 0.9\)"),
    ({"name": "adamw", "betas": (0.9,)}, "two numbers"),
    ({"frozen": ("backbone/patch",)}, "'backbone/patch'"),
    ({"constant": ("predicter",)}, "start with backbone, predictor"),
    ({"freeze": (("prototypes", 1.0),)}, "optim.freeze names 'prototypes'"),
    ({"freeze": (("backbone", -1.0),)}, "freeze=.*-1.0.* must"),
    ({"adapt_all": True}, "adapt_all=True concerns lars, not sgd"),
    ({"learning_rate_scale": (("x", 2.0),)}, "learning_rate_scale"),
    ({"exclude": ("Bias",)}, "'Bias' matches no parameter"),
    ({"exclude": ("(",)}, "no regular expression"),
  ],
)
def test_errors(options, words):
  with pytest.raises(UserError, match=words) as error:
    optim.build(**RUN, **options).init(make_params())
  assert "\n" not in str(error.value)


def test_momentum_and_betas_may_be_zero():
  optim.build(**RUN, momentum=0.0)
  optim.build(**RUN, name="adamw", betas=(0.0, 0.0))


@pytest.mark.parametrize(
  "options",
  [
    dict(name="lars"),
    dict(name="lars", adapt_all=True),
    dict(name="sgd", exclude=("ndim1",)),
    dict(name="adamw", exclude=("ndim1",)),
  ],
)
def test_stacked_copies_are_optimised_like_separate_networks(options):
  """A leading axis of copies is no axis of a parameter: bias, kernel, trust."""
  copies = [
    jax.tree.map(lambda x, s=s: s * x, make_params()) for s in (1.0, 3.0, -7.0)
  ]
  options |= dict(weight_decay=0.1, bias_learning_rate=0.5, learning_rate=0.2)
  plain = optim.build(**options, **RUN)
  expected = [run(plain, copy)[0][-1] for copy in copies]
  stack = jax.tree.map(lambda *x: np.stack(x), *copies)
  both = optim.build(**options, **RUN, copied=("backbone", "predictor"))
  found = run(both, stack)[0][-1]
  for index, one in enumerate(expected):
    jax.tree.map(
      lambda x, y, i=index: np.testing.assert_allclose(x[i], y, rtol=1e-5),
      found,
      one,
    )
  # Without being told, the vectors would pass for matrices.
  other = run(optim.build(**options, **RUN), stack)[0][-1]
  scale = ("backbone", "norm", "scale")
  assert not np.allclose(at(other, scale), at(found, scale), rtol=1e-3)


@pytest.mark.parametrize("optimizer", [None, optax.adam(0.1)])
def test_a_layer_may_have_the_name_of_a_head(optimizer):
  """What rests is told by the network: a backbone's `projector` does not."""
  ones = {"projector": {"kernel": jnp.ones((3, 2))}}
  params = {"backbone": ones, "projector": {"predictor": jnp.ones((3, 2))}}
  optimizer = optimizer or optim.build(
    name="adamw", **RUN, copied=("projector",)
  )
  old = optimizer.init(params)
  updates, new = optimizer.update(params, old, params)
  moved = optax.apply_updates(params, updates)
  kept = encode.keep_undrawn(moved, params, 1)
  rows = [
    x.tolist()
    for x in (moved["backbone"], params["projector"])
    for x in jax.tree.leaves(x)
  ]
  found = [x.tolist() for x in jax.tree.leaves(kept)]
  assert found[0] == rows[0] and found[1][::2] == rows[1][::2]
  assert found[1][1] != rows[1][1]
  keep = getattr(optimizer, "keep", encode.keep_undrawn)
  for path, x in jax.tree_util.tree_leaves_with_path(keep(new, old, 1)):
    if jnp.shape(x) == (3, 2):
      head = "['backbone']" not in jax.tree_util.keystr(path)
      assert np.all((x != 0) == (np.array([[0], [1], [0]]) if head else 1))


def test_a_copy_that_rests_counts_its_own_updates():
  """adamw's correction of the bias, after other copies had their turns."""
  parameters = make_params()
  options = dict(name="adamw", weight_decay=0.0, schedule="constant")
  lone, _ = run(optim.build(**options, **RUN), parameters, steps=2)
  params = {"projector": jax.tree.map(lambda x: jnp.stack([x, x]), parameters)}
  several = optim.build(**options, **RUN, copied=("projector",))
  state, turns = several.init(params), {0: 0, 1: 0}
  for index in (0, 0, 0, 1, 1):
    step = turns[index]
    turns[index] += 1
    gradients = jax.tree.map(
      lambda x, i=index, s=step: jnp.zeros_like(x).at[i].set(gradient(x[i], s)),
      params,
    )
    updates, new = several.update(gradients, state, params)
    params = encode.keep_undrawn(
      optax.apply_updates(params, updates), params, index
    )
    state = several.keep(new, state, index)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-5),
    params["projector"],
    lone[-1],
  )
