"""Every task on every data set that is there.

  python -m cassle_jax.evaluate --config=configs/eval/all.py --workdir=runs/a
  python -m cassle_jax.evaluate --config=configs/eval/all.py --workdir=runs/a \\
      --config.data_dir=/data --config.image_size=224

The bundled tiles are always there. What the others are, from whom and where
they belong: --config.datasets=NAME says it for one that is missing.

Hardware: minutes on two CPU cores for a run of the quick start.
"""

from cassle_jax.evaluate import config


def get_config():
  """Defaults: all tasks, all data sets, the published protocols."""
  return config.default()
