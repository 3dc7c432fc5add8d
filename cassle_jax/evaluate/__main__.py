"""`python -m cassle_jax.evaluate`; see `evaluate.command`."""

from cassle_jax.config import cli
from cassle_jax.evaluate.command import main

if __name__ == "__main__":
  cli.run(main)
