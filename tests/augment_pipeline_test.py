"""Whole views: published replay, determinism, sharding, both forms."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from cassle_jax import augment, errors
from cassle_jax.augment import forms, omega
from cassle_jax.augment.operation import How
from cassle_jax.augment.operations.blur import Blur
from cassle_jax.augment.operations.crop import Crop
from cassle_jax.augment.operations.flip import Flip
from cassle_jax.augment.operations.grayscale import Grayscale
from cassle_jax.augment.operations.jitter import Jitter
from cassle_jax.augment.operations.rotation import Rotation
from cassle_jax.augment.operations.solarize import Solarize

FORMS = ("dense", "banded")
# Every operation is on, half the images of a batch get it.
BUSY = {name: 0.5 for name in augment.OPERATIONS if name != "crop"}
sample = jax.jit(augment.sample, static_argnames="policy")
apply = jax.jit(augment.apply, static_argnames=("policy", "form"))
describe = jax.jit(augment.describe, static_argnames="policy")
views = jax.jit(augment.views, static_argnames=("policies", "form"))


def canvases(batch=16, size=24):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
  sizes = rng.integers(20, 60, (batch, 2), np.int32)
  return jnp.asarray(images), jnp.asarray(sizes)


def busy_policy(**overrides):
  return augment.build(**(dict(image_size=16) | BUSY | overrides))[0]


def neutral_parameters(batch):
  """What is drawn where nothing happens."""
  sizes = jnp.full((batch, 2), 32)
  policy = augment.ViewPolicy(image_size=32).untouched()
  return augment.sample(jax.random.key(0), policy, sizes)


def published_parameters(data, view):
  """The raw parameters of the published run, as ours."""

  def get(name):
    return data[f"v{view}_{name}"]

  def applied(name):
    return jnp.asarray(get(name + "_applied") > 0)

  names = ("brightness", "contrast", "saturation", "hue")
  factors = np.stack([get(n + "_factor") for n in names], 1)
  off = jnp.zeros(8)
  return neutral_parameters(8) | dict(
    crop=Crop(jnp.asarray(get("crop_ijhw"), jnp.int32)),
    flip=Flip(applied("RandomHorizontalFlip")),
    jitter=Jitter(
      applied("ColorJitter"),
      jnp.asarray(factors),
      jnp.broadcast_to(jnp.asarray(get("jitter_order"))[None], (8, 4)),
    ),
    grayscale=Grayscale(applied("RandomGrayscale")),
    blur=Blur(applied("GaussianBlur"), jnp.asarray(get("sigma"))),
    solarize=Solarize(off > 0, off),
    rotation=Rotation(off.astype(jnp.int32)),
  )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("view", [1, 2])
def test_replay_matches_published_views(golden, view, form):
  """Same raw parameters, same pixels and omega.

  The published run crops by PIL, which rounds to whole levels; PIL's crops are
  the canvases here, the crop itself is compared in the geometry's tests.
  """
  data = golden("aug_pipeline_imagenet_k23")
  images = golden("aug_images")["img64"]
  ours = published_parameters(data, view)
  crops = []
  for image, (top, left, tall, wide) in zip(
    images, data[f"v{view}_crop_ijhw"], strict=True
  ):
    picture = Image.fromarray(image[top : top + tall, left : left + wide])
    crops.append(np.asarray(picture.resize((64, 64), 2)))
  crops = jnp.asarray(np.stack(crops))
  sizes = augment.full_sizes(crops)
  policy = augment.build(image_size=64, blur_kernel=23)[0]
  whole = jnp.asarray([[0, 0, 64, 64]] * 8)
  replayed = ours | {"crop": Crop(whole)}
  pixels, color_diff = apply(replayed, crops, sizes, policy, form=form)
  pixels = np.moveaxis(np.asarray(pixels), -1, 1)

  expected = data[f"v{view}_pixels"]
  np.testing.assert_allclose(pixels[:3], expected, rtol=0, atol=1e-5)
  np.testing.assert_allclose(
    pixels.mean((2, 3)), data[f"v{view}_pixels_mean_hw"], rtol=0, atol=1e-5
  )
  squares = (pixels.astype(np.float64) ** 2).sum((1, 2, 3))
  np.testing.assert_allclose(squares, data[f"v{view}_pixels_sqsum"], rtol=1e-5)
  actual = describe(ours, color_diff, sizes, policy)
  for name in omega.DEFAULT:
    expected = data[f"v{view}_desc_{name}"]
    np.testing.assert_allclose(
      actual[name], expected, rtol=0, atol=1e-6, err_msg=name
    )


def test_forms_agree():
  images, sizes = canvases()
  policy = busy_policy()
  parameters = sample(jax.random.key(0), policy, sizes)
  dense = apply(parameters, images, sizes, policy, form="dense")
  banded = apply(parameters, images, sizes, policy, form="banded")
  # Pixels at a threshold may fall on either side: none should here.
  chex.assert_trees_all_close(dense, banded, atol=2e-4)


def test_the_published_order_solarises_before_grey_and_blur():
  """Operation by operation on the same draws."""
  images, sizes = canvases(batch=4)
  settings = dict(image_size=16, jitter=0.0, mean=(0.0,) * 3, std=(1.0,) * 3)
  bare = augment.build(**settings, blur=0.0, grayscale=0.0)[0]
  every = dict(solarize=1.0, solarize_threshold=0.4, grayscale=1.0, blur=1.0)
  last = augment.build(**settings, **every, blur_kernel=3)[0]
  early = dataclasses.replace(last, solarize_place="after_jitter")
  assert last.order == tuple(augment.OPERATIONS)
  names = ["crop", "flip", "affine", "jitter", "solarize", "grayscale", "blur"]
  assert list(early.order[:7]) == names
  parameters = sample(jax.random.key(4), early, sizes)
  chex.assert_trees_all_equal(
    parameters, sample(jax.random.key(4), last, sizes)
  )
  pixels, _ = apply(parameters, images, sizes, early)
  expected, _ = apply(parameters, images, sizes, bare)
  expected = jnp.moveaxis(expected, -1, 1)
  how = How("dense", jax.lax.Precision.HIGHEST, early.mean)
  for name in ("solarize", "grayscale", "blur"):
    change = augment.OPERATIONS[name].apply
    expected = change(expected, parameters[name], early[name], how)
  expected = jnp.moveaxis(expected, 1, -1)
  np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5)
  other, _ = apply(parameters, images, sizes, last)
  assert np.abs(other - pixels).max() > 0.1
  with pytest.raises(errors.UserError, match="solarize_place 'first'"):
    augment.build(solarize_place="first")


def test_auto_is_banded_on_a_cpu_and_unknown_forms_are_refused():
  assert forms.resolve("auto") == "banded"
  with pytest.raises(errors.UserError, match="form 'sparse'.*Valid: auto"):
    forms.resolve("sparse")


def test_same_key_same_view_other_key_other_view():
  images, sizes = canvases()
  policies = (busy_policy(),) * 2
  first = views(jax.random.key(1), images, sizes, policies)
  again = views(jax.random.key(1), images, sizes, policies)
  chex.assert_trees_all_equal(first, again)
  other = views(jax.random.key(2), images, sizes, policies)
  for a, b in ((first[0], first[1]), (first[0], other[0])):
    assert np.abs(a.image - b.image).mean() > 0.1
    for name in omega.FIELDS:
      assert np.abs(a.omega[name] - b.omega[name]).max() > 0, name


@pytest.mark.slow
def test_jit_changes_nothing():
  images, sizes = canvases(batch=3)
  # The other operations are compared one by one in augment_ops_test.
  policy = busy_policy(jitter=0.0, rotation=0.0, blur=0.0)
  drawn = augment.sample(jax.random.key(0), policy, sizes)
  chex.assert_trees_all_equal(drawn, sample(jax.random.key(0), policy, sizes))
  plain = augment.apply(drawn, images, sizes, policy)
  chex.assert_trees_all_close(
    apply(drawn, images, sizes, policy), plain, atol=2e-5
  )


def test_an_image_s_view_does_not_depend_on_the_batch():
  images, sizes = canvases()
  key, policy = jax.random.key(0), busy_policy()
  full = views(key, images, sizes, (policy,))[0]
  changed = views(key, images.at[3:].set(0), sizes, (policy,))[0]
  part = views(key, images[:3], sizes[:3], (policy,))[0]
  first = jax.tree.map(lambda x: x[:3], full)
  chex.assert_trees_all_close(
    first, jax.tree.map(lambda x: x[:3], changed), atol=1e-6
  )
  chex.assert_trees_all_close(first, part, atol=5e-6)


@pytest.mark.parametrize("order", ["image", "batch", "fixed"])
def test_an_image_s_draws_do_not_depend_on_the_batch(order):
  _, sizes = canvases()
  policy = busy_policy(jitter_order=order)
  full = augment.sample(jax.random.key(0), policy, sizes)
  part = augment.sample(jax.random.key(0), policy, sizes[:3])
  chex.assert_trees_all_equal(jax.tree.map(lambda x: x[:3], full), part)


@pytest.mark.parametrize("form", FORMS)
def test_sharded_batch_gives_the_same(form, monkeypatch):
  # Two chunks for each device even in a test's batch.
  monkeypatch.setattr(forms, "_CHUNK_PIXELS", 16 * 16)
  images, sizes = canvases()
  policies = (busy_policy(),)
  assert jax.device_count() == 8
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  over = NamedSharding(mesh, P("data"))
  run = jax.jit(functools.partial(augment.views, policies=policies, form=form))
  whole = run(jax.random.key(0), images, sizes)
  spread = run(
    jax.device_put(jax.random.key(0), NamedSharding(mesh, P())),
    jax.device_put(images, over),
    jax.device_put(sizes, over),
  )
  assert len(spread[0].image.sharding.device_set) == 8
  whole, spread = jax.tree.map(np.asarray, (whole[0], spread[0]))
  # The same draws to their last digit; the compiler may round pixels of other
  # chunks in another order.
  for name in set(omega.FIELDS) - {"color_diff"}:
    np.testing.assert_array_max_ulp(spread.omega[name], whole.omega[name], 1)
  chex.assert_trees_all_close(spread, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 8, 13])
def test_chunks_cover_every_image_once(batch, monkeypatch):
  monkeypatch.setattr(forms, "_CHUNK_PIXELS", 3 * 10)
  x = jnp.arange(batch * 2.0).reshape(batch, 2)
  tree = {"a": x, "b": x[:, 0].astype(jnp.int32)}
  seen = []

  def double(part):
    seen.append(part["a"].shape[0])
    return {"c": 2 * part["a"] + part["b"][:, None].astype(jnp.float32)}

  actual = forms.in_chunks(double, tree, pixels=10)["c"]
  np.testing.assert_array_equal(actual, 2 * x + x[:, :1])
  devices = 8 if batch == 8 else 1
  assert max(seen) <= 3 * devices


def test_neutral_parameters_change_nothing_but_the_scale():
  images, _ = canvases()
  sizes = augment.full_sizes(images)
  policy = busy_policy(image_size=24)
  parameters = sample(jax.random.key(0), policy, sizes)
  never = jnp.zeros(16, bool)
  neutral = neutral_parameters(16) | dict(
    crop=Crop(jnp.asarray([[0, 0, 24, 24]] * 16)),
    flip=Flip(never),
    jitter=parameters["jitter"]._replace(applied=never),
    grayscale=Grayscale(never),
    blur=parameters["blur"]._replace(applied=never),
    solarize=parameters["solarize"]._replace(applied=never),
    rotation=Rotation(jnp.zeros(16, jnp.int32)),
  )
  for form in FORMS:
    pixels, color_diff = apply(neutral, images, sizes, policy, form=form)
    mean, std = np.float32(policy.mean), np.float32(policy.std)
    expected = (np.asarray(images, np.float32) / 255 - mean) / std
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(color_diff, 0)
  actual = describe(neutral, color_diff, sizes, policy)
  chex.assert_trees_all_equal(actual, omega.neutral((16,), omega.FIELDS))


def test_float_images_and_bfloat16_views():
  images, sizes = canvases()
  key = jax.random.key(0)
  expected = views(key, images, sizes, (busy_policy(),))[0]
  floats = images.astype(jnp.float32) / 255
  actual = views(key, floats, sizes, (busy_policy(),))[0]
  chex.assert_trees_all_close(actual, expected, atol=1e-4)
  half = views(key, images, sizes, (busy_policy(dtype="bfloat16"),))[0]
  assert half.image.dtype == jnp.bfloat16
  assert all(x.dtype == jnp.float32 for x in half.omega.values())
  np.testing.assert_allclose(
    half.image.astype(jnp.float32), expected.image, rtol=1 / 128, atol=1e-2
  )
  chex.assert_trees_all_close(half.omega, expected.omega, atol=1e-5)


def test_each_operation_draws_on_its_own():
  """Another policy for one operation leaves the others' draws alone."""
  _, sizes = canvases()
  # Not jitted: the same small programs serve all policies.
  base = augment.sample(jax.random.key(0), busy_policy(), sizes)
  changes = {name: {name: 0.9} for name in augment.OPERATIONS} | {
    "crop": dict(crop_scale=(0.5, 0.6)),
    "jitter": dict(jitter_strength=(0.1, 0.2, 0.3, 0.05)),
    "blur": dict(blur_sigma=(0.5, 0.6)),
    "solarize": dict(solarize_threshold=(0.1, 0.2)),
  }
  for name, change in changes.items():
    other = augment.sample(jax.random.key(0), busy_policy(**change), sizes)
    for field in base:
      same = all(
        np.array_equal(a, b)
        for a, b in zip(base[field], other[field], strict=True)
      )
      assert same == (field != name), (name, field)


