"""IFM: a second contrastive loss whose features were made harder to tell apart.

Robinson et al. 2021, arXiv 2106.11230, section 4.1. Moving every unit-length
feature within a ball of radius epsilon against InfoNCE has a closed form: the
positive's similarity loses epsilon, every negative's gains it.
"""

import functools

import jax
import jax.numpy as jnp

from cassle_jax.awareness.interface import Awareness
from cassle_jax.errors import UserError
from cassle_jax.methods import contrast
from cassle_jax.methods.interface import Method


def criterion(
  similarities: jax.Array,
  labels: jax.Array,
  temperature: float,
  *,
  epsilon: float = 0.1,
  alpha: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """(l + alpha l_eps) / (1 + alpha), a criterion of `methods.interface`.

  Args:
    similarities: [n, m] float32 cosines; -inf where a column is barred.
    labels: [n] int32, the column of each row's positive.
    temperature: positive divisor.
    epsilon: size of the shift, in units of the similarities.
    alpha: weight of the shifted loss.

  Returns:
    The mean loss, and the accuracy of the similarities as they are.
  """
  columns = jnp.arange(similarities.shape[1])
  positive = labels[:, None] == columns[None]
  shifted = similarities + jnp.where(positive, -epsilon, epsilon)
  plain, accuracy = contrast.softmax_loss(similarities, labels, temperature)
  harder, _ = contrast.softmax_loss(shifted, labels, temperature)
  return (plain + alpha * harder) / (1 + alpha), accuracy


def refuses(method: Method) -> str | None:
  """Why IFM does not go with a method; None where it does."""
  if method.contrastive is not None:
    return None
  return (
    "IFM moves the similarities of positives and negatives, and this loss has"
    " no negatives"
  )


def adapt(method: Method, *, epsilon: float, alpha: float) -> Method:
  """The method with IFM's criterion in place of its own.

  Raises:
    UserError: the method has no negatives.
  """
  why = refuses(method)
  if why is not None:
    raise UserError(f"ifm does not go with {method.name}: {why}.")
  shifted = functools.partial(criterion, epsilon=epsilon, alpha=alpha)
  return method._replace(loss=functools.partial(method.loss, criterion=shifted))


def build(*, epsilon: float = 0.1, alpha: float = 1.0) -> Awareness:
  """IFM; the paper tries epsilon 0.05, 0.1 and 0.2 and finds 0.1 best.

  Args:
    epsilon: how far similarities are shifted, before the temperature.
    alpha: weight of the shifted loss beside the plain one.

  Raises:
    UserError: a value is negative.
  """
  for name, value in (("epsilon", epsilon), ("alpha", alpha)):
    if not value >= 0:
      raise UserError(
        f"awareness.{name}={value} must not be negative; the published value"
        f" is {dict(epsilon=0.1, alpha=1.0)[name]}."
      )
  return Awareness(
    name="ifm", adapt=functools.partial(adapt, epsilon=epsilon, alpha=alpha)
  )
