"""Measures this machine: how long the parts of a training step take.

  python -m cassle_jax.benchmark augment
  python -m cassle_jax.benchmark augment --compare=kornia --json=augment.json
  python -m cassle_jax.benchmark augment --config=configs/mocov3_vit.py

`augment` makes two views with omega of every image of a batch. CPU time is
that of all threads; both figures are the best of several rounds, divided by
the number of views. Stages are differences between programs that do one
operation more each, so small ones may drown in noise.
"""

import functools
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cassle_jax import cli, errors


class Cost(NamedTuple):
  """Milliseconds per item: of CPU time over all threads, and of wall time."""

  cpu: float
  wall: float


def best(
  calls: dict[str, Callable[[], Any]], items: int, rounds: int
) -> dict[str, Cost]:
  """Times calls side by side: each once a round, the best round counts.

  Args:
    calls: name -> function that returns when its work is done; called once
      before the clock starts.
    items: by how many the times are divided.
    rounds: how often each is timed.
  """
  for call in calls.values():
    call()
  costs = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      cpu, wall = time.process_time(), time.perf_counter()
      call()
      cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
      costs[name].append((cpu, wall))
  return {
    name: Cost(*(1e3 * min(times) / items for times in zip(*cost, strict=True)))
    for name, cost in costs.items()
  }


def machine() -> dict[str, Any]:
  """What the numbers were measured on."""
  import jax

  from cassle_jax import logs

  return {
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "backend": jax.default_backend(),
    "processor": _processor(),
    "cores": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
    "versions": logs.versions(("jax", "jaxlib", "torch", "kornia")),
  }


def _processor() -> str:
  try:
    with open("/proc/cpuinfo") as lines:
      names = [line for line in lines if line.startswith("model name")]
    return names[0].split(":")[1].strip()
  except (OSError, IndexError):
    return platform.processor() or platform.machine()


def augment(arguments: Sequence[str]) -> int:
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
  if values.batch < 1 or values.rounds < 1:
    raise errors.UserError("--batch and --rounds must be at least 1.")
  if values.json is not None:
    cli.check_output("--json", values.json)

  from cassle_jax.augment import build, forms

  batch, image_size = values.batch, values.image_size
  canvas, dtype = -(-image_size * 8 // 7), "float32"
  options = dict(preset=values.preset)
  if values.config:
    from cassle_jax import config as config_lib
    from cassle_jax import data

    config = config_lib.load(values.config, overrides)
    options, dtype = dict(config.augment), config.precision
    image_size = config.data.image_size
    canvas = config.data.canvas_size or data.canvas_rule(image_size)
    if config.data.source.startswith("bundled:"):
      # Pictures smaller than the rule's canvas keep their size.
      canvas = min(canvas, max(data.open_source(config.data.source).shape))
  elif overrides:
    raise errors.UserError("--config.KEY=VALUE needs --config=FILE.")
  canvas = values.canvas_size or canvas
  options["dtype"] = dtype = values.dtype or dtype
  policies = build(image_size=image_size, **options)
  form = forms.resolve(values.form)

  # Stage by stage: everything off, then one operation more in each program.
  names = ("jitter", "grayscale", "blur", "solarize", "rotation")
  active = [n for n in names if any(getattr(p, n) > 0 for p in policies)]
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
  if values.compare:
    calls |= _kornia_calls(policies, batch, canvas)
  costs = best(calls, len(policies) * batch, values.rounds)

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
    **machine(),
  }
  print(
    f"{len(policies)} views of {batch} images, {canvas} -> {image_size} px,"
    f" preset {options['preset']}, {dtype}, form {form}\n"
    f"{result['device']} ({result['processor']}, {result['cores']} cores),"
    f" best of {values.rounds} rounds\n"
  )
  print(f"{'per view':<14}{'CPU ms':>9}{'wall ms':>9}{'share':>8}")
  before = Cost(0.0, 0.0)
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
    result["kornia"] = {
      "cpu_ms_per_view": other.cpu,
      "wall_ms_per_view": other.wall,
      "cpu_ratio": ratio,
    }
  if values.json:
    try:
      with open(values.json, "w") as stream:
        json.dump(result, stream, indent=2)
        stream.write("\n")
    except OSError as error:
      raise cli.unwritable("--json", values.json, error) from error
  return 0


