"""Evaluation of frozen features: a protocol a file, arrays in, numbers out."""

from cassle_jax.evaluation import features, knn, linear, online

__all__ = ["features", "knn", "linear", "online"]
