"""`python -m cassle_jax.benchmark`; see the package's docstring."""

from cassle_jax import benchmark
from cassle_jax.config import cli

if __name__ == "__main__":
  cli.run(benchmark.main)
