"""`python -m cassle_jax.report`; see `report.command`."""

from cassle_jax.config import cli
from cassle_jax.report.command import main

if __name__ == "__main__":
  cli.run(main)