def test_draws_have_the_policys_rates_and_intervals():
  sizes = jnp.full((6000, 2), 32)
  policy = augment.ViewPolicy(
    image_size=32,
    flip=0.3,
    jitter=0.7,
    jitter_strength=(0.4, 0.3, 0.2, 0.1),
    grayscale=0.2,
    blur=0.6,
    blur_sigma=(0.5, 1.5),
    solarize=0.1,
    solarize_threshold=(0.2, 0.4),
    rotation=0.8,
  )
  drawn = sample(jax.random.key(0), policy, sizes)
  rates = {"flip": 0.3, "jitter": 0.7, "grayscale": 0.2, "blur": 0.6}
  for name, rate in (rates | {"solarize": 0.1}).items():
    assert abs(drawn[name].applied.mean() - rate) < 0.03, name
  assert abs((drawn["rotation"].turns > 0).mean() - 0.8 * 0.75) < 0.03
  uniform = {
    "sigma": (drawn["blur"].sigma, 0.5, 1.5),
    "threshold": (drawn["solarize"].threshold, 0.2, 0.4),
    "brightness": (drawn["jitter"].factors[:, 0], 0.6, 1.4),
    "contrast": (drawn["jitter"].factors[:, 1], 0.7, 1.3),
    "saturation": (drawn["jitter"].factors[:, 2], 0.8, 1.2),
    "hue": (drawn["jitter"].factors[:, 3], -0.1, 0.1),
  }
  for name, (values, low, high) in uniform.items():
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    expected = low + (high - low) * np.array([0, 0.25, 0.5, 0.75, 1])
    error = np.abs(quantiles - expected).max()
    assert error < 0.03 * (high - low), name
  orders = np.asarray(drawn["jitter"].order)
  np.testing.assert_array_equal(np.sort(orders, 1), [range(4)] * 6000)
  _, counts = np.unique(orders, axis=0, return_counts=True)
  assert len(counts) == 24 and counts.min() > 180 and counts.max() < 330
  # Operations are independent of each other.
  together = np.stack(
    [
      drawn["flip"].applied,
      drawn["jitter"].applied,
      drawn["grayscale"].applied,
      drawn["blur"].applied,
      drawn["solarize"].applied,
      drawn["rotation"].turns > 0,
      drawn["crop"].box[:, 2],
      drawn["jitter"].factors[:, 0],
    ]
  ).astype(float)
  correlation = np.corrcoef(together) - np.eye(len(together))
  assert np.abs(correlation).max() < 0.06


