"""Evaluation of frozen features: a protocol a file, arrays in, numbers out."""

from cassle_jax.evaluation import (
  confidence,
  descriptor,
  features,
  knn,
  linear,
  online,
  pairs,
  probe,
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
  "knn",
  "linear",
  "online",
  "pairs",
  "probe",
  "retrieval",
  "sensitivity",
  "spectrum",
  "strength",
  "wrong_omega",
]
