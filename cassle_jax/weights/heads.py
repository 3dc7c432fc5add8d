"""Projectors, predictors and prototypes of other projects.

What a torch Sequential of Linear, BatchNorm and activation holds is told from
its names and shapes; it becomes sizes in a config and arrays under the names of
`torch_names`.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cassle_jax.errors import UserError

State = dict[str, np.ndarray]


class Layers(NamedTuple):
  """A Sequential, as `models.MLP` makes it.

  Attributes:
    widths: sizes of the hidden layers and the output.
    inputs: size of what goes in.
    norm: after the last Linear: "none", "plain" or "affine".
    last_bias: of the last Linear.
    hidden_norm: BatchNorm in the hidden layers.
    state: our names -> arrays.
  """

  widths: tuple[int, ...]
  inputs: int
  norm: str
  last_bias: bool
  hidden_norm: bool
  state: State


def sequential(given: Mapping[str, np.ndarray]) -> Layers | None:
  """Reads a Sequential; None where it is no such stack.

  The bias of a Linear before a BatchNorm, which ours leaves out, is taken from
  the running mean: the output in evaluation stays the same, and in training it
  made no difference.

  Args:
    given: "0.weight", "1.running_mean", ... -> arrays; "weight" alone is a
      single Linear.
  """
  given = {
    name: x.astype(np.float32)
    for name, x in given.items()
    if not name.endswith("num_batches_tracked")
  }
  if "weight" in given:
    given = {f"0.{name}": x for name, x in given.items()}
  modules: dict[int, State] = {}
  for name, x in given.items():
    match = re.fullmatch(r"(\d+)\.(weight|bias|running_mean|running_var)", name)
    if not match:
      return None
    modules.setdefault(int(match[1]), {})[match[2]] = x
  order = sorted(modules)
  linear = [
    i
    for i in order
    if "weight" in modules[i]
    and modules[i]["weight"].ndim == 2
    and "running_mean" not in modules[i]
  ]
  norms = [i for i in order if "running_mean" in modules[i]]
  after = [i for i in linear if i + 1 in norms]
  if not linear or set(order) != set(linear) | {i + 1 for i in after}:
    return None
  hidden, last = linear[:-1], linear[-1]
  normed = [i in after for i in hidden]
  if any(normed) and not all(normed):
    return None
  hidden_norm = not hidden or all(normed)
  state: State = {}
  # Places as `torch_names` counts them: with a norm, three to a layer.
  stride = 3 if (hidden and hidden_norm) or not hidden and last in after else 2
  if last in after and stride == 2:
    return None
  for place, i in enumerate(linear):
    own = dict(modules[i])
    norm = dict(modules[i + 1]) if i in after else {}
    if i != last and norm and "weight" not in norm:
      return None  # Hidden norms here have a scale.
    if i != last and norm and "bias" in own:
      norm["running_mean"] = norm["running_mean"] - own.pop("bias")
    if i != last and not norm:
      own.setdefault("bias", np.zeros(len(own["weight"]), np.float32))
    names = {f"{place * stride}.{k}": x for k, x in own.items()}
    names |= {f"{place * stride + 1}.{k}": x for k, x in norm.items()}
    state |= names
  norm = "none"
  if last in after:
    norm = "affine" if "weight" in modules[last + 1] else "plain"
  return Layers(
    widths=tuple(len(modules[i]["weight"]) for i in linear),
    inputs=modules[linear[0]]["weight"].shape[1],
    norm=norm,
    last_bias="bias" in modules[last],
    hidden_norm=hidden_norm,
    state=state,
  )


def prototypes(given: Mapping[str, np.ndarray]) -> tuple[State, bool] | None:
  """Prototypes [count, k], and whether they are weight-normed as DINO's.

  DINO's gains must be 1: ours have none.
  """
  if set(given) == {"weight"} and given["weight"].ndim == 2:
    return {"weight": given["weight"].astype(np.float32)}, False
  gain, direction = given.get("weight_g"), given.get("weight_v")
  if direction is None or set(given) - {"weight_g", "weight_v"}:
    return None
  if gain is not None and not np.allclose(gain, 1):
    return None
  return {"weight": direction.astype(np.float32)}, True


class Conditioned(NamedTuple):
  """A projector with what tells it omega.

  Attributes:
    options: of the config section `model`.
    state: our names -> arrays.
    omega_size: numbers of omega that it takes; 0 = it is told none.
  """

  options: dict[str, object]
  state: State
  omega_size: int


def conditioned(
  given: Mapping[str, np.ndarray],
  features: int,
  *,
  conditioning: str | None = None,
) -> Conditioned | None:
  """Reads a projector; None where it is none that there is here.

  Hypernetworks are not read: the sizes of what they emit are not in them.

  Args:
    given: names behind the projector's prefix -> arrays: "0.weight", ..., or
      "projector.0.weight" and perhaps "aug_processor.0.weight".
    features: size of the backbone's output.
    conditioning: "add" or "multiply", which look the same.

  Raises:
    UserError: it is one of these two, and which is not said.
  """
  inner = {k: x for k, x in given.items() if k.startswith("projector.")}
  told = {k: x for k, x in given.items() if k.startswith("aug_processor.")}
  if len(inner) + len(told) != len(given):
    inner, told = given, {}
  strip = lambda part: {k.partition(".")[2]: x for k, x in part.items()}  # noqa: E731
  plain = inner is given and not told
  layers = sequential(given if plain else strip(inner))
  gamma = sequential(strip(told)) if told else None
  if layers is None or (told and gamma is None):
    return None
  options = {
    "projector": layers.widths,
    "projector_norm": layers.norm,
    "projector_bias": layers.last_bias,
    "projector_hidden_norm": layers.hidden_norm,
  }
  state = {f"projector.{k}": x for k, x in layers.state.items()}
  extra = layers.inputs - features
  if gamma is None:
    if extra < 0:
      return None
    options["conditioning"] = "concat_raw" if extra else "none"
    return Conditioned(options, state, extra)
  width = gamma.widths[-1]
  if gamma.norm != "affine" or len(set(gamma.widths[:-1])) > 1:
    return None
  kinds = [] if extra else ["add", "multiply"]
  if extra == width:
    kinds = ["concat"]
  if not kinds or (not extra and width != features):
    return None
  if len(kinds) > 1 and conditioning not in kinds:
    raise UserError(
      "this projector adds or multiplies what it is told, and both look the"
      " same; give --conditioning=add or --conditioning=multiply."
    )
  options["conditioning"] = kinds[0] if len(kinds) == 1 else conditioning
  options["gamma_depth"] = len(gamma.widths)
  options["gamma_width"] = gamma.widths[0]
  last = f"{3 * (len(gamma.widths) - 1)}.bias"
  folded = dict(gamma.state)
  if last in folded:
    mean = f"{3 * (len(gamma.widths) - 1) + 1}.running_mean"
    folded[mean] = folded[mean] - folded.pop(last)
  state |= {f"aug_processor.{k}": x for k, x in folded.items()}
  return Conditioned(options, state, gamma.inputs)