def test_jitter_orders():
  _, sizes = canvases()
  key = jax.random.key(0)
  batch = sample(key, busy_policy(jitter_order="batch"), sizes)["jitter"].order
  assert (batch == batch[:1]).all()
  policy = busy_policy(jitter_order="batch")
  several = [
    np.asarray(sample(jax.random.key(seed), policy, sizes)["jitter"].order[0])
    for seed in range(8)
  ]
  several = {tuple(order) for order in several}
  assert len(several) > 3
  fixed = sample(key, busy_policy(jitter_order="fixed"), sizes)["jitter"].order
  np.testing.assert_array_equal(fixed, [[0, 1, 2, 3]] * 16)
  image = sample(key, busy_policy(), sizes)["jitter"].order
  assert (image != image[:1]).any()


def test_share_takes_the_named_operations_only():
  """LooC's rule: one operation as in the query, the rest fresh."""
  images, sizes = canvases()
  policy = busy_policy()
  query = sample(jax.random.key(0), policy, sizes)
  fresh = sample(jax.random.key(1), policy, sizes)
  mixed = augment.share(fresh, query, ("jitter", "grayscale"))
  for name in augment.OPERATIONS:
    source = query if name in ("jitter", "grayscale") else fresh
    chex.assert_trees_all_equal(mixed[name], source[name])
  pixels, color_diff = apply(mixed, images, sizes, policy)
  ours = describe(mixed, color_diff, sizes, policy)
  for source, names in (
    (query, ("color", "grayscale")),
    (fresh, ("crop", "flip", "blur", "rotation", "solarize")),
  ):
    theirs = describe(source, color_diff, sizes, policy)
    for name in names:
      np.testing.assert_array_equal(ours[name], theirs[name])
  with pytest.raises(errors.UserError, match="operation 'color'"):
    augment.share(fresh, query, ("color",))


