"""A backbone as one compiled program: StableHLO by `jax.export`.

The file is code, as a compiled program is: whoever loads it trusts who made it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cassle_jax.convert.states import Export
from cassle_jax.errors import UserError
from cassle_jax.evaluation import features
from cassle_jax.training.trained import Trained

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
_TOLERANCE = 1e-5


def stablehlo(run: Trained, image_size: int) -> tuple[bytes, Export]:
  """The program: pictures [b, s, s, 3] uint8 -> features [b, d] float32.

  b is left open, normalisation and weights are inside, and it runs on any of
  PLATFORMS.

  Args:
    run: from `trained.open_run`; AI's backbone is told the awareness's own
      descriptor.
    image_size: s.

  Raises:
    UserError: the package flatbuffers is not there, or the program's features
      are not the run's.
  """
  try:
    import flatbuffers  # noqa: F401
  except ImportError:
    raise UserError(
      "--format=stablehlo needs the package flatbuffers: pip install"
      " flatbuffers."
    ) from None
  from jax import export

  function = features_of(run)
  batch = export.symbolic_shape("b")
  shape = (*batch, image_size, image_size, 3)
  made = export.export(jax.jit(function), platforms=PLATFORMS)(
    jax.ShapeDtypeStruct(shape, jnp.uint8)
  )
  data = bytes(made.serialize())
  images = random_images(image_size)
  found = export.deserialize(bytearray(data)).call(images)
  check(found, function(images), _TOLERANCE, FILE)
  code = (
    "from jax import export\n\n"
    f'with open("FOLDER/{FILE}", "rb") as file:\n'
    "    backbone = export.deserialize(bytearray(file.read()))\n"
    f"features = backbone.call(pictures)  # [B, {image_size}, {image_size}, 3]"
    " uint8"
  )
  notes = (
    "Normalisation is inside: it takes pictures as they are, of any number.",
    f"Runs on {', '.join(PLATFORMS)}, with jax and flatbuffers alone.",
    "The file is a program: run none of somebody whom you do not trust.",
  )
  return data, Export(None, None, {}, code, notes, run.config.model.backbone)


def features_of(run: Trained) -> Any:
  """images [b, h, w, 3] uint8 -> features [b, d] float32; b may be symbolic."""
  backbone, policy = run.setup.networks.backbone, run.setup.policies[0]
  variables = jax.tree.map(np.asarray, run.variables["backbone"])
  told = {}
  if run.setup.awareness.evaluated is not None:
    told["descriptor"] = jnp.asarray(run.setup.awareness.evaluated, jnp.float32)

  def function(images: jax.Array) -> jax.Array:
    x = features.normalize(images, mean=policy.mean, std=policy.std)
    return backbone.apply(variables, x, train=False, **told)[0]

  return function


def random_images(image_size: int, count: int = 3) -> np.ndarray:
  """Pictures to compare programs on: [count, s, s, 3] uint8."""
  draw = np.random.default_rng(0)
  shape = (count, image_size, image_size, 3)
  return draw.integers(0, 256, shape, dtype=np.uint8)


def check(found: Any, expected: Any, tolerance: float, name: str) -> float:
  """The difference relative to the largest feature.

  Raises:
    UserError: it is above the tolerance, so that the file must not be kept.
  """
  found, expected = (np.asarray(x, np.float64) for x in (found, expected))
  if found.shape != expected.shape:
    raise UserError(
      f"{name} gives features of shape {found.shape}, the run"
      f" {expected.shape}; it is not written."
    )
  scale = max(float(np.max(np.abs(expected))), 1e-12)
  error = float(np.max(np.abs(found - expected))) / scale
  if not error <= tolerance:
    raise UserError(
      f"{name} gives other features than the run (by {error:.1e} of the"
      f" largest, above {tolerance:g}); it is not written."
    )
  return error
