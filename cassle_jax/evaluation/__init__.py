"""Evaluation of frozen features: a protocol a file, arrays in, numbers out."""

from cassle_jax.evaluation import knn, linear

__all__ = ["knn", "linear"]
