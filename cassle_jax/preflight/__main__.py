"""`python -m cassle_jax.preflight`; see the package's docstring."""

from cassle_jax import preflight
from cassle_jax.config import cli

if __name__ == "__main__":
  cli.run(preflight.main)
