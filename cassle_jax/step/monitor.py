"""Signs of collapse, cheap enough for every step."""

import jax
import jax.numpy as jnp

from cassle_jax.methods.contrast import normalize


def effective_rank(x: jax.Array) -> jax.Array:
  """Participation ratio of the covariance's eigenvalues.

  (sum l)^2 / sum l^2 over the eigenvalues l of the covariance, from traces
  of Gram matrices alone: 1 when all rows lie on a line, d when the variance
  is spread evenly over d directions.

  Args:
    x: [B, d] array, rows are samples.

  Returns:
    Scalar float32 in [1, min(B - 1, d)]; 0 when all rows are equal.
  """
  x = x.astype(jnp.float32)
  x = x - jnp.mean(x, axis=0, keepdims=True)
  gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
  total, squares = jnp.trace(gram), jnp.sum(jnp.square(gram))
  return jnp.square(total) / jnp.maximum(squares, 1e-30)


def collapse(
  x: jax.Array, name: str, *, rows: int = 256
) -> dict[str, jax.Array]:
  """Spread and effective rank of one view's embeddings.

  Args:
    x: [B, d] embeddings of the global batch.
    name: prefix of the returned keys.
    rows: how many rows enter the effective rank, which bounds its cost. Of a
      batch of a multiple of them they are spread over it, the same number on
      each device; of another they are the first.

  Returns:
    {name}_std, the standard deviation of the unit-length embeddings times
    sqrt(d) (1 for isotropic ones, 0 after a collapse; Chen & He 2021, arXiv
    2011.10566, figure 2), and {name}_rank.
  """
  x = jax.lax.stop_gradient(x)
  if x.shape[0] % rows == 0:
    # The first rows would all lie on the first devices, and move.
    some = x.reshape(rows, -1, x.shape[1])[:, 0]
  else:
    some = x[:rows]
  spread = jnp.mean(jnp.std(normalize(x), axis=0))
  return {
    f"{name}_std": spread * jnp.sqrt(jnp.float32(x.shape[1])),
    f"{name}_rank": effective_rank(some),
  }
