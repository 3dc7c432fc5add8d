"""The conditioned projector: a head that is told how its view was augmented.

Source: Przewiezlikowski et al., arXiv 2306.06082, section 3.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cassle_jax.errors import UserError, unknown
from cassle_jax.models.mlp import ACTIVATIONS, MLP, NORMS
from cassle_jax.models.norm import BatchNorm

CONDITIONINGS = (
  "none",
  "concat",
  "concat_raw",
  "add",
  "multiply",
  "hypernetwork",
  "random",
)


class ConditionedProjector(nn.Module):
  """A projector pi over backbone features e that also sees omega.

  `conditioning` says what it computes:

  - none: pi(e); has no gamma parameters and ignores omega
  - concat: pi([e ; gamma(omega)])
  - concat_raw: pi([e ; omega])
  - add, multiply: pi(e + gamma(omega)), pi(e * gamma(omega))
  - hypernetwork: pi(e) with every weight emitted by an MLP over omega
  - random: pi([e ; noise]), noise ~ N(0, 1) of gamma's shape: a control

  gamma has `gamma_depth` Linear layers without biases, each but the last
  followed by BatchNorm and ReLU, the last by BatchNorm only. It always computes
  in float32 and asks for the highest precision, or TPUs and recent GPUs would
  round its inputs: it costs nothing, and bfloat16 would round a crop's position
  to 1/256 of the image. The network that emits a hypernetwork's weights is such
  a one. gamma_depth=0 stands for gamma(omega) = omega.

  Parameters are in `gamma` and `mlp`; of a hypernetwork in `hypernetwork`, with
  `hypernetwork_norm` in `bn0`, `bn1`, ... and with `norm` in `last_bn`. The
  output of pi's first hidden layer is sown as "hidden", as an MLP's: in `mlp`,
  or of a hypernetwork at the top.

  Attributes:
    widths: sizes of pi's hidden layers and output.
    conditioning: how pi is told omega, one of the words above.
    norm: BatchNorm after the last Linear: "none", "plain" or "affine".
    last_bias: bias of the last Linear, emitted or not; None = iff norm is
      "none".
    hidden_norm: BatchNorm in pi's hidden layers; of a hypernetwork they have
      one iff hypernetwork_norm.
    activation: of pi's hidden layers, "relu" or "gelu".
    gamma_depth: number of Linear layers of gamma, or of the hypernetwork.
    gamma_width: their width; the last one's is the backbone's feature size for
      "add" and "multiply" and the number of emitted weights for "hypernetwork".
    hypernetwork_norm: BatchNorm between the emitted layers; impossible without
      hidden_norm.
    bn_groups: sub-batches of every BatchNorm.
    dtype: compute type of pi; the output is float32.
  """

  widths: tuple[int, ...]
  conditioning: str = "concat"
  norm: str = "none"
  last_bias: bool | None = None
  hidden_norm: bool = True
  activation: str = "relu"
  gamma_depth: int = 6
  gamma_width: int = 64
  hypernetwork_norm: bool = False
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  def check(self, features: int, omega_size: int) -> None:
    """Checks the settings for features of this size and a packed omega.

    Raises:
      UserError: unknown conditioning, norm or activation; settings that
        contradict each other; sizes that cannot be joined. Settings have the
        names of the config section `model`.
    """
    kind = self.conditioning
    for name, value, valid in (
      ("conditioning", kind, CONDITIONINGS),
      ("projector_norm", self.norm, NORMS),
      ("projector_activation", self.activation, ACTIVATIONS),
    ):
      if value not in valid:
        raise unknown(f"model.{name}", value, valid)
    if self.gamma_depth < 0:
      raise UserError(
        f"gamma_depth={self.gamma_depth} must be 0 (omega as it is) or more."
      )
    if kind == "hypernetwork" and self.gamma_depth == 0:
      raise UserError(
        "gamma_depth=0 leaves no hypernetwork: use 1 or more layers."
      )
    if self.hypernetwork_norm and kind != "hypernetwork":
      raise UserError(
        "model.hypernetwork_norm=True goes with"
        f" model.conditioning='hypernetwork' alone, not with {kind!r}; set"
        " --config.model.hypernetwork_norm=False."
      )
    if self.hypernetwork_norm and not self.hidden_norm:
      raise UserError(
        "hypernetwork_norm=True puts BatchNorm in a projector that is to have"
        " none (projector_hidden_norm=False): set one of them the other way."
      )
    if kind not in ("none", "random") and omega_size < 1:
      raise UserError(
        f"conditioning {kind!r} needs at least one omega field; use 'none' for"
        " a projector without omega."
      )
    raw = self.gamma_depth == 0 and kind in ("add", "multiply")
    if raw and omega_size != features:
      raise UserError(
        f"gamma_depth=0 joins omega as it is, but {kind!r} needs {features}"
        f" numbers and omega has {omega_size}: use gamma_depth >= 1."
      )

  @property
  def emits_last_bias(self) -> bool:
    """Whether a hypernetwork emits the last layer's bias."""
    return self.norm == "none" if self.last_bias is None else self.last_bias

  @nn.compact
  def __call__(
    self, features: jax.Array, omega: jax.Array, *, train: bool
  ) -> jax.Array:
    """Projects features [B, d] given packed omega [B, k] to [B, out] float32.

    "random" draws from the "conditioning" stream: pass
    rngs={"conditioning": key} to apply.

    Raises:
      UserError: as `check`.
    """
    self.check(features.shape[-1], omega.shape[-1])
    if self.conditioning == "hypernetwork":
      return self._emitted(features, omega, train)
    size = features.shape[-1]
    if self.conditioning == "concat":
      joined = _join(features, self._gamma(omega, self.gamma_width, train))
    elif self.conditioning == "concat_raw":
      joined = _join(features, omega)
    elif self.conditioning == "random":
      key = self.make_rng("conditioning")
      shape = (len(features), self.gamma_width)
      joined = _join(features, jax.random.normal(key, shape))
    elif self.conditioning == "add":
      joined = features + self._gamma(omega, size, train)
    elif self.conditioning == "multiply":
      joined = features * self._gamma(omega, size, train)
    else:
      joined = features
    return MLP(
      self.widths,
      norm=self.norm,
      last_bias=self.last_bias,
      hidden_norm=self.hidden_norm,
      activation=self.activation,
      bn_groups=self.bn_groups,
      dtype=self.dtype,
      name="mlp",
    )(joined, train=train)

  def _gamma(
    self, omega: jax.Array, size: int, train: bool, name: str = "gamma"
  ) -> jax.Array:
    """Describes omega [B, k] in `size` numbers, [B, size] float32."""
    if self.gamma_depth == 0:
      return omega.astype(jnp.float32)
    widths = (self.gamma_width,) * (self.gamma_depth - 1) + (size,)
    gamma = MLP(
      widths,
      norm="affine",
      bn_groups=self.bn_groups,
      precision=jax.lax.Precision.HIGHEST,
      name=name,
    )
    return gamma(omega, train=train)

  def _emitted(
    self, features: jax.Array, omega: jax.Array, train: bool
  ) -> jax.Array:
    """Applies to each example the layers that the hypernetwork emits for it.

    The emitted vector holds, layer by layer, the kernel [in, out] and the bias
    (see `last_bias` for that of the last layer).
    Memory is B times the number of pi's weights: for small heads only.
    """
    sizes = (features.shape[-1], *self.widths)
    layers = list(zip(sizes[:-1], sizes[1:], strict=True))
    last_bias = self.emits_last_bias
    total = emitted_size(sizes, last_bias)
    emitted = self._gamma(omega, total, train, name="hypernetwork")
    emitted = emitted.astype(self.dtype)
    x = features.astype(self.dtype)
    start = 0
    for i, (fan_in, out) in enumerate(layers):
      stop = start + fan_in * out
      kernel = emitted[:, start:stop].reshape(-1, fan_in, out)
      x = jnp.einsum("bi,bio->bo", x, kernel)
      last = i == len(layers) - 1
      if not last or last_bias:
        x = x + emitted[:, stop : stop + out]
      start = stop + out
      if not last:
        if self.hypernetwork_norm:
          norm = BatchNorm(groups=self.bn_groups, name=f"bn{i}")
          x = norm(x, train=train)
        x = ACTIVATIONS[self.activation](x)
      if i == 0 and not last:
        self.sow("intermediates", "hidden", x)
    if self.norm != "none":
      affine = self.norm == "affine"
      norm = BatchNorm(groups=self.bn_groups, affine=affine, name="last_bn")
      x = norm(x, train=train)
    return x.astype(jnp.float32)


def emitted_size(sizes: Sequence[int], last_bias: bool) -> int:
  """Numbers that a hypernetwork emits for one example.

  Args:
    sizes: of the features, the hidden layers and the output.
    last_bias: whether the last layer has a bias; the others have.
  """
  layers = zip(sizes[:-1], sizes[1:], strict=True)
  total = sum((fan_in + 1) * out for fan_in, out in layers)
  return total if last_bias else total - sizes[-1]


def _join(features: jax.Array, other: jax.Array) -> jax.Array:
  return jnp.concatenate([features, other.astype(features.dtype)], axis=-1)
