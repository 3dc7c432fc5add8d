"""Crop boxes and resampling against torchvision's rule and PIL."""

import functools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cassle_jax import augment
from cassle_jax.augment import resample
from cassle_jax.augment.operations import crop as geometry
from cassle_jax.augment.operations.rotation import quarter_turns
from cassle_jax.data import canvas
from cassle_jax.errors import UserError

FORMS = ("dense", "banded")


crop = jax.jit(resample.crop, static_argnames=("size", "form", "interpolation"))


def crop_all(images, boxes, size, form, flip=False, **options):
  one = functools.partial(crop, size=size, flip=flip, form=form, **options)
  return np.stack(
    [
      one(jnp.asarray(i), jnp.asarray(b))
      for i, b in zip(images, boxes, strict=False)
    ]
  )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["img64", "img96x64", "big"])
def test_crop_matches_pils_published_crops(golden, name, form):
  data, images = golden("aug_crop"), golden("aug_images")
  expected = data[name + "_pil_u8_hwc"] / 255
  boxes = data[name + "_ijhw"].astype(np.float32)
  sources = [images["big150x200"]] * 4 if name == "big" else images[name]
  actual = crop_all(sources, boxes, (64, 64), form)
  # PIL rounds to whole levels after each of its two passes.
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1 / 255 + 1e-6)
  assert np.abs(actual - expected).mean() < 0.3 / 255


@pytest.mark.parametrize("size", [(224, 224), (33, 47), (8, 70), (2, 2)])
@pytest.mark.parametrize("flip", [False, True])
def test_forms_agree_and_match_pil(size, flip):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (90, 120, 3), np.uint8)
  boxes = [(0, 0, 90, 120), (5, 7, 80, 101), (88, 3, 2, 1), (20, 30, 9, 60)]
  boxes = np.asarray(boxes, np.float32)
  dense = crop_all([image] * 4, boxes, size, "dense", flip)
  banded = crop_all([image] * 4, boxes, size, "banded", flip)
  np.testing.assert_allclose(banded, dense, rtol=0, atol=2e-5)
  for actual, (top, left, tall, wide) in zip(
    dense, boxes.astype(int), strict=True
  ):
    picture = Image.fromarray(image[top : top + tall, left : left + wide])
    resized = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[:, :: -1 if flip else 1]
    np.testing.assert_allclose(
      actual, expected / 255, rtol=0, atol=1 / 255 + 1e-5
    )


@pytest.mark.parametrize("size, flip", [((33, 47), False), ((3, 5), True)])
def test_bicubic_forms_agree_and_match_pil(size, flip):
  """PIL's float pictures are resized without rounding or clipping."""
  rng = np.random.default_rng(0)
  image = rng.uniform(0.3, 0.7, (90, 120, 3)).astype(np.float32)
  boxes = [(0, 0, 90, 120), (5, 7, 80, 101), (88, 3, 2, 1), (20, 30, 9, 60)]
  boxes = np.asarray(boxes, np.float32)
  for form in FORMS:
    found = crop_all(
      [image] * 4, boxes, size, form, flip, interpolation="bicubic"
    )
    for actual, (top, left, tall, wide) in zip(
      found, boxes.astype(int), strict=True
    ):
      planes = []
      for channel in range(3):
        part = image[top : top + tall, left : left + wide, channel]
        picture = Image.fromarray(np.ascontiguousarray(part))
        resized = picture.resize(size[::-1], Image.Resampling.BICUBIC)
        planes.append(np.asarray(resized)[:, :: -1 if flip else 1])
      # The filter overshoots: the result is clipped, and only that.
      expected = np.clip(np.stack(planes, axis=-1), 0, 1)
      np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("form", FORMS)
def test_bicubic_crops_of_whole_levels_match_pil(form):
  rng = np.random.default_rng(1)
  image = rng.integers(60, 190, (64, 96, 3), np.uint8)
  boxes = np.asarray([(0, 0, 64, 96), (9, 20, 40, 51)], np.float32)
  found = crop_all([image] * 2, boxes, (32, 32), form, interpolation="bicubic")
  for actual, (top, left, tall, wide) in zip(
    found, boxes.astype(int), strict=True
  ):
    picture = Image.fromarray(image[top : top + tall, left : left + wide])
    resized = picture.resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(
      actual, np.asarray(resized) / 255, rtol=0, atol=1.3 / 255
    )


def test_the_interpolation_of_a_policy_reaches_its_views():
  rng = np.random.default_rng(2)
  image = jnp.asarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
  box = jnp.asarray([0.0, 0.0, 24.0, 24.0])
  options = dict(size=(8, 8), form="banded")
  expected = crop(image, box, interpolation="bicubic", **options)
  assert np.abs(crop(image, box, **options) - expected).max() > 0.01
  policy = augment.build(
    image_size=8,
    interpolation="bicubic",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
  )[0].untouched()
  sizes = augment.full_sizes(image[None])
  drawn = augment.sample(jax.random.key(0), policy, sizes)
  views, _ = augment.apply(drawn, image[None], sizes, policy, form="banded")
  np.testing.assert_allclose(views[0], expected, atol=1e-6)
  single, _ = augment.random_resized_crop(
    jax.random.key(0),
    image,
    size=8,
    scale=(1.0, 1.0),
    ratio=(1.0, 1.0),
    interpolation="bicubic",
  )
  np.testing.assert_allclose(single, expected, atol=1e-6)


