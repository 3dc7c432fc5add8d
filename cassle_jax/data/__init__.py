"""Sources of images, batches for training, labeled images for evaluation.

NumPy and Pillow only; Grain and TFDS are imported when a set needs them, and
TensorFlow never.
"""

from cassle_jax.data.canvas import rule as canvas_rule
from cassle_jax.data.decode import CorruptImage
from cassle_jax.data.folder import FolderSource
from cassle_jax.data.labeled import (
  labeled_batches,
  labeled_images,
  labeled_splits,
  views,
)
from cassle_jax.data.order import Order, permutation
from cassle_jax.data.pipeline import Pipeline, build
from cassle_jax.data.source import ArraySource, Source
from cassle_jax.data.sources import open_source, split_names

__all__ = [
  "ArraySource",
  "CorruptImage",
  "FolderSource",
  "Order",
  "Pipeline",
  "Source",
  "build",
  "canvas_rule",
  "labeled_batches",
  "labeled_images",
  "labeled_splits",
  "open_source",
  "permutation",
  "split_names",
  "views",
]