def test_describe_every_field():
  """Hand-computed values, one applied and one not."""
  policy = augment.ViewPolicy(
    image_size=16, jitter_strength=(0.4, 0.5, 0.2, 0.1)
  )
  yes = jnp.asarray([True, False])
  parameters = neutral_parameters(2) | dict(
    crop=Crop(jnp.asarray([[10, 20, 50, 100]] * 2)),
    flip=Flip(yes),
    jitter=Jitter(
      yes,
      jnp.asarray([[1.2, 0.5, 1.1, -0.05]] * 2),
      jnp.asarray([[0, 1, 2, 3]] * 2),
    ),
    grayscale=Grayscale(yes),
    blur=Blur(yes, jnp.asarray([1.5, 1.5])),
    solarize=Solarize(yes, jnp.asarray([0.25, 0.25])),
    rotation=Rotation(jnp.asarray([3, 0])),
  )
  color_diff = jnp.asarray([[0.1, 0.2, -0.3], [0.0, 0.0, 0.0]])
  sizes = jnp.asarray([[100, 200]] * 2)
  actual = augment.describe(parameters, color_diff, sizes, policy)
  expected = {
    "blur": [[1.5], [0]],
    "color": [[0.25, -0.5, 0.25, -0.25], [0, 0, 0, 0]],
    "color_diff": [[0.1, 0.2, -0.3], [0, 0, 0]],
    "crop": [[0.35, 1 - 0.35, 0.5, 0.5], [0.35, 0.35, 0.5, 0.5]],
    "flip": [[1], [0]],
    "grayscale": [[1], [0]],
    "rotation": [[0, 0, 0, 1], [1, 0, 0, 0]],
    "solarize": [[0.25], [1]],
  }
  assert set(actual) == set(omega.FIELDS) > set(expected)
  for name, value in expected.items():
    assert actual[name].dtype == jnp.float32
    np.testing.assert_allclose(actual[name], value, atol=1e-6, err_msg=name)


