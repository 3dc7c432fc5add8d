"""How long the augmentations take: two views with omega of every image.

  python -m cassle_jax.benchmark augment
  python -m cassle_jax.benchmark augment --compare=kornia --json=augment.json
  python -m cassle_jax.benchmark augment --config=configs/mocov3_vit.py

CPU time is that of all threads; both figures are the best of several rounds,
divided by the number of views. Stages are differences between programs that do
one operation more each, so small ones may drown in noise.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cassle_jax import config as config_lib
from cassle_jax.augment import (
  OPERATIONS,
  ViewPolicy,
  build,
  forms,
  full_sizes,
  sample,
  views,
)
from cassle_jax.benchmark import common, kornia_views
from cassle_jax.training import experiment

Policies = tuple[ViewPolicy, ...]


def main(arguments: Sequence[str]) -> int:
  """Two views with omega a batch; the share of each stage; kornia beside."""
  flags = common.parser("augment", __doc__, config=True, rounds=5)
  flags.add_argument("--compare", choices=["kornia"], help="time this beside")
  flags.add_argument("--batch", type=int, default=64, help="images (64)")
  flags.add_argument("--preset", default="cassle", help="cassle")
  flags.add_argument("--image_size", type=int, default=224, help="224")
  flags.add_argument(
    "--form", default="auto", help="auto (by platform), dense or banded"
  )
  values, overrides = common.parse(flags, arguments)

  batch, image_size = values.batch, values.image_size
  canvas, dtype = -(-image_size * 8 // 7), "float32"
  options = dict(preset=values.preset)
  if values.config:
    config = config_lib.load(values.config, overrides)
    options, dtype = dict(config.augment), config.precision
    image_size = config.data.image_size
    canvas = experiment.canvas_of(config)
  options["dtype"] = dtype
  policies = build(image_size=image_size, **options)
  form = forms.resolve(values.form)
  stages = {"draws": _draws_call(policies, batch, canvas)}
  for name, changed in _steps(policies).items():
    stages[name] = _views_call(changed, batch, canvas, form)
  others, left_out = {}, []
  if values.compare:
    others, left_out = _kornia_calls(policies, batch, canvas)
  times = common.best(stages | others, len(policies) * batch, values.rounds)

  total, on = times["normalize"], common.machine()
  result = {
    "preset": options["preset"],
    "image_size": image_size,
    "canvas_size": canvas,
    "batch": batch,
    "views": len(policies),
    "form": form,
    "dtype": dtype,
    "cpu_ms_per_view": total.cpu,
    "wall_ms_per_view": total.wall,
    "stages": {},
  }
  rows = [["per view", "CPU ms", "wall ms", "share"]]
  before = common.Cost(0.0, 0.0)
  for name in stages:
    cpu = max(times[name].cpu - before.cpu, 0.0)
    wall = max(times[name].wall - before.wall, 0.0)
    share = cpu / total.cpu if on["backend"] == "cpu" else wall / total.wall
    rows.append([f"  {name}", f"{cpu:.3f}", f"{wall:.3f}", f"{share:.0%}"])
    result["stages"][name] = {"cpu_ms": cpu, "wall_ms": wall, "share": share}
    before = times[name]
  for name in ("normalize", *others):
    cpu, wall = times[name]
    shown = "all" if name == "normalize" else name
    rows.append([shown, f"{cpu:.3f}", f"{wall:.3f}", ""])
  print(
    f"{len(policies)} views of {batch} images, {canvas} -> {image_size} px,"
    f" preset {options['preset']}, {dtype}, form {form}\n{common.place()},"
    f" best of {values.rounds} rounds\n\n{common.aligned(rows)}"
  )
  if others:
    other = min(times[name] for name in others)
    ratio = total.cpu / other.cpu
    print(
      f"\n{ratio:.2f} of the CPU time of kornia {on['versions'].get('kornia')}"
      " on one thread; kornia/16 runs it in slices of 16 images, the lower one"
      " counts."
    )
    if left_out:
      print(f"kornia was not asked for: {', '.join(left_out)}.")
    result["kornia"] = {
      "cpu_ms_per_view": other.cpu,
      "wall_ms_per_view": other.wall,
      "cpu_ratio": ratio,
      "left_out": left_out,
    }
  common.write(values, "augment", result)
  return 0


def _steps(policies: Policies) -> dict[str, Policies]:
  """Stage -> policies: everything off, then one operation more in each.

  What the crop's resampling does is the first stage, normalising the last.
  """
  records = OPERATIONS.values()
  first = "+".join(record.name for record in records if record.apply is None)
  active = [
    record.name
    for record in records
    if record.apply is not None and any(p[record.name].on for p in policies)
  ]

  def without(names: Sequence[str]) -> Policies:
    return tuple(
      dataclasses.replace(
        policy.with_settings(policy[name].switched(False) for name in names),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
      )
      for policy in policies
    )

  return {
    name: without(active[done:]) for done, name in enumerate([first, *active])
  } | {"normalize": policies}


def _draws_call(policies, batch, canvas) -> Callable[[], Any]:
  sizes = jnp.full((batch, 2), canvas, jnp.int32)
  run = jax.jit(lambda key: [sample(key, p, sizes) for p in policies])
  key = jax.random.key(0)
  return lambda: jax.block_until_ready(run(key))


def _views_call(policies, batch, canvas, form) -> Callable[[], Any]:
  images = jnp.asarray(common.images(batch, canvas))
  sizes = full_sizes(images)
  run = jax.jit(functools.partial(views, policies=policies, form=form))
  key = jax.random.key(0)
  return lambda: jax.block_until_ready(run(key, images, sizes))


def _kornia_calls(policies, batch, canvas):
  """The same operations by kornia, on planes of floats made beforehand.

  One thread, because waiting threads spin; and the batch whole or in slices
  that stay in cache, whichever costs it less CPU time.
  """
  pipelines, left_out = kornia_views.pipelines(
    policies, flag="--compare=kornia"
  )
  import torch

  images = torch.from_numpy(common.images(batch, canvas))
  images = images.permute(0, 3, 1, 2).contiguous().float() / 255

  torch.set_num_threads(1)

  def run(slice_size):
    with torch.inference_mode():
      for part in images.split(slice_size):
        for made in pipelines:
          made(part)

  calls = {
    "kornia": functools.partial(run, batch),
    "kornia/16": functools.partial(run, 16),
  }
  return calls, left_out
