"""What happens to each view of a batch, drawn: replayable parameters.

What happens to image i depends on the key, on i and on that picture's size
alone, never on the batch around it or on how it is sharded.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cassle_jax import errors
from cassle_jax.augment import draws as draws_lib
from cassle_jax.augment.operations import OPERATIONS
from cassle_jax.augment.policy import ViewPolicy

# Operation -> what was drawn for it: a NamedTuple of arrays `[B, ...]`, e.g.
# {"blur": Blur(applied, sigma), ...}; see the files of `operations`.
Parameters = dict[str, Any]

# Folded into a key in place of an image's index for draws per batch.
_WHOLE_BATCH = 2**31 - 1


def sample(key: jax.Array, policy: ViewPolicy, sizes: jax.Array) -> Parameters:
  """Draws what will happen to each image of a batch.

  Args:
    key: PRNG key of this view and step.
    policy: what may happen.
    sizes: `[B, 2]` int32, true (height, width) of each picture.

  Returns:
    {operation: its parameters, with leading dimension B}. Each operation takes
    numbers of its own: changing how one is drawn leaves the others' draws
    alone.
  """
  index = jnp.arange(sizes.shape[0], dtype=jnp.uint32)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
  batch_draw = jax.random.uniform(jax.random.fold_in(key, _WHOLE_BATCH))
  common = [record for record in OPERATIONS.values() if record.common_stream]

  def one(key, size):
    stream = jax.random.uniform(key, (sum(record.draws for record in common),))
    place, drawn = 0, {}
    for name, record in OPERATIONS.items():
      settings = policy[name]
      if record.common_stream:
        draws = stream[place : place + record.draws]
        place += record.draws
      elif settings.on:
        own = draws_lib.of_name(key, name)
        draws = jax.random.uniform(own, (record.draws,))
      else:
        draws = jnp.zeros((record.draws,))
      drawn[name] = record.draw(draws, settings, size, batch_draw)
    return drawn

  return jax.vmap(one)(keys, sizes)


def share(
  parameters: Parameters, other: Parameters, names: Sequence[str]
) -> Parameters:
  """Takes the parameters of the named operations from another draw.

  Args:
    parameters: the draw to change.
    other: the draw to take from, for the same batch.
    names: operations.

  Returns:
    New parameters: `other`'s for `names`, the rest as they were.

  Raises:
    UserError: a name is no operation.
  """
  for name in names:
    if name not in OPERATIONS:
      raise errors.unknown("operation", name, OPERATIONS)
  return parameters | {name: other[name] for name in names}
