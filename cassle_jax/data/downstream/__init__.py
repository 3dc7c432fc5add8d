"""The data sets of the evaluation suite, as their owners distribute them.

`table.DATASETS` says what each one is, how large, whose, and where it lies;
readers sit in a file per layout. Nothing is downloaded here.
"""

from cassle_jax.data.downstream.opening import (
  answers_of,
  available,
  batches,
  open_set,
  rows,
)
from cassle_jax.data.downstream.row import Row
from cassle_jax.data.downstream.splitting import Splits, splits
from cassle_jax.data.downstream.table import DATASETS

__all__ = [
  "DATASETS",
  "Row",
  "Splits",
  "answers_of",
  "available",
  "batches",
  "open_set",
  "rows",
  "splits",
]