def test_hue_only_policy_has_no_division_by_zero():
  policy = busy_policy(jitter=1.0, jitter_strength=(0.0, 0.0, 0.0, 0.1))
  _, sizes = canvases()
  drawn = sample(jax.random.key(0), policy, sizes)
  actual = describe(drawn, jnp.zeros((16, 3)), sizes, policy)["color"]
  np.testing.assert_array_equal(actual[:, :3], 0)
  assert np.isfinite(actual).all() and np.abs(actual[:, 3]).max() > 0.1


def test_omega_tells_what_happened_to_the_pixels():
  """grayscale makes channels equal; color_diff is measured on the view."""
  images, sizes = canvases()
  key = jax.random.key(0)
  unit = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
  kept = ("crop", "flip", "jitter", "grayscale")
  off = {name: 0.0 for name in augment.OPERATIONS if name not in kept}
  policy = busy_policy(**unit, **off)
  drawn = sample(key, policy, sizes)
  pixels, color_diff = apply(drawn, images, sizes, policy)
  spread = np.ptp(pixels, axis=-1).max((1, 2))
  np.testing.assert_array_equal(spread < 1e-6, drawn["grayscale"].applied)
  never = jnp.zeros(16, bool)
  colored = drawn | {"grayscale": Grayscale(never)}
  still = colored | {"jitter": drawn["jitter"]._replace(applied=never)}
  after, _ = apply(colored, images, sizes, policy)
  before, nothing = apply(still, images, sizes, policy)
  change = before.mean((1, 2)) - after.mean((1, 2))
  np.testing.assert_allclose(color_diff, change, atol=1e-5)
  np.testing.assert_array_equal(nothing, 0)