def test_an_unknown_interpolation_names_the_valid_ones():
  with pytest.raises(UserError, match="augment.interpolation 'cubic'.*bicubic"):
    augment.build(interpolation="cubic")


@pytest.mark.parametrize("form", FORMS)
def test_whole_box_of_the_same_size_changes_nothing(form):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (40, 50, 3), np.uint8)
  box = jnp.asarray([0.0, 0.0, 40.0, 50.0])
  actual = crop(jnp.asarray(image), box, size=(40, 50), form=form)
  np.testing.assert_allclose(actual, image / 255, rtol=0, atol=1e-7)
  floats = jnp.asarray(image / 255, jnp.float32)
  actual = crop(floats, box, size=(40, 50), form=form)
  np.testing.assert_array_equal(actual, floats)


@pytest.mark.parametrize("form", FORMS)
def test_crop_through_a_squashed_canvas_is_close_to_the_original(form):
  """A smooth picture survives the canvas; the box lands where it should."""
  y, x = np.mgrid[:300, :200].astype(np.float32)
  picture = np.stack(
    [y / 300, x / 200, 0.5 + 0.4 * np.sin(x / 30 + y / 40)], -1
  )
  whole = jnp.asarray([0.0, 0.0, 300.0, 200.0])
  canvas = crop(jnp.asarray(picture), whole, size=(128, 128), form=form)
  true_size = jnp.asarray([300, 200])
  box = jnp.asarray([40, 90, 151, 77])
  on_canvas = resample.to_canvas(box, true_size, (128, 128))
  actual = crop(canvas, on_canvas, size=(64, 64), form=form)
  expected = crop(jnp.asarray(picture), box, size=(64, 64), form=form)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=0.01)


def test_to_canvas_is_exact_where_the_canvas_has_the_true_size():
  box = jnp.asarray([3, 17, 211, 95])
  mapped = resample.to_canvas(box, jnp.asarray([375, 500]), (375, 500))
  np.testing.assert_array_equal(mapped, box)
  mapped = resample.to_canvas(
    jnp.asarray([10, 20, 30, 40]), jnp.asarray([100, 200]), (50, 50)
  )
  np.testing.assert_allclose(mapped, [5, 5, 15, 10])


def placed(picture, side):
  """A picture on a canvas that is white beside it, and its size there."""
  small = canvas.shrunk(Image.fromarray(picture), side)
  board = np.full((side, side, 3), 255, np.uint8)
  board[: small.height, : small.width] = np.asarray(small)
  return board, (small.height, small.width)


