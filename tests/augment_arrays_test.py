"""Arrays and numbers that users hand to public functions are checked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassle_jax import augment
from cassle_jax.errors import UserError
from cassle_jax.methods import (
  barlow_twins,
  byol,
  contrast,
  mocov2,
  mocov3,
  simclr,
  simsiam,
  vicreg,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8)
SIZES = np.full((2, 2), 12, np.int32)
KEY = jax.random.key(0)
POLICIES = augment.build(image_size=8, jitter=0.0, blur=0.0)


@pytest.mark.parametrize(
  "images, words",
  [
    (PIXELS.astype(np.int32), "images are int32; they must be uint8"),
    (PIXELS.astype(np.uint16), "images are uint16.*divide by 65535"),
    (PIXELS.astype(np.int8), "images are int8"),
    (PIXELS > 9, "images are bool"),
    (PIXELS.astype(np.float32), r"from 0 to 255: divide by 255"),
    (PIXELS / np.float32(127.5) - 1, "from -1 to 1: rescale"),
    (np.full((2, 12, 12, 3), np.nan, np.float32), "from nan to nan"),
    (PIXELS[0], r"images are \[12, 12, 3\]; they must be \[B, H, W, 3\]"),
    (PIXELS[..., :1], r"images are \[2, 12, 12, 1\]"),
    (PIXELS[:0], "none of them 0"),
  ],
)
def test_views_of_what_is_no_image(images, words):
  images = jnp.asarray(images)
  sizes = jnp.asarray(SIZES[: len(images)])
  with pytest.raises(UserError, match=words):
    augment.views(KEY, images, sizes, POLICIES)
  parameters = augment.sample(KEY, POLICIES[0], jnp.asarray(SIZES))
  with pytest.raises(UserError, match=words):
    augment.apply(parameters, images, sizes, POLICIES[0])


@pytest.mark.parametrize("operation", ["flip", "crop", "grayscale"])
def test_single_operations_check_too(operation):
  one = {
    "flip": augment.horizontal_flip,
    "crop": augment.random_resized_crop,
    "grayscale": augment.grayscale,
  }[operation]
  with pytest.raises(UserError, match="images are int32"):
    one(KEY, jnp.asarray(PIXELS[0].astype(np.int32)))
  with pytest.raises(UserError, match=r"they must be \[H, W, 3\]"):
    one(KEY, jnp.asarray(PIXELS))


def test_types_are_checked_under_jit_too():
  make = jax.jit(lambda x: augment.views(KEY, x, jnp.asarray(SIZES), POLICIES))
  with pytest.raises(UserError, match="images are int32"):
    make(PIXELS.astype(np.int32))
  # Constants of a program are there to be seen, too.
  float_images = jnp.asarray(PIXELS, jnp.float32)
  with pytest.raises(UserError, match="divide by 255"):
    jax.jit(
      lambda: augment.views(KEY, float_images, jnp.asarray(SIZES), POLICIES)
    )()


@pytest.mark.parametrize(
  "sizes, words",
  [
    (SIZES[:1], r"int32 \[1, 2\]; they must be integers \[2, 2\]"),
    (SIZES.astype(np.float32), "sizes are float32"),
    (SIZES * 0, "sizes hold 0"),
  ],
)
def test_sizes_are_checked(sizes, words):
  with pytest.raises(UserError, match=words):
    augment.views(KEY, jnp.asarray(PIXELS), jnp.asarray(sizes), POLICIES)


def test_one_policy_is_no_tuple_of_them():
  with pytest.raises(UserError, match="give a tuple"):
    augment.views(KEY, jnp.asarray(PIXELS), jnp.asarray(SIZES), POLICIES[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
  "key, value",
  [
    ("mean", (0.4, 0.4, 0.4)),
    ("std", (0.2, 0.2, 0.2)),
    ("jitter_strength", (0.4, 0.4, 0.4, 0.1)),
    ("crop_scale", (0.2, 1.0)),
    ("blur_sigma", (0.1, 2.0)),
  ],
)
def test_nan_is_refused_wherever_it_stands(key, value, place, bad):
  if place >= len(value):
    place = len(value) - 1
  value = (*value[:place], bad, *value[place + 1 :])
  with pytest.raises(UserError, match=f"augment.{key} must be"):
    augment.build(image_size=8, **{key: value})


ROWS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
LOSSES = {
  "vicreg": vicreg.terms,
  "barlow_twins": barlow_twins.correlation_terms,
  "simclr": lambda a, b: simclr.nt_xent(a, b, temperature=0.2),
  "byol": byol.regression,
  "simsiam": simsiam.cosine,
  "mocov2": lambda a, b: mocov2.info_nce(a, b, jnp.eye(3), temperature=0.2),
  "mocov3": lambda a, b: mocov3.contrast_pairs(a, b, temperature=0.2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_refuse_batches_that_do_not_match(name):
  loss, rows = LOSSES[name], jnp.asarray(ROWS)
  loss(rows, rows)
  for a, b in ((rows, rows[:1]), (rows[:2], rows), (rows, rows[:, :2])):
    with pytest.raises(UserError, match="one row for each image"):
      loss(a, b)
  if name in ("vicreg", "barlow_twins"):
    with pytest.raises(UserError, match="needs 2 rows or more, got 1"):
      loss(rows[:1], rows[:1])


@pytest.mark.parametrize("bad", [0, -0.1, float("nan"), float("inf")])
def test_losses_refuse_temperatures(bad):
  rows = jnp.asarray(ROWS)
  with pytest.raises(UserError, match=f"temperature={bad} must be above 0"):
    simclr.nt_xent(rows, rows, temperature=bad)
  with pytest.raises(UserError, match="temperature"):
    contrast.softmax_loss(rows, jnp.zeros(4, jnp.int32), bad)
