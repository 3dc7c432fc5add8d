"""Linear evaluation, the columns of the paper's table 1, and k-NN.

  python -m cassle_jax.evaluate --config=configs/eval/linear.py \\
      --workdir=runs/a --config.data_dir=/data

45 weights of the regularisation, the best on validation pictures, a last fit on
train and validation together, one look at the test pictures. On a CPU the fits
may be in float64, --config.linear.dtype=float64; each result says for every
weight whether its fit converged. 300-W is a regression of landmarks, always in
float32 and with its own limit of steps: dtype and max_steps have no effect
there, and its result has for every weight "gap", how far above the minimum the
fit may be.

Hardware: any; features are extracted once and kept in the run's folder.
Published numbers: `cassle_jax.runs.published`, and beside yours in the report.
"""

from cassle_jax.evaluate import config as evaluation_config


def get_config():
  """The data sets of table 1 that are there, and the bundled one."""
  config = evaluation_config.default()
  config.tasks = ("linear", "knn")
  return config
