"""Evaluation of frozen features: a protocol a file, arrays in, numbers out."""

from cassle_jax.evaluation import (
  confidence,
  cross_entropy,
  descriptor,
  features,
  knn,
  linear,
  logistic,
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
  "cross_entropy",
  "descriptor",
  "features",
  "knn",
  "linear",
  "logistic",
  "online",
  "pairs",
  "probe",
  "retrieval",
  "sensitivity",
  "spectrum",
  "strength",
  "wrong_omega",
]
