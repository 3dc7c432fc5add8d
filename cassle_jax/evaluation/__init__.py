"""Evaluation of frozen features: a protocol a file, arrays in, numbers out."""

from cassle_jax.evaluation import (
  confidence,
  descriptor,
  features,
  few_shot,
  knn,
  linear,
  online,
  pairs,
  probe,
  regression,
  retrieval,
  sensitivity,
  spectrum,
  strength,
  wrong_omega,
)

__all__ = [
  "confidence",
  "descriptor",
  "features",
  "few_shot",
  "knn",
  "linear",
  "online",
  "pairs",
  "probe",
  "regression",
  "retrieval",
  "sensitivity",
  "spectrum",
  "strength",
  "wrong_omega",
]
