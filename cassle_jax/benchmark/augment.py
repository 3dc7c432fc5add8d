"""How long the augmentations take: two views with omega of every image.

  python -m cassle_jax.benchmark augment
  python -m cassle_jax.benchmark augment --compare=kornia --json=augment.json
  python -m cassle_jax.benchmark augment --config=configs/mocov3_vit.py

CPU time is that of all threads; both figures are the best of several rounds,
divided by the number of views. Stages are differences between programs that do
one operation more each, so small ones may drown in noise.
"""

import functools
from collections.abc import Sequence

from cassle_jax import errors
from cassle_jax.benchmark import common
from cassle_jax.config import cli


def main(arguments: Sequence[str]) -> int:
  """Two views with omega a batch; the share of each stage; kornia beside."""
  flags = cli.parser("cassle_jax.benchmark augment", __doc__)
  cli.add_config(flags, required=False)
  flags.add_argument("--compare", choices=["kornia"], help="time this beside")
  flags.add_argument("--json", metavar="FILE", help="write the numbers here")
  flags.add_argument("--batch", type=int, default=64, help="images (64)")
  flags.add_argument("--preset", default="cassle", help="cassle")
  flags.add_argument("--image_size", type=int, default=224, help="224")
  flags.add_argument(
    "--canvas_size", type=int, help="of the pictures, 8/7 of the image size"
  )
  flags.add_argument("--dtype", help="of the views, float32")
  flags.add_argument(
    "--form", default="auto", help="auto (by platform), dense or banded"
  )
  flags.add_argument("--rounds", type=int, default=5, help="5")
  values, overrides = cli.parse(flags, arguments)
  common.check_counts(batch=values.batch, rounds=values.rounds)
  if values.json is not None:
    cli.check_output("--json", values.json)

  from cassle_jax.augment import OPERATIONS, build, forms

  batch, image_size = values.batch, values.image_size
  canvas, dtype = -(-image_size * 8 // 7), "float32"
  options = dict(preset=values.preset)
  if values.config:
    from cassle_jax import config as config_lib

    config = config_lib.load(values.config, overrides)
    options, dtype = dict(config.augment), config.precision
    image_size = config.data.image_size
    canvas = common.canvas_of(config)
  elif overrides:
    raise errors.UserError("--config.KEY=VALUE needs --config=FILE.")
  canvas = values.canvas_size or canvas
  options["dtype"] = dtype = values.dtype or dtype
  policies = build(image_size=image_size, **options)
  form = forms.resolve(values.form)

  # Stage by stage: everything off, then one operation more in each program.
  active = [
    name
    for name, record in OPERATIONS.items()
    if record.apply is not None and any(p[name].on for p in policies)
  ]
  plain = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
  steps = {"draws": None, "crop+flip": plain | dict.fromkeys(active, 0.0)}
  for done, name in enumerate(active, 1):
    steps[name] = plain | dict.fromkeys(active[done:], 0.0)
  steps["normalize"] = {}
  calls = {}
  for name, change in steps.items():
    if change is None:
      calls[name] = _draws_call(policies, batch, canvas)
    else:
      changed = build(image_size=image_size, **(options | change))
      calls[name] = _views_call(changed, batch, canvas, form)
  left_out = []
  if values.compare:
    compared, left_out = _kornia_calls(policies, batch, canvas)
    calls |= compared
  costs = common.best(calls, len(policies) * batch, values.rounds)

  total = costs["normalize"]
  result = {
    "command": "augment",
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
    **common.machine(),
  }
  print(
    f"{len(policies)} views of {batch} images, {canvas} -> {image_size} px,"
    f" preset {options['preset']}, {dtype}, form {form}\n"
    f"{result['device']} ({result['processor']}, {result['cores']} cores),"
    f" best of {values.rounds} rounds\n"
  )
  print(f"{'per view':<14}{'CPU ms':>9}{'wall ms':>9}{'share':>8}")
  before = common.Cost(0.0, 0.0)
  for name in steps:
    cpu = max(costs[name].cpu - before.cpu, 0.0)
    wall = max(costs[name].wall - before.wall, 0.0)
    share = cpu / total.cpu if result["backend"] == "cpu" else wall / total.wall
    print(f"  {name:<12}{cpu:>9.3f}{wall:>9.3f}{share:>8.0%}")
    result["stages"][name] = {"cpu_ms": cpu, "wall_ms": wall, "share": share}
    before = costs[name]
  print(f"{'all':<14}{total.cpu:>9.3f}{total.wall:>9.3f}{'100%':>8}")
  if values.compare:
    others = {n: costs[n] for n in costs if n.startswith("kornia")}
    for name, cost in others.items():
      print(f"{name:<14}{cost.cpu:>9.3f}{cost.wall:>9.3f}")
    other = min(others.values())
    ratio = total.cpu / other.cpu
    version = result["versions"].get("kornia", "")
    print(
      f"\n{ratio:.2f} of the CPU time of kornia {version} on one thread;"
      " kornia/16 runs it in slices of 16 images, the lower one counts."
    )
    if left_out:
      print(f"kornia was not asked for: {', '.join(left_out)}.")
    result["kornia"] = {
      "cpu_ms_per_view": other.cpu,
      "wall_ms_per_view": other.wall,
      "cpu_ratio": ratio,
      "left_out": left_out,
    }
  if values.json:
    common.write(values.json, result)
  return 0


def _draws_call(policies, batch, canvas):
  import jax
  import jax.numpy as jnp

  from cassle_jax.augment import sample

  sizes = jnp.full((batch, 2), canvas, jnp.int32)
  run = jax.jit(lambda key: [sample(key, p, sizes) for p in policies])
  key = jax.random.key(0)
  return lambda: jax.block_until_ready(run(key))


def _views_call(policies, batch, canvas, form):
  import jax
  import jax.numpy as jnp

  from cassle_jax.augment import full_sizes, views

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
  from cassle_jax.benchmark import kornia_views

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
