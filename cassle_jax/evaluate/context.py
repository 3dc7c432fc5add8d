"""A run, the data sets beside it, and what is computed of them only once."""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from cassle_jax.data import downstream
from cassle_jax.evaluate import representations
from cassle_jax.evaluation import sensitivity
from cassle_jax.runs import feature_cache
from cassle_jax.training import trained
from cassle_jax.training.trained import Trained

# Of the pictures that measurements of pairs look at.
_PICTURES = 0x91C5


class Context:
  """What the tasks of one evaluation share."""

  def __init__(
    self,
    run: Trained,
    workdir: str,
    *,
    data_dir: str = "",
    image_size: int = 0,
    dtype: str = "float32",
    seed: int = 0,
    learning: Mapping[str, Any] = {},
  ):
    """Binds a run to a folder of data sets.

    Args:
      run: from `trained.open_run`.
      workdir: the run's folder, where features and results are kept.
      data_dir: the folder of the data sets.
      image_size: side in pixels that pictures are evaluated at; 0 = as trained.
      dtype: that features are kept in, "float32" or "bfloat16".
      seed: of splits and of every task's draws.
      learning: settings of `representations.descriptor`.
    """
    self.run, self.workdir, self.seed = run, workdir, seed
    self.data_dir, self.dtype = data_dir, dtype
    self.image_size = image_size or run.config.data.image_size
    self.learning = learning
    self.representation = representations.BACKBONE
    self.opened = functools.cache(self._opened)
    self.features = functools.cache(self._features)
    self.descriptor = functools.cache(self._descriptor)

  def of(self, representation: str) -> "Context":
    """The same, with features of another of `representations.NAMES`."""
    other = copy.copy(self)
    other.representation = representation
    other.features = functools.cache(other._features)
    other.descriptor = functools.cache(other._descriptor)
    return other

  @property
  def key(self) -> jax.Array:
    """The root of every task's randomness."""
    return jax.random.key(self.seed)

  def _opened(self, name: str) -> Any:
    """The whole set, as `downstream.open_set` opens it."""
    return downstream.open_set(name, self.data_dir)

  def splits(self, name: str) -> downstream.Splits:
    """Train, validation and test pictures of a set."""
    return downstream.splits(
      name, self.data_dir, self.seed, opened=self.opened(name)
    )

  def _features(self, name: str) -> feature_cache.Features:
    """Features of a set, from the run's folder if they were extracted."""
    opened = self.opened(name)
    told = self.descriptor(name)
    label = name
    if self.representation != representations.BACKBONE:
      label = "-".join([name, self.representation, *map(str, told or ())])
    path = feature_cache.path_of(
      self.workdir,
      self.run.step,
      label,
      self.image_size,
      self.dtype,
      precision=self.run.config.precision,
    )
    return feature_cache.cached(
      path,
      representations.extractor(self.run, self.representation, told),
      lambda: downstream.rows(opened, self.image_size),
      downstream.answers_of(opened),
      dtype=self.dtype,
    )

  def _descriptor(self, name: str) -> tuple[float, ...] | None:
    """What the backbone is told when a set's features are learned."""
    if self.representation != representations.LEARNED:
      return None
    return representations.descriptor(self, name, **self.learning)

  def pictures(self, name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Some pictures of a set, drawn by the seed.

    Args:
      name: of the set.
      count: at most so many.

    Returns:
      [n, s, s, 3] uint8 and their labels [n] int32.
    """
    draw = np.random.default_rng((self.seed, _PICTURES))
    chosen = np.sort(draw.permutation(len(self.opened(name)))[:count])
    return self.read(name, chosen)

  def read(
    self, name: str, places: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a set by their places; those that cannot be read left out.

    Returns:
      [n, s, s, 3] uint8 and their labels [n] int32.
    """
    batches = list(
      downstream.batches(self.opened(name), self.image_size, indices=places)
    )
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)

  @functools.cached_property
  def encode(self) -> Any:
    """Jitted: normalised views [b, h, w, 3] -> features [b, d]."""
    return self._jitted(lambda run, images: trained.embed(run, images)[0])

  @functools.cached_property
  def blocks(self) -> Any:
    """Jitted: normalised views [b, h, w, 3] -> {block: [b, d]}."""
    return self._jitted(
      lambda run, images: sensitivity.pooled(*trained.embed(run, images))
    )

  @functools.cached_property
  def project(self) -> Any:
    """Jitted: (features [b, d], omega) -> projections [b, k]."""
    return self._jitted(trained.project)

  def _jitted(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """function(run, ...) for this run, its variables no constants."""

    @jax.jit
    def call(variables, *arrays):
      return function(self.run._replace(variables=variables), *arrays)

    return functools.partial(call, self.run.variables)
