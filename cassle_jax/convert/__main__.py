"""`python -m cassle_jax.convert`; see `convert.command`."""

from cassle_jax.config import cli
from cassle_jax.convert.command import main

if __name__ == "__main__":
  cli.run(main)
