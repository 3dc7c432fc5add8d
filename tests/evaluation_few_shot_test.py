"""Few-shot episodes against scikit-learn, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cassle_jax.errors import UserError
from cassle_jax.evaluation import few_shot


def features(offset, count=30, width=40, classes=7):
  """Classes that overlap; an offset makes them one narrow cone."""
  generator = np.random.default_rng(3)
  labels = np.repeat(np.arange(classes), count)
  centres = generator.normal(size=(classes, width)) * 0.7
  noise = generator.normal(size=(len(labels), width))
  return (centres[labels] + noise + offset).astype(np.float32), labels


def sklearn_episode(support, query, known, asked, form):
  """Accuracy and objective of scikit-learn's optimum, in float64."""
  support, query = (
    np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    for x in (support, query)
  )
  options = dict(C=1.0, fit_intercept=False, tol=1e-6, max_iter=5000)
  if form == "multinomial":
    model = LogisticRegression(**options).fit(support, known)
    kernel = model.coef_.T
    logits = support @ kernel
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(known)), known]
    loss = np.sum(np.log(np.sum(np.exp(logits), axis=1)) - chosen)
  else:
    signs = [np.where(known == label, 1, -1) for label in range(5)]
    models = [LogisticRegression(**options).fit(support, s) for s in signs]
    kernel = np.stack([model.coef_[0] for model in models], axis=1)
    margins = np.stack(signs, axis=1) * (support @ kernel)
    loss = np.sum(np.logaddexp(0, -margins))
  accuracy = np.mean(np.argmax(query @ kernel, axis=1) == asked)
  return accuracy, loss + 0.5 * np.sum(kernel**2)


@pytest.mark.parametrize(
  "form, shot, offset",
  [
    ("multinomial", 5, 10.0),
    ("one_vs_rest", 5, 0.0),
  ],
)
def test_episodes_reach_sklearns_optimum(form, shot, offset):
  x, y = features(offset)
  options = dict(shot=shot, queries=9, episodes=3, seed=4)
  found = few_shot.measure(x, y, form=form, **options)
  drawn = few_shot.draw(y, **options)
  known, asked = np.repeat(np.arange(5), shot), np.repeat(np.arange(5), 9)
  for e in range(3):
    accuracy, objective = sklearn_episode(
      x[drawn.support[e]], x[drawn.query[e]], known, asked, form
    )
    np.testing.assert_allclose(found.episodes[e], accuracy, atol=1e-9)
    np.testing.assert_allclose(found.objective[e], objective, rtol=1e-4)
  assert found.excess <= 1e-6
  np.testing.assert_allclose(found.accuracy.mean, found.episodes.mean())
  assert found.accuracy.count == 3 and 0 < found.accuracy.half < 0.2


def test_batches_change_nothing():
  """Of 60 episodes the last batch is not full."""
  x, y = features(0.0)
  x[:] = np.eye(7, 40, dtype=np.float32)[y] * 50 + 0.01 * x
  many, few = (few_shot.measure(x, y, episodes=count) for count in (60, 3))
  assert len(many.episodes) == 60
  np.testing.assert_array_equal(many.episodes[:3], few.episodes)
  np.testing.assert_allclose(many.objective[:3], few.objective, rtol=1e-5)
  # Classes far apart: all right, no spread.
  assert many.accuracy.mean == 1 and many.accuracy.half == 0


def test_episode_is_a_function_of_seed_and_number():
  _, y = features(0.0)
  options = dict(shot=2, queries=3, seed=1)
  ten, three = (
    few_shot.draw(y, episodes=count, **options) for count in (10, 3)
  )
  np.testing.assert_array_equal(ten.support[:3], three.support)
  np.testing.assert_array_equal(ten.query[:3], three.query)
  other = few_shot.draw(y, episodes=3, **(options | {"seed": 2}))
  assert (other.support != three.support).any()
  assert (ten.support[0] != ten.support[1]).any()


def test_episodes_are_of_distinct_classes_and_pictures():
  _, y = features(0.0)
  y[-20:] = 99  # One class of 10 and another of 20.
  drawn = few_shot.draw(y, shot=4, queries=16, episodes=50)
  support = y[drawn.support].reshape(50, 5, 4)
  query = y[drawn.query].reshape(50, 5, 16)
  assert (support == support[:, :, :1]).all()
  assert (query == support[:, :, :1]).all()
  for e in range(50):
    assert len(set(support[e, :, 0])) == 5
    assert len({*drawn.support[e], *drawn.query[e]}) == 5 * 20
  # The class of 10 pictures is too small, those of 20 and of 30 are not.
  assert set(support.ravel()) == {0, 1, 2, 3, 4, 5, 99}
  assert few_shot.usable(y, 21).tolist() == [0, 1, 2, 3, 4, 5]


def test_more_shots_learn_from_more_and_are_asked_the_same():
  _, y = features(0.0)
  one, five = (
    few_shot.draw(y, shot=shot, queries=4, episodes=6) for shot in (1, 5)
  )
  np.testing.assert_array_equal(one.query, five.query)
  first = five.support.reshape(6, 5, 5)[:, :, 0]
  np.testing.assert_array_equal(one.support, first)


def test_span_keeps_every_product():
  """Also of more pictures than dimensions, and of twins."""
  generator = np.random.default_rng(0)
  for width in (3, 50):
    support = generator.normal(size=(6, width)).astype(np.float32) + 3
    support[1] = support[0]
    query = support[[0, 2, 3]] * 2 - support[[4, 5, 5]]
    z, q = jax.jit(few_shot.span)(jnp.asarray(support), jnp.asarray(query))
    assert z.shape == (6, 7) and q.shape == (3, 7)
    gram = support @ support.T + 1
    np.testing.assert_allclose(z @ z.T, gram, rtol=1e-5, atol=1e-4)
    cross = query @ support.T + 1
    np.testing.assert_allclose(q @ z.T, cross, rtol=1e-5, atol=1e-3)


def test_mistakes_are_one_line():
  x, y = features(0.0)
  for options, words in (
    (dict(way=8), "7 classes have the 17 pictures.*way=8"),
    (dict(shot=15), "0 classes have the 31 pictures"),
    (dict(queries=0), "queries=0.*at least 1"),
    (dict(weight=0.0), "weight=0.0 must be positive"),
    (dict(form="svm", episodes=2), "few_shot.form 'svm'.*one_vs_rest"),
  ):
    with pytest.raises(UserError, match=words) as error:
      few_shot.measure(x, y, **options)
    assert "\n" not in str(error.value)
