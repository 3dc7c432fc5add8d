"""The command `embed`: features of any pictures by a run's backbone.

`pictures` opens what is to be read, `parts` keeps what is computed so that a
start after a kill goes on, `tables` are the files that come out; `layout` puts
features on a plane, `page` and `picture` draw them.
"""

from cassle_jax.embed.command import main

__all__ = ["main"]
