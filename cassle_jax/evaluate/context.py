"""A network, the data sets beside it, and what all tasks compute but once."""

import copy
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cassle_jax.data import content, downstream
from cassle_jax.evaluate import representations
from cassle_jax.evaluate.subject import Subject
from cassle_jax.runs import feature_cache

# Of the pictures that measurements of pairs look at.
_PICTURES = 0x91C5


class Context:
  """What the tasks of one evaluation share."""

  def __init__(
    self,
    subject: Subject,
    workdir: str,
    *,
    data_dir: str = "",
    image_size: int = 0,
    dtype: str = "float32",
    seed: int = 0,
    learning: Mapping[str, Any] = {},
  ):
    """Binds a network to a folder of data sets.

    Args:
      subject: the network.
      workdir: where results are kept, and a run's features: its folder.
      data_dir: the folder of the data sets.
      image_size: side in pixels that pictures are evaluated at; 0 = as trained.
      dtype: that features are kept in, "float32" or "bfloat16".
      seed: of splits and of every task's draws.
      learning: settings of `representations.descriptor`.
    """
    self.subject, self.workdir, self.seed = subject, workdir, seed
    self.data_dir, self.dtype = data_dir, dtype
    self.image_size = image_size or subject.policy.image_size[0]
    self.learning = learning
    self.representation = representations.BACKBONE
    self.opened = functools.cache(
      lambda name: downstream.open_set(name, data_dir)
    )
    self.pixels = functools.cache(
      lambda name: content.digest(self.opened(name), times=True)
    )
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

  def splits(self, name: str) -> downstream.Splits:
    """Train, validation and test pictures of a set."""
    return downstream.splits(
      name, self.data_dir, self.seed, opened=self.opened(name)
    )

  def _features(self, name: str) -> feature_cache.Features:
    """Features of a set, from a run's folder if they were extracted."""
    opened = self.opened(name)
    told = self.descriptor(name)
    label = name
    if self.representation != representations.BACKBONE:
      label = "-".join([name, self.representation, *map(str, told or ())])
    if self.subject.network != "online":
      label += f"-{self.subject.network}"
    path = None
    if self.subject.run is not None:
      path = feature_cache.path_of(
        self.workdir,
        self.subject.step,
        label,
        self.image_size,
        self.dtype,
        precision=self.subject.precision,
      )
    return feature_cache.cached(
      path,
      self.subject.extract(self.representation, told),
      lambda: downstream.rows(opened, self.image_size),
      downstream.answers_of(opened),
      dtype=self.dtype,
      key=content.mark(self._network(), self.pixels(name).encode()),
    )

  def _network(self) -> bytes:
    run = self.subject.run
    return b"" if run is None else run.mark.encode()

  def source(self, name: str) -> dict[str, Any]:
    """What a result on a set is made from, for `results.current`.

    Returns:
      Marks of the "checkpoint" and of the "data", its order and labels too.
    """
    answers = downstream.answers_of(self.opened(name))
    marks = (self.pixels(name).encode(), answers)
    return {
      "checkpoint": self._network().decode(),
      "data": content.mark(*marks),
    }

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
    images, labels = zip(
      *downstream.batches(self.opened(name), self.image_size, indices=places),
      strict=True,
    )
    return np.concatenate(images), np.concatenate(labels)