@pytest.mark.parametrize("form", FORMS)
def test_views_of_a_padded_canvas_are_pils_of_the_full_picture(form):
  """Random boxes, mirrored or not; white beside a picture stays unseen."""
  rng = np.random.default_rng(0)
  shapes = [(90, 120), (128, 61), (128, 128), (40, 33)]
  pictures = [
    np.asarray(
      Image.fromarray(
        rng.integers(0, 256, (h // 4, w // 4, 3), np.uint8)
      ).resize((w, h), Image.Resampling.BICUBIC)
    )
    for h, w in shapes
  ]
  boards, stored = zip(*[placed(each, 128) for each in pictures], strict=True)
  assert list(stored) == shapes
  sizes = jnp.asarray(shapes, jnp.int32)
  policy = augment.build(
    preset="simclr", image_size=56, jitter=0.0, grayscale=0.0, blur=0.0,
    mean=(0.0,) * 3, std=(1.0,) * 3,
  )[0]  # fmt: skip

  @jax.jit
  def make(key):
    drawn = augment.sample(key, policy, sizes)
    images = jnp.asarray(np.stack(boards))
    given = dict(stored=jnp.asarray(stored, jnp.int32), form=form)
    view = augment.make(drawn, images, sizes, policy, **given)
    return drawn["crop"].box, drawn["flip"].applied, view

  differences = []
  for seed in range(8):
    boxes, flips, view = make(jax.random.key(seed))
    for row, (top, left, tall, wide) in enumerate(np.asarray(boxes)):
      box = Image.fromarray(pictures[row]).crop(
        (left, top, left + wide, top + tall)
      )
      expected = np.asarray(box.resize((56, 56), Image.Resampling.BILINEAR))
      expected = expected[:, :: -1 if flips[row] else 1] / 255
      differences.append(np.abs(np.asarray(view.image[row]) - expected))
      # Omega is in parts of the true picture.
      np.testing.assert_allclose(
        view.omega["crop"][row][2:], np.divide((tall, wide), shapes[row]), 1e-6
      )
  assert np.max(differences) < 1 / 255 + 1e-5
  assert np.mean(differences) < 0.3 / 255


@pytest.mark.parametrize("form", FORMS)
def test_a_box_is_read_up_to_the_edge_of_its_picture_alone(form):
  """Rounding may move a box's end; white beside the picture stays unseen."""
  board, stored = placed(np.zeros((301, 1000, 3), np.uint8), 256)
  assert stored == (77, 256)
  board = np.pad(board, ((0, 0), (0, 9), (0, 0)), constant_values=255)
  size, stored = jnp.asarray((301, 1000)), jnp.asarray(stored)

  @jax.jit
  def view(box):
    return resample.crop_planes(
      jnp.asarray(board), box, False, (24, 24), form=form, stored=stored
    )

  for box in ((0, 0, 301, 1000), (300, 999, 1, 1), (100, 3, 201, 997)):
    mapped = resample.to_canvas(jnp.asarray(box), size, stored)
    np.testing.assert_array_equal(view(mapped), 0)
    np.testing.assert_array_equal(view(mapped.at[2:].add(1e-3)), 0)


def torchvision_box(rng, height, width, scale, ratio):
  """The published rule, one number at a time."""
  for _ in range(10):
    area = height * width * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w = round(math.sqrt(area * aspect))
    h = round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      return rng.randint(0, height - h), rng.randint(0, width - w), h, w
  if width / height < ratio[0]:
    w, h = width, round(width / ratio[0])
  elif width / height > ratio[1]:
    w, h = round(height * ratio[1]), height
  else:
    w, h = width, height
  return (height - h) // 2, (width - w) // 2, h, w


def draw_boxes(count, size, scale, ratio):
  draws = jax.random.uniform(jax.random.key(0), (count, geometry.BOX_DRAWS))
  draw = jax.vmap(
    lambda d: geometry.draw_box(d, jnp.asarray(size), scale=scale, ratio=ratio)
  )
  return np.asarray(jax.jit(draw)(draws))


@pytest.mark.parametrize(
  "size,scale",
  [((32, 32), (0.2, 1.0)), ((375, 500), (0.08, 1.0)), ((60, 400), (0.2, 1.0))],
)
def test_boxes_are_distributed_as_torchvisions(size, scale):
  ratio = (3 / 4, 4 / 3)
  count = 8000
  ours = draw_boxes(count, size, scale, ratio)
  rng = random.Random(0)
  theirs = np.asarray(
    [torchvision_box(rng, *size, scale, ratio) for _ in range(count)]
  )
  assert ours[:, :2].min() >= 0 and ours[:, 2:].min() > 0
  assert (ours[:, 0] + ours[:, 2]).max() <= size[0]
  assert (ours[:, 1] + ours[:, 3]).max() <= size[1]
  measures = {
    "area": lambda b: b[:, 2] * b[:, 3],
    "aspect": lambda b: b[:, 3] / b[:, 2],
    "top": lambda b: b[:, 0],
    "left": lambda b: b[:, 1],
    "y center": lambda b: b[:, 0] + b[:, 2] / 2,
    "x center": lambda b: b[:, 1] + b[:, 3] / 2,
  }
  # Largest distance of the two distribution functions (Kolmogorov-Smirnov);
  # equal distributions exceed this one time in 100,000.
  limit = math.sqrt(-math.log(0.5e-5) / count)
  for name, measure in measures.items():
    a, b = np.sort(measure(ours)), np.sort(measure(theirs))
    points = np.union1d(a, b)
    distance = np.abs(
      np.searchsorted(a, points, "right") - np.searchsorted(b, points, "right")
    ).max()
    assert distance / count < limit, name


def test_box_falls_back_to_the_largest_central_one():
  """No box of this ratio and area fits into a 10:1 picture."""
  boxes = draw_boxes(50, (20, 200), (0.9, 1.0), (3 / 4, 4 / 3))
  np.testing.assert_array_equal(boxes, [[0, (200 - 27) // 2, 20, 27]] * 50)
  boxes = draw_boxes(50, (200, 20), (0.9, 1.0), (3 / 4, 4 / 3))
  np.testing.assert_array_equal(boxes, [[(200 - 27) // 2, 0, 27, 20]] * 50)


def test_box_reaches_every_offset():
  """Both ends of the range of offsets occur: no off-by-one."""
  boxes = draw_boxes(4000, (4, 4), (0.25, 0.25), (1.0, 1.0))
  np.testing.assert_array_equal(boxes[:, 2:], 2)
  for offset in (0, 1, 2):
    share = (boxes[:, 0] == offset).mean()
    assert abs(share - 1 / 3) < 0.04


def test_flip_mirrors_published_pixels(golden):
  data, images = golden("aug_misc_64"), golden("aug_images")["img64"]
  expected = np.moveaxis(data["hflip_u8"], 1, -1)
  boxes = [np.asarray([0, 0, 64, 64], np.float32)] * len(expected)
  actual = crop_all(images, boxes, (64, 64), "banded", flip=True)
  np.testing.assert_allclose(actual, expected / 255, rtol=0, atol=1e-6)


def test_quarter_turns_are_counter_clockwise():
  image = np.arange(27.0).reshape(3, 3, 3)
  for turns in range(4):
    actual = quarter_turns(jnp.asarray(image), jnp.int32(turns))
    np.testing.assert_array_equal(actual, np.rot90(image, turns))
