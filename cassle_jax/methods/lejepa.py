"""LeJEPA: views agree, and their projections are an isotropic Gaussian's.

Balestriero and LeCun 2025, arXiv 2511.08544; the form of its authors' minimal
code. SIGReg is sketched isotropic Gaussian regularisation. There is no teacher,
no predictor, no stop-gradient and no schedule.
"""

import functools

import jax
import jax.numpy as jnp

from cassle_jax.methods import contrast
from cassle_jax.methods.interface import (
  Branch,
  Heads,
  Memory,
  Method,
  Metrics,
  check_numbers,
)

# Where the characteristic functions are compared: from 0 to here, the other
# half being its mirror image.
_LAST_KNOT = 3.0


def sigreg(z: jax.Array, directions: jax.Array, *, knots: int) -> jax.Array:
  """How far the rows are from a standard normal distribution.

  Epps and Pulley's statistic along each direction: the squared distance of the
  empirical characteristic function mean_n exp(i t x_n) from the normal one's,
  exp(-t^2 / 2), weighted by the latter and integrated over t by the trapezoid
  rule, times the number of rows.

  Args:
    z: [N, K] projections of one view of the global batch.
    directions: [M, K] unit-length rows.
    knots: number of points of the integral, at least 2.

  Returns:
    The mean over the directions, scalar float32, not negative.
  """
  x = contrast.similarity(z.astype(jnp.float32), directions)
  t = jnp.linspace(0, _LAST_KNOT, knots)
  normal = jnp.exp(-jnp.square(t) / 2)
  weights = normal * jnp.full(knots, 2.0).at[jnp.array([0, -1])].set(1.0)
  weights *= _LAST_KNOT / (knots - 1)
  angles = x[:, :, None] * t[None, None]
  real = jnp.mean(jnp.cos(angles), axis=0) - normal[None]
  imaginary = jnp.mean(jnp.sin(angles), axis=0)
  distances = jnp.square(real) + jnp.square(imaginary)
  return z.shape[0] * jnp.mean(jnp.sum(distances * weights[None], axis=1))


def loss(
  key: jax.Array,
  online: Branch,
  target: Branch,
  memory: Memory,
  *,
  sigreg_weight: float,
  directions: int,
  knots: int,
  global_views: int,
) -> tuple[jax.Array, Metrics]:
  """(1 - weight) invariance + weight SIGReg, each the mean over all views.

  Invariance is the mean squared difference from the centre, the mean of the
  global views. The directions are drawn anew in each step, and are the same for
  all views and on all devices.
  """
  del target, memory
  z = jnp.stack(online.projections).astype(jnp.float32)
  center = jnp.mean(z[:global_views], axis=0, keepdims=True)
  invariance = jnp.mean(jnp.square(center - z))
  rows = contrast.normalize(jax.random.normal(key, (directions, z.shape[-1])))
  statistics = [sigreg(view, rows, knots=knots) for view in z]
  spread = sum(statistics) / len(statistics)
  value = (1 - sigreg_weight) * invariance + sigreg_weight * spread
  return value, {"invariance": invariance, "sigreg": spread}


def build(
  *,
  sigreg_weight: float = 0.02,
  directions: int = 1024,
  knots: int = 17,
  global_views: int = 2,
) -> Method:
  """LeJEPA.

  Args:
    sigreg_weight: of SIGReg, in [0, 1]; the paper's lambda. The invariance has
      the rest.
    directions: number of random directions in each step.
    knots: number of points of the integral.
    global_views: number of views, from the first, whose mean is the centre.
  """
  check_numbers(
    sigreg_weight=sigreg_weight,
    directions=directions,
    knots=knots,
    global_views=global_views,
  )
  return Method(
    name="lejepa",
    heads=Heads(projector=(2048, 2048, 128)),
    loss=functools.partial(
      loss,
      sigreg_weight=sigreg_weight,
      directions=directions,
      knots=knots,
      global_views=global_views,
    ),
    online_views=None,
    global_views=global_views,
    joint_views=True,
  )
