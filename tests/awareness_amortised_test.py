"""AI: one program for every descriptor's views; learning a descriptor."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import augment
from cassle_jax.awareness import amortised
from cassle_jax.errors import UserError

DORSAL, VENTRAL, BOTH = (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)
ALL = (DORSAL, VENTRAL, BOTH)


def busy_policies(**options):
  """Everything is on; the second view solarises and blurs otherwise."""
  defaults = dict(
    image_size=8,
    blur=(1.0, 0.3),
    solarize=(0.2, 0.6),
    rotation=0.5,
    blur_kernel=3,
    jitter_order="fixed",
  )
  return augment.build(**(defaults | options))


def test_descriptors_choose_the_operations():
  policy = busy_policies()[1]
  dorsal = amortised.descriptor_policy(policy, DORSAL)
  assert augment.active_fields((dorsal,)) == (
    "blur",
    "color",
    "color_diff",
    "grayscale",
    "solarize",
  )
  assert dorsal.jitter == dorsal.grayscale == dorsal.blur == 1
  assert dorsal.solarize == 0.6 and dorsal.blur_sigma == policy.blur_sigma
  ventral = amortised.descriptor_policy(policy, VENTRAL)
  assert augment.active_fields((ventral,)) == ("crop", "flip")
  assert ventral.flip == policy.flip
  assert ventral.crop_scale == policy.crop_scale
  assert amortised.descriptor_policy(policy, BOTH) is policy
  # What the run has off stays off.
  plain = augment.build(image_size=8, blur=0.0, grayscale=0.0)[0]
  dorsal = amortised.descriptor_policy(plain, DORSAL)
  assert augment.active_fields((dorsal,)) == ("color", "color_diff")


def test_one_program_makes_every_descriptors_views():
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.integers(0, 256, (8, 12, 12, 3), np.uint8))
  sizes = jnp.asarray(rng.integers(20, 60, (8, 2), np.int32))
  policies, key = busy_policies()[1:], jax.random.key(4)
  views = jax.jit(functools.partial(amortised.build().views, policies=policies))
  plain = jax.jit(augment.views, static_argnames="policies")
  images_of = []
  for index, descriptor in enumerate(ALL):
    actual = views(key, images, sizes, index=jnp.int32(index))
    chosen = tuple(
      amortised.descriptor_policy(policy, descriptor) for policy in policies
    )
    expected = plain(key, images, sizes, policies=chosen)
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=5e-6)
    images_of.append(np.asarray(actual[0].image))
  assert views._cache_size() == 1
  for a, b in [(0, 1), (0, 2), (1, 2)]:
    assert np.abs(images_of[a] - images_of[b]).max() > 0.1


def test_each_view_draws_for_itself():
  """Both views' omega, without the pixels: XLA then leaves those out."""
  images, sizes = np.zeros((8, 12, 12, 3), np.uint8), np.full((8, 2), 40)
  policies, key = busy_policies(), jax.random.key(5)

  def drawn(views):
    return [dict(view.omega, color_diff=0) for view in views]

  @jax.jit
  def compared(key, index):
    actual = amortised.build(descriptors=(BOTH, DORSAL)).views(
      key, images, sizes, policies, index=index
    )
    return drawn(actual), drawn(augment.views(key, images, sizes, policies))

  (first, second), expected = compared(key, jnp.int32(0))
  chex.assert_trees_all_close([first, second], expected, rtol=0, atol=1e-6)
  assert np.abs(first["crop"] - second["crop"]).max() > 0.01
  (first, _), expected = compared(key, jnp.int32(1))
  assert np.all(first["crop"] == np.array([[0.5, 0.5, 1, 1]]))
  assert np.all(first["grayscale"]) and not np.all(expected[0]["grayscale"])


def test_choose_takes_every_descriptor_equally_often():
  keys = jax.random.split(jax.random.key(0), 3000)
  chosen = jax.jit(jax.vmap(lambda key: amortised.choose(key, 3)))(keys)
  counts = np.bincount(np.asarray(chosen), minlength=3)
  assert chosen.dtype == jnp.int32 and len(counts) == 3
  # Five standard deviations of a fair draw: sqrt(3000 * 2 / 9) = 26.
  assert np.abs(counts - 1000).max() < 130


def test_build_refuses_mistakes_with_the_fix():
  assert amortised.build().descriptors == ALL
  swapped = amortised.build(descriptors=((1, 1), (0, 1)))
  assert swapped.descriptors == (BOTH, DORSAL)
  with pytest.raises(UserError, match="needs a descriptor"):
    amortised.build(descriptors=())
  with pytest.raises(UserError, match=r"\(0.0, 0.0\).*\(1.0, 1.0\)"):
    amortised.build(descriptors=((0.0, 0.0),))
  with pytest.raises(UserError, match="twice"):
    amortised.build(descriptors=((0, 1), (0.0, 1.0)))


def test_descriptors_that_leave_nothing_on_are_refused():
  check = amortised.build().check
  check(busy_policies())
  grey = augment.build(image_size=8, jitter=0.0, blur=0.0)
  with pytest.raises(UserError, match="dorsal.*jitter=0.8"):
    check(grey)
  with pytest.raises(UserError, match="ventral.*crop=True"):
    check(augment.build(image_size=8, crop=False, flip=0.0))
  amortised.build(descriptors=(VENTRAL, BOTH)).check(grey)
  # Grey or not tells two views apart, always grey or always mirrored does not.
  both = amortised.build(descriptors=(BOTH,)).check
  off = dict(image_size=8, crop=False, jitter=0.0, blur=0.0)
  both(augment.build(**off, flip=0.0, grayscale=0.2))
  with pytest.raises(UserError, match="default.*crop=True"):
    both(augment.build(**off, flip=1.0, grayscale=1.0))


def test_crops_of_two_sizes_are_refused():
  with pytest.raises(UserError, match="16x16 and 8x8 .*local_views=0"):
    amortised.build().check(
      augment.build(image_size=16, local_views=1, local_size=8)
    )
