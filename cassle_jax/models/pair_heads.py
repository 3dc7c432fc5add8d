"""Heads that predict how two views' augmentations differ, from their features.

Source: AugSelf (Lee et al., arXiv 2111.09613, section 3).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.models.mlp import MLP


class PairHeads(nn.Module):
  """One MLP per field of omega over the features of a pair of views.

  Each head has hidden layers of Linear, BatchNorm and ReLU and a last Linear
  with a bias. Its parameters are named by its field.

  Attributes:
    outputs: (field, number of outputs) of each head, e.g. ("color", 4).
    hidden: sizes of the hidden layers.
    dtype: compute type; the outputs are float32.
  """

  outputs: tuple[tuple[str, int], ...]
  hidden: tuple[int, ...] = (512, 512)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, first: jax.Array, second: jax.Array, *, train: bool
  ) -> dict[str, jax.Array]:
    """Predicts from both orders of a pair.

    Args:
      first: [B, d] features of the first views.
      second: [B, d] features of the second views.
      train: whether BatchNorm uses and updates the batch's statistics, which
        are those of all 2B rows.

    Returns:
      {field: [2B, n] float32}: rows 2b and 2b + 1 are of [first ; second] and
      of [second ; first] of pair b, so that a pair stays on its device.
    """
    forward = jnp.concatenate([first, second], axis=-1)
    backward = jnp.concatenate([second, first], axis=-1)
    pairs = jnp.stack([forward, backward], axis=1)
    pairs = pairs.reshape(-1, pairs.shape[-1])
    return {
      field: MLP((*self.hidden, size), dtype=self.dtype, name=field)(
        pairs, train=train
      )
      for field, size in self.outputs
    }
