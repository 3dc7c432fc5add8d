"""The command `convert`: anybody's weights to a run, and back.

`command` knows the directions; each is a module with a `main`.
"""

from cassle_jax.convert.command import main

__all__ = ["main"]
