"""`python -m cassle_jax.embed`; see `embed.command`."""

from cassle_jax.config import cli
from cassle_jax.embed.command import main

if __name__ == "__main__":
  cli.run(main)
