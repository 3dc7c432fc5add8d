"""CASSLE in JAX: projectors that are told how each view was augmented.

Importing this package loads nothing heavy; import the part that you need:
`cassle_jax.augment`, `cassle_jax.models`, `cassle_jax.methods`,
`cassle_jax.step`, `cassle_jax.evaluation`.
"""

__version__ = "0.1.0"
