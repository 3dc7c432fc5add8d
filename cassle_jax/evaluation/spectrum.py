"""The spectrum of features: how many dimensions a representation uses.

PCA eigenvalues; the exponent of their decay, alpha-ReQ (Agrawal et al. 2022,
arXiv 2202.05808); RankMe (Garrido et al. 2023, arXiv 2210.02885). All in
float64 on the host.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from cassle_jax.errors import UserError
from cassle_jax.evaluation import scores

# Components of the fit, counted from 0: ranks 6 to 50.
FIRST, LAST = 5, 50
# The component after the last one for which the fit is judged.
FIT_END = 100


class PowerLaw(NamedTuple):
  """eigenvalue of rank n = scale * n ** -alpha.

  Attributes:
    alpha: the exponent; nan where fewer than two components can be fitted.
    scale: the factor; nan likewise.
    r2: coefficient of determination of the logarithms up to component FIT_END,
      beyond the fit; from the fit's second component on, as the published code
      has it; nan likewise.
  """

  alpha: float
  scale: float
  r2: float


class Spectrum(NamedTuple):
  """What a spectrum reports.

  Attributes:
    eigenvalues: [min(N, d)] float64 of the covariance, falling, divided by
      their sum.
    power_law: the fit of alpha-ReQ.
    rank_me: effective rank, in [1, min(N, d)].
  """

  eigenvalues: np.ndarray
  power_law: PowerLaw
  rank_me: float


def measure(features: np.ndarray) -> Spectrum:
  """Measures the spectrum of features.

  Args:
    features: [N, d], N >= 2; used as they are, without normalisation.

  Raises:
    UserError: fewer than two images, or features that are all the same.
  """
  features = np.asarray(features, np.float64)
  if len(features) < 2:
    raise UserError(
      f"a spectrum needs the features of at least 2 images, got"
      f" {len(features)}."
    )
  variances = _squares(features - np.mean(features, axis=0)[None])
  total = np.sum(variances)
  if total == 0:
    raise UserError(
      "the features of all images are the same: this network has collapsed and"
      " has no spectrum."
    )
  eigenvalues = variances / total
  return Spectrum(eigenvalues, power_law(eigenvalues), rank_me(features))


def power_law(eigenvalues: np.ndarray) -> PowerLaw:
  """Fits a line to the logarithms of eigenvalues and ranks.

  Least squares in which rank n weighs 1 / n: each octave counts about the same.

  Args:
    eigenvalues: [n] falling, not negative; zeros at the end are left out.
  """
  positive = eigenvalues[eigenvalues > 0]
  x = np.log(np.arange(1, len(positive) + 1))
  y = np.log(positive)
  fitted = slice(FIRST, LAST)
  if len(y[fitted]) < 2:
    return PowerLaw(np.nan, np.nan, np.nan)
  # polyfit squares its weights.
  line = np.polyfit(x[fitted], y[fitted], 1, w=np.exp(-x[fitted] / 2))
  shown = slice(FIRST + 1, FIT_END)
  r2 = scores.r2(y[shown], np.polyval(line, x[shown]))
  return PowerLaw(float(-line[0]), float(np.exp(line[1])), float(r2))


def rank_me(features: np.ndarray) -> float:
  """exp of the entropy of the singular values of [N, d] over their sum.

  The features are not centred, as in the paper; zero singular values are left
  out, where the paper adds 1e-7 to each.
  """
  singular = np.sqrt(_squares(np.asarray(features, np.float64)))
  share = singular / np.maximum(np.sum(singular), 1e-300)
  return float(np.exp(np.sum(special.entr(share))))


def _squares(matrix: np.ndarray) -> np.ndarray:
  """Squared singular values of [N, d], falling: [min(N, d)].

  From the smaller Gram matrix, which is much quicker than a decomposition of
  the features; what is below its rounding error is 0.
  """
  rows, columns = matrix.shape
  gram = matrix.T @ matrix if columns <= rows else matrix @ matrix.T
  values = np.linalg.eigvalsh(gram)[::-1]
  floor = len(values) * np.finfo(np.float64).eps * max(values[0], 0.0)
  return np.where(values > floor, values, 0.0)
