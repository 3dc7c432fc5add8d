"""`python -m cassle_jax.report DIR [DIR ...] --out=OUT`: see `reporting`."""

from cassle_jax import cli
from cassle_jax.reporting.command import main

if __name__ == "__main__":
  cli.run(main)
