"""Evaluation of frozen features: a protocol a file, arrays in, numbers out."""

from cassle_jax.evaluation import descriptor, features, knn, linear, online

__all__ = ["descriptor", "features", "knn", "linear", "online"]