def _images(batch: int, canvas: int):
  """Coloured blobs with grain, `[batch, canvas, canvas, 3]` uint8."""
  import numpy as np

  rng = np.random.default_rng(0)
  coarse = rng.uniform(0, 255, (batch, 8, 8, 3))
  cell = -(-canvas // 8)
  blobs = coarse.repeat(cell, 1).repeat(cell, 2)[:, :canvas, :canvas]
  grain = rng.normal(0, 12, blobs.shape)
  return np.clip(blobs + grain, 0, 255).astype(np.uint8)


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

  images = jnp.asarray(_images(batch, canvas))
  sizes = full_sizes(images)
  run = jax.jit(functools.partial(views, policies=policies, form=form))
  key = jax.random.key(0)
  return lambda: jax.block_until_ready(run(key, images, sizes))


def _kornia_calls(policies, batch, canvas):
  """The same operations by kornia, on planes of floats made beforehand.

  Always the choice that costs it less CPU time: its default crop, which does
  not antialias; blend saturation; one thread, because waiting threads spin;
  and the batch whole or in slices that stay in cache, whichever is faster.
  """
  try:
    import kornia.augmentation as kornia
    import torch
  except ImportError as error:
    raise errors.UserError(
      f"--compare=kornia needs torch and kornia ({error}):"
      " pip install 'cassle_jax[peers]'."
    ) from error

  def pipeline(policy):
    parts = [
      kornia.RandomResizedCrop(
        policy.image_size, scale=policy.crop_scale, ratio=policy.crop_ratio
      ),
      kornia.RandomHorizontalFlip(p=policy.flip),
      kornia.ColorJitter(*policy.jitter_strength, p=policy.jitter),
      kornia.RandomGrayscale(p=policy.grayscale),
    ]
    if policy.blur > 0:
      kernel = (policy.blur_kernel, policy.blur_kernel)
      parts.append(
        kornia.RandomGaussianBlur(kernel, policy.blur_sigma, p=policy.blur)
      )
    if policy.solarize > 0:
      threshold = policy.solarize_interval
      parts.append(
        kornia.RandomSolarize(threshold, (0.0, 0.0), p=policy.solarize)
      )
    mean, std = torch.tensor(policy.mean), torch.tensor(policy.std)
    parts.append(kornia.Normalize(mean, std))
    return torch.nn.Sequential(*parts)

  pipelines = [pipeline(policy) for policy in policies]
  images = torch.from_numpy(_images(batch, canvas))
  images = images.permute(0, 3, 1, 2).contiguous().float() / 255

  torch.set_num_threads(1)

  def run(slice_size):
    with torch.inference_mode():
      for part in images.split(slice_size):
        for made in pipelines:
          made(part)

  return {
    "kornia": functools.partial(run, batch),
    "kornia/16": functools.partial(run, 16),
  }


COMMANDS = {"augment": augment}


def main(arguments: Sequence[str]) -> int:
  """Runs the benchmark named by the first argument."""
  name = arguments[0] if arguments else "--help"
  if name in ("--help", "-h"):
    flags = cli.parser("cassle_jax.benchmark", __doc__)
    flags.add_argument("command", choices=sorted(COMMANDS))
    flags.print_help()
    return 0
  if name not in COMMANDS:
    raise errors.UserError(
      f"{errors.unknown('benchmark', name, COMMANDS)} Its flags:"
      f" python -m cassle_jax.benchmark {min(COMMANDS)} --help."
    )
  return COMMANDS[name](arguments[1:])


if __name__ == "__main__":
  cli.run(main)
