"""SwAV and DINO against float64 numpy twins and cases computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cassle_jax import methods
from cassle_jax.errors import UserError
from cassle_jax.methods import Branch, Widths, dino, multicrop, swav

KEY = jax.random.key(0)


def softmax_twin(logits):
  weights = np.exp(logits - logits.max(axis=1, keepdims=True))
  return weights / weights.sum(axis=1, keepdims=True)


def sinkhorn_twin(scores, epsilon, iterations):
  """As the paper writes it: Q is [K, B], scaled to the marginals 1/K, 1/B."""
  q = np.exp(scores.astype(np.float64).T / epsilon)
  q /= q.sum()
  count, batch = q.shape
  for _ in range(iterations):
    q *= (1 / count) / q.sum(axis=1, keepdims=True)
    q *= (1 / batch) / q.sum(axis=0, keepdims=True)
  return batch * q.T


def cross_view_twin(labels, scores, temperature):
  values = []
  for v, label in enumerate(labels):
    for u, view in enumerate(scores):
      if u == v:
        continue
      for p, row in zip(label, view.astype(np.float64), strict=True):
        q = softmax_twin(row[None] / temperature)[0]
        values.append(-sum(a * np.log(b) for a, b in zip(p, q, strict=True)))
  return np.mean(values)


def swav_twin(scores, temperature=0.1, epsilon=0.05, iterations=3):
  codes = [sinkhorn_twin(s, epsilon, iterations) for s in scores[:2]]
  return cross_view_twin(codes, scores, temperature)


def dino_labels_twin(teachers, center, temperature):
  return [softmax_twin((t - center[None]) / temperature) for t in teachers]


def entropy_twin(rows):
  return -np.mean(np.sum(rows * np.log(rows), axis=1))


@pytest.fixture
def cosines():
  """Draws scores as they are: inner products of unit vectors, [B, K]."""
  generator = np.random.default_rng(4)

  def draw(batch=8, count=5):
    z = generator.normal(size=(batch, 6))
    c = generator.normal(size=(6, count))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return (z @ (c / np.linalg.norm(c, axis=0))).astype(np.float32)

  return draw


@pytest.mark.parametrize("epsilon, iterations", [(0.05, 3), (0.5, 1)])
def test_sinkhorn_equals_its_float64_twin(cosines, epsilon, iterations):
  scores = cosines()
  codes = swav.sinkhorn(scores, epsilon=epsilon, iterations=iterations)
  np.testing.assert_allclose(
    codes, sinkhorn_twin(scores, epsilon, iterations), rtol=2e-5, atol=1e-9
  )
  np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-6)


def test_sinkhorn_by_hand():
  """Q = [[3, 1], [1, 1]], one row an image.

  Columns to 1: [[3/4, 1/2], [1/4, 1/2]]; rows to 1: [[3/5, 2/5], [1/3, 2/3]].
  In the end both sums are 1 and p^2 / (1 - p)^2 is still 3.
  """
  scores = 0.05 * jnp.log(jnp.array([[3.0, 1.0], [1.0, 1.0]]))
  codes = swav.sinkhorn(scores, epsilon=0.05, iterations=1)
  np.testing.assert_allclose(codes, [[3 / 5, 2 / 5], [1 / 3, 2 / 3]], rtol=1e-5)
  p = np.sqrt(3) / (1 + np.sqrt(3))
  codes = swav.sinkhorn(scores, epsilon=0.05, iterations=40)
  np.testing.assert_allclose(codes, [[p, 1 - p], [1 - p, p]], rtol=1e-5)


def test_sinkhorn_gives_every_prototype_the_same_share(cosines):
  scores = cosines()
  alone = softmax_twin(scores / 0.2).sum(axis=0)
  assert np.ptp(alone) > 0.5  # Without it the shares differ.
  codes = swav.sinkhorn(scores, epsilon=0.2, iterations=50)
  np.testing.assert_allclose(codes.sum(axis=0), 8 / 5, rtol=1e-4)
  np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-5)


def test_sinkhorn_neither_overflows_nor_starves():
  """exp(1 / 0.001) is beyond float64; the second prototype is far from both.

  The gaps are so wide that only the second image has a share of it: columns
  to 1: [[1/2, 0], [1/2, 1]]; rows: [[1, 0], [1/3, 2/3]]; then [[3/4, 0],
  [1/4, 1]] and [[1, 0], [1/5, 4/5]]; then [[5/6, 0], [1/6, 1]].
  """
  scores = jnp.array([[1.0, -1.0], [1.0, -0.5]])
  codes = swav.sinkhorn(scores, epsilon=0.001, iterations=3)
  np.testing.assert_allclose(codes, [[1, 0], [1 / 7, 6 / 7]], rtol=1e-4)


def test_swav_equals_its_float64_twin(cosines):
  scores = tuple(cosines() for _ in range(4))
  loss, metrics = methods.build(name="swav").loss(
    KEY, Branch(scores=scores), Branch(), {}
  )
  np.testing.assert_allclose(loss, swav_twin(scores), rtol=2e-6)
  codes = [sinkhorn_twin(s, 0.05, 3) for s in scores[:2]]
  np.testing.assert_allclose(
    metrics["code_entropy"],
    np.mean([entropy_twin(c) for c in codes]),
    rtol=1e-5,
  )
  same = codes[0].argmax(axis=1) == codes[1].argmax(axis=1)
  assert 0 < same.mean() < 1
  np.testing.assert_allclose(metrics["code_agreement"], same.mean())
  method = methods.build(
    name="swav", temperature=0.3, epsilon=0.2, iterations=2
  )
  loss, _ = method.loss(KEY, Branch(scores=scores[:2]), Branch(), {})
  np.testing.assert_allclose(
    loss, swav_twin(scores[:2], 0.3, 0.2, 2), rtol=2e-6
  )


def test_swav_by_hand():
  """Codes as in the Sinkhorn case, predictions [3/4, 1/4] and [1/2, 1/2]."""
  scores = jnp.log(jnp.array([[3.0, 1.0], [1.0, 1.0]]))
  method = methods.build(
    name="swav", temperature=1.0, epsilon=1.0, iterations=1
  )
  loss, _ = method.loss(KEY, Branch(scores=(scores, scores)), Branch(), {})
  first = -(3 / 5 * np.log(3 / 4) + 2 / 5 * np.log(1 / 4))
  np.testing.assert_allclose(loss, (first + np.log(2)) / 2, rtol=1e-6)


def test_pairs_of_views_by_hand():
  """Labels of views 0 and 1, three views: 4 pairs, none of them with itself.

  A view's scores are 0, or certain of the first class; then a label of the
  first class costs about 0 and one of the second the whole gap of 100.
  """
  first, second = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
  even, certain = jnp.zeros((1, 2)), jnp.array([[100.0, 0.0]])

  def loss(*scores):
    return multicrop.cross_view_loss((first, second), scores, temperature=1.0)

  log2 = np.log(2)
  np.testing.assert_allclose(loss(even, even, even), log2, rtol=1e-6)
  # View 0 is asked for view 1's label only: 100; the others are even.
  expected = (100 + 3 * log2) / 4
  np.testing.assert_allclose(loss(certain, even, even), expected, rtol=1e-6)
  # View 1 is asked for view 0's label only: 0.
  expected = 3 * log2 / 4
  np.testing.assert_allclose(loss(even, certain, even), expected, rtol=1e-6)
  # A local crop is asked for both.
  expected = (100 + 2 * log2) / 4
  np.testing.assert_allclose(loss(even, even, certain), expected, rtol=1e-6)


def test_no_gradient_flows_into_the_codes(cosines):
  weights = cosines()

  def weighted(scores):
    codes = swav.sinkhorn(scores, epsilon=0.05, iterations=3)
    return jnp.sum(weights * codes)

  assert not np.any(jax.grad(weighted)(cosines()))


def test_swav_gradient_is_that_of_fixed_codes(cosines):
  scores = tuple(cosines() for _ in range(3))
  method = methods.build(name="swav")
  grads = jax.grad(
    lambda scores: method.loss(KEY, Branch(scores=scores), Branch(), {})[0]
  )(scores)
  codes = [sinkhorn_twin(s, 0.05, 3) for s in scores[:2]]
  check_slopes(grads, scores, lambda s: cross_view_twin(codes, s, 0.1))


def check_slopes(grads, scores, twin, step=1e-6):
  for view, index in [(0, (0, 0)), (0, (3, 2)), (1, (1, 1)), (2, (2, 0))]:
    up = [s.astype(np.float64) for s in scores]
    down = [s.astype(np.float64) for s in scores]
    up[view][index] += step
    down[view][index] -= step
    slope = (twin(up) - twin(down)) / (2 * step)
    np.testing.assert_allclose(grads[view][index], slope, rtol=1e-3, atol=1e-6)


def test_prototypes_get_unit_length_after_each_step(cosines):
  kernel = jnp.array([[3.0, 0.0, 0.0], [4.0, 0.5, 0.0]])
  other = {"kernel": jnp.full((2, 2), 5.0)}
  constrain = methods.build(name="swav").constrain
  after = constrain({"projector": other, "prototypes": {"kernel": kernel}})
  expected = [[0.6, 0.0, 0.0], [0.8, 1.0, 0.0]]
  np.testing.assert_allclose(after["prototypes"]["kernel"], expected, rtol=1e-6)
  np.testing.assert_array_equal(after["projector"]["kernel"], other["kernel"])
  np.testing.assert_array_equal(kernel[:, 0], [3, 4])  # Not changed in place.


def test_dino_equals_its_float64_twin(cosines):
  students = tuple(cosines() for _ in range(4))
  teachers = tuple(cosines() for _ in range(2))
  center = 0.1 * cosines(1)[0]
  method = methods.build(name="dino", steps_per_epoch=10)
  memory = {"center": jnp.asarray(center), "step": jnp.int32(100)}
  loss, metrics = method.loss(
    KEY, Branch(scores=students), Branch(scores=teachers), memory
  )
  # A third of the warm-up's 300 steps.
  labels = dino_labels_twin(teachers, np.float64(center), 0.05)
  np.testing.assert_allclose(metrics["teacher_temperature"], 0.05, rtol=1e-6)
  np.testing.assert_allclose(
    loss, cross_view_twin(labels, students, 0.1), rtol=2e-6
  )
  entropy = np.mean([entropy_twin(label) for label in labels])
  np.testing.assert_allclose(metrics["teacher_entropy"], entropy, rtol=1e-5)
  divergences = [
    np.sum(p * np.log(p / softmax_twin(students[s] / np.float64(0.1))), axis=1)
    for t, p in enumerate(labels)
    for s in range(4)
    if s != t
  ]
  np.testing.assert_allclose(
    metrics["teacher_divergence"], np.mean(divergences), rtol=1e-5
  )


def test_dino_by_hand():
  """One image. Labels [1/4, 3/4] and, at the centre itself, [1/2, 1/2].

  Each student view predicts the other's label exactly: no divergence.
  """
  center = jnp.array([0.3, -0.2])
  skewed = jnp.log(jnp.array([[1.0, 3.0]]))
  teachers = 0.07 * skewed + center[None], center[None]
  students = jnp.zeros((1, 2)), 0.1 * skewed
  method = methods.build(
    name="dino", steps_per_epoch=3, warmup_teacher_epochs=0.0
  )
  loss, metrics = method.loss(
    KEY,
    Branch(scores=students),
    Branch(scores=teachers),
    {"center": center, "step": jnp.int32(0)},
  )
  skewed_entropy = -(np.log(1 / 4) / 4 + 3 * np.log(3 / 4) / 4)
  expected = (skewed_entropy + np.log(2)) / 2
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(metrics["teacher_entropy"], expected, rtol=1e-5)
  np.testing.assert_allclose(metrics["teacher_divergence"], 0, atol=1e-5)


def test_dino_trains_the_student_only(cosines):
  students = tuple(cosines() for _ in range(3))
  teachers = tuple(cosines() for _ in range(2))
  method = methods.build(name="dino", steps_per_epoch=1)
  memory = method.init_memory(jax.random.key(0), Widths(256, 5))

  def loss(students, teachers):
    return method.loss(
      KEY, Branch(scores=students), Branch(scores=teachers), memory
    )[0]

  moving, still = jax.grad(loss, argnums=(0, 1))(students, teachers)
  assert not np.any(still)
  labels = dino_labels_twin(np.float64(teachers), np.zeros(5), 0.04)
  check_slopes(moving, students, lambda s: cross_view_twin(labels, s, 0.1))


def test_dino_centre_by_hand():
  """The mean of four rows is [2, 1]: 0.9 [1, 0] + 0.1 [2, 1]."""
  method = methods.build(name="dino", steps_per_epoch=1)
  memory = method.init_memory(jax.random.key(0), Widths(256, 2))
  np.testing.assert_array_equal(memory["center"], [0, 0])
  assert memory["step"] == 0 and memory["step"].dtype == jnp.int32
  teachers = jnp.array([[2.0, 0.0], [0.0, 4.0]]), jnp.array([[6.0, 0], [0, 0]])
  memory = method.update_memory(
    {"center": jnp.array([1.0, 0.0]), "step": jnp.int32(6)},
    Branch(scores=(100 * jnp.ones((2, 2)),) * 3),
    Branch(scores=teachers),
  )
  np.testing.assert_allclose(memory["center"], [1.1, 0.1], rtol=1e-6)
  assert memory["step"] == 7 and memory["step"].dtype == jnp.int32
  still = methods.build(name="dino", steps_per_epoch=1, center_momentum=1.0)
  memory = still.update_memory(memory, Branch(), Branch(scores=teachers))
  np.testing.assert_allclose(memory["center"], [1.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
  "step, expected",
  [(0, 0.04), (75, 0.0475), (150, 0.055), (300, 0.07), (10**6, 0.07)],
)
def test_teacher_temperature_warms_up(step, expected):
  """30 epochs of 10 steps."""
  value = dino.temperature_at(
    jnp.int32(step), start=0.04, end=0.07, warmup_steps=300.0
  )
  np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_losses_are_global(cosines, name):
  """A batch spread over 8 devices gives the loss and gradients of one."""
  method = methods.build(name=name)
  views = tuple(cosines() for _ in range(3))
  teachers = tuple(cosines() for _ in range(2))
  memory = method.init_memory(jax.random.key(0), Widths(128, 5))

  @jax.jit
  def run(views, teachers):
    online, target = Branch(scores=views), Branch(scores=teachers)
    loss = jax.value_and_grad(
      lambda v: method.loss(KEY, online._replace(scores=v), target, memory)[0]
    )
    return loss(views), method.update_memory(memory, online, target)

  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spread = NamedSharding(mesh, PartitionSpec("data"))
  one = run(views, teachers)
  many = run(*jax.device_put((views, teachers), spread))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    one,
    many,
  )


def test_float32_whatever_the_input(cosines):
  half = tuple(jnp.asarray(cosines(), jnp.bfloat16) for _ in range(2))
  for name in ("swav", "dino"):
    method = methods.build(name=name)
    memory = method.init_memory(jax.random.key(0), Widths(128, 5))
    branch = Branch(scores=half)
    loss, metrics = method.loss(KEY, branch, branch, memory)
    new = method.update_memory(memory, branch, branch)
    for value in (loss, *metrics.values(), *new.values()):
      assert (
        value.dtype in (jnp.float32, jnp.int32) and np.isfinite(value).all()
      )


def test_heads_and_views():
  method = methods.build(name="swav", prototypes=12)
  assert method.heads.projector == (0, 128) and method.heads.prototypes == 12
  assert method.heads.projector_hidden_norm
  assert not method.heads.prototypes_weight_norm
  assert method.online_views is None and method.target_views == ()
  assert method.joint_views
  assert method.init_memory(jax.random.key(0), Widths(128, 12)) == {}
  method = methods.build(name="dino", momentum_schedule="constant")
  heads = method.heads
  assert heads.projector == (2048, 2048, 256) and heads.prototypes == 65536
  assert heads.projector_activation == "gelu" and heads.prototypes_weight_norm
  assert not heads.projector_hidden_norm and heads.projector_norm == "none"
  assert method.online_views is None and method.target_views == (0, 1)
  assert method.target_update == "after" and method.joint_views
  assert method.momentum == 0.996 and method.momentum_schedule == "constant"
  assert methods.build(name="dino").momentum_schedule == "cosine"


@pytest.mark.parametrize(
  "name, options, words",
  [
    ("swav", {"prototypes": 1}, "method.prototypes=1 must be at least 2"),
    ("swav", {"iterations": 0}, "method.iterations=0 must be at least 1"),
    ("swav", {"epsilon": 0.0}, "method.epsilon=0.0 must be above 0"),
    ("swav", {"temperature": float("nan")}, "method.temperature=nan"),
    ("swav", {"momentum": 0.9}, "method.momentum is not used by swav"),
    ("dino", {"prototypes": 0}, "method.prototypes=0"),
    ("dino", {"teacher_temperature": 0.0}, "method.teacher_temperature=0.0"),
    (
      "dino",
      {"warmup_teacher_temperature": -1.0},
      "method.warmup_teacher_temperature=-1.0",
    ),
    ("dino", {"warmup_teacher_epochs": -1.0}, "must be at least 0"),
    ("dino", {"center_momentum": 1.1}, "must be between 0 and 1"),
  ],
)
def test_bad_options_are_refused_in_one_line(name, options, words):
  with pytest.raises(UserError, match=words) as error:
    methods.build(name=name, **options)
  assert "\n" not in str(error.value)