def test_second_call_does_not_trace_again():
  images, sizes = canvases()
  count = 0

  @jax.jit
  def step(key, images, sizes):
    nonlocal count
    count += 1
    policy = busy_policy(jitter=0.0)
    return augment.views(key, images, sizes, (policy,))

  step(jax.random.key(0), images, sizes)
  step(jax.random.key(1), images, sizes)
  assert count == 1


def test_views_of_a_rectangular_policy():
  images, sizes = canvases(batch=4)
  policy = busy_policy(image_size=(12, 20), rotation=0.0, jitter=0.0)
  for form in FORMS:
    image, described = views(
      jax.random.key(0), images, sizes, (policy,), form=form
    )[0]
    assert image.shape == (4, 12, 20, 3)
    assert set(described) == set(omega.FIELDS)


def test_every_crop_tells_its_own_box():
  """Crops of two sizes, read back: red is the row and green the column.

  A crop's mean colour is then its centre, and the slope its extent, whatever
  the size that it is drawn at.
  """
  size = 128
  ramp = (np.arange(size, dtype=np.float32) + 0.5) / size
  rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
  image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1)
  images = jnp.asarray(np.broadcast_to(image, (6, *image.shape)))
  policies = augment.build(
    preset="swav",
    image_size=32,
    local_views=2,
    flip=(0.0, 0.5, 1.0),
    jitter=0.0,
    grayscale=0.0,
    blur=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
  )
  made = views(jax.random.key(3), images, augment.full_sizes(images), policies)
  assert [view.image.shape[1] for view in made] == [32, 32, 16, 16]
  for view, policy in zip(made, policies, strict=True):
    y, x, height, width = np.asarray(view.omega["crop"]).T
    flip = np.asarray(view.omega["flip"])[:, 0]
    pixels = np.asarray(view.image)
    np.testing.assert_allclose(pixels[..., 0].mean((1, 2)), y, atol=2e-2)
    column = pixels[..., 1].mean((1, 2))
    mirrored = np.where(flip > 0, 1 - column, column)
    np.testing.assert_allclose(mirrored, x, atol=2e-2)
    side = policy.image_size[0]
    # The middle half, which no border smooths.
    slope = pixels[:, side * 3 // 4] - pixels[:, side // 4]
    np.testing.assert_allclose(2 * slope[..., 0].mean(1), height, atol=2e-2)
    area, (low, high) = height * width, policy.crop_scale
    assert np.all((area > 0.8 * low) & (area < 1.2 * high))
  assert np.all(made[0].omega["flip"] == 0) and np.all(made[2].omega["flip"])
  boxes = [np.asarray(view.omega["crop"]) for view in made]
  assert not any(
    np.allclose(a, b) for i, a in enumerate(boxes) for b in boxes[:i]
  )
